//! What the routes under `/auth` share: everything that a login needs, and the answer that gives
//! its tokens. Which request needs what is the routes' matter.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use contract::domain::{Company, Email, ShortText, StaffRole, User};
use contract::{Id, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::authenticator::Authenticator;
use super::cookies::{Cookies, csrf_token};
use super::lockout::Lockout;
use super::passwords::Passwords;
use super::sessions::{Open, Sessions};
use super::signed_tokens::{Refresh, SignedTokens};
use crate::api::problem::Problem;
use crate::api::response::json;

/// What one gateway needs for logins.
pub struct LoginService {
    /// Issues access tokens.
    pub authenticator: Authenticator,
    /// Refresh tokens and invitations.
    pub signed_tokens: SignedTokens,
    pub passwords: Passwords,
    pub sessions: Sessions,
    pub lockout: Lockout,
    /// Set if refresh tokens come and go in cookies, and not in bodies.
    pub cookies: Option<Cookies>,
    /// `REFRESH_TOKEN_TTL`
    pub refresh_ttl: Duration,
    /// `FRONTEND_URL`, without the last slash.
    pub frontend_url: Option<String>,
}

/// A member of staff.
#[derive(Serialize, ToSchema)]
pub struct PublicUser {
    _id: Id,
    company_id: Id,
    email: Email,
    #[serde(rename = "fullName")]
    full_name: ShortText,
    role: StaffRole,
    created_at: Timestamp,
}

/// Leaves the password hash out.
impl From<User> for PublicUser {
    fn from(user: User) -> PublicUser {
        PublicUser {
            _id: user.id,
            company_id: user.company_id,
            email: user.email,
            full_name: user.full_name,
            role: user.role,
            created_at: user.created_at,
        }
    }
}

/// A login.
#[derive(Serialize, ToSchema)]
#[schema(as = LoggedIn)]
#[serde(rename_all = "camelCase")]
pub struct LoginResponse {
    message: &'static str,
    user: PublicUser,
    /// On registration of a new company.
    #[schema(required = false, value_type = Company)]
    #[serde(skip_serializing_if = "Option::is_none")]
    company: Option<Company>,
    access_token: String,
    /// Seconds that the access token is good.
    expires_in: u64,
    /// Good once; not in cookie mode.
    #[schema(required = false, value_type = String)]
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    /// Seconds that the refresh token is good.
    refresh_expires_in: u64,
    /// In cookie mode: to be sent as `X-CSRF-Token` with the cookie.
    #[schema(required = false, value_type = String)]
    #[serde(skip_serializing_if = "Option::is_none")]
    csrf_token: Option<String>,
}

/// A session that has been opened or goes on, to be answered with [`LoginService::answer`].
pub struct Login {
    pub status: StatusCode,
    pub message: &'static str,
    pub user: User,
    /// The company that begins with this login.
    pub company: Option<Company>,
    pub open: Open,
}

impl LoginService {
    /// Answers with the tokens of a session.
    ///
    /// # Errors
    /// [`Problem::Internal`] if a token cannot be signed.
    pub fn answer(&self, login: Login, now: Timestamp) -> Result<Response, Problem> {
        let Login {
            status,
            message,
            user,
            company,
            open,
        } = login;
        let (access_token, expires_in) = self.authenticator.issue(&user, open.session, now)?;
        let refresh = Refresh {
            user_id: user.id,
            company_id: user.company_id,
            sid: open.session,
            jti: open.token,
        };
        let refresh_token = self.signed_tokens.sign(refresh, self.refresh_ttl, now)?;
        let body = LoginResponse {
            message,
            user: user.into(),
            company,
            access_token,
            expires_in,
            refresh_token: None,
            refresh_expires_in: self.refresh_ttl.as_secs(),
            csrf_token: None,
        };
        let Some(cookies) = &self.cookies else {
            let refresh_token = Some(refresh_token);
            let body = LoginResponse {
                refresh_token,
                ..body
            };
            return Ok(json(status, body));
        };
        let csrf = csrf_token();
        let csrf_token = Some(csrf.clone());
        let mut response = json(status, LoginResponse { csrf_token, ..body });
        cookies.set(response.headers_mut(), &refresh_token, &csrf);
        Ok(response)
    }
}
