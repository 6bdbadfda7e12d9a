//! What the routes under `/auth` share: everything that it takes to let somebody in, and the answer
//! that does. Which request needs what is the routes' matter.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use contract::Timestamp;
use contract::domain::User;
use serde_json::{Map, Value, json};

use super::authenticator::Authenticator;
use super::cookies::{Cookies, csrf_token};
use super::lockout::Lockout;
use super::passwords::Passwords;
use super::sessions::{Open, Sessions};
use super::signed_tokens::{Refresh, SignedTokens};
use crate::api::problem::Problem;
use crate::api::response::json;

/// Of one gateway.
pub struct LoginService {
    /// Access tokens.
    pub authenticator: Authenticator,
    /// Refresh tokens and invitations.
    pub signed_tokens: SignedTokens,
    /// Password hashes.
    pub passwords: Passwords,
    /// Which refresh tokens are good.
    pub sessions: Sessions,
    /// Who has failed too often.
    pub lockout: Lockout,
    /// Set if refresh tokens come and go in cookies, and not in bodies.
    pub cookies: Option<Cookies>,
    /// `REFRESH_TOKEN_TTL`
    pub refresh_ttl: Duration,
    /// `FRONTEND_URL`, without the last slash.
    pub frontend_url: Option<String>,
}

impl LoginService {
    /// `body`, and the tokens of a session.
    ///
    /// # Errors
    /// None but a bug of ours.
    pub fn answer(
        &self,
        status: StatusCode,
        mut body: Map<String, Value>,
        user: &User,
        open: Open,
        now: Timestamp,
    ) -> Result<Response, Problem> {
        let (access, expires_in) = self.authenticator.issue(user, open.session, now)?;
        let refresh = Refresh {
            user_id: user.id,
            company_id: user.company_id,
            sid: open.session,
            jti: open.token,
        };
        let refresh = self.signed_tokens.sign(refresh, self.refresh_ttl, now)?;
        body.insert("accessToken".into(), json!(access));
        body.insert("expiresIn".into(), json!(expires_in));
        body.insert("refreshExpiresIn".into(), json!(self.refresh_ttl.as_secs()));
        let Some(cookies) = &self.cookies else {
            body.insert("refreshToken".into(), json!(refresh));
            return Ok(json(status, Value::Object(body)));
        };
        let csrf = csrf_token();
        body.insert("csrfToken".into(), json!(csrf));
        let mut response = json(status, Value::Object(body));
        cookies.set(response.headers_mut(), &refresh, &csrf);
        Ok(response)
    }
}
