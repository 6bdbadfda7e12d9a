//! The session of a socket: the user, the company and the expiry that its access token names.
//! Checks no token; see [`access_token`].

use std::time::Duration;

use contract::domain::StaffRole;
use contract::{Id, Timestamp};
use runtime::net::access_token::{self, Claims};

/// A login: the user, and the session that the login began.
pub type Login = (Id, Id);

/// The session that a valid token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The user, a member of staff.
    pub user: Id,
    /// The user's company, the only one whose events the socket gets.
    pub company: Id,
    /// The user's role.
    pub role: StaffRole,
    /// The login session from which the token comes; `None` for a token that was not issued at a
    /// login.
    pub session: Option<Id>,
    /// When the token expires, and the socket is closed.
    pub expires: Timestamp,
}

impl Session {
    /// The login, which has an entry in the bucket `sessions`.
    pub fn login(&self) -> Option<Login> {
        Some((self.user, self.session?))
    }

    /// The session, if its token has not expired since it was checked.
    ///
    /// # Errors
    /// The token has expired.
    pub fn at(self, now: Timestamp) -> Result<Session, BadToken> {
        match self.time_left(now).is_zero() {
            true => Err(access_token::BadToken::Expired.into()),
            false => Ok(self),
        }
    }

    /// How long the token is still valid; zero once it has expired.
    pub fn time_left(&self, now: Timestamp) -> Duration {
        self.expires.since(now)
    }
}

impl From<Claims> for Session {
    fn from(claims: Claims) -> Session {
        Session {
            user: claims.user_id,
            company: claims.company_id,
            role: claims.role,
            session: claims.sid,
            expires: claims.expires(),
        }
    }
}

/// Why a token opens no socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// There is no token. The text says where the client's transport takes one from.
    #[error("an access token is needed, {0}")]
    Missing(&'static str),
    /// The token does not pass the checks.
    #[error(transparent)]
    Refused(#[from] access_token::BadToken),
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn session(more: serde_json::Value) -> Session {
        let mut claims = json!({
            "userId": "d".repeat(24),
            "companyId": "a".repeat(24),
            "role": "manager",
            "iat": 1_699_999_000,
            "exp": 1_700_000_900,
        });
        let more = more.as_object().unwrap().clone();
        claims.as_object_mut().unwrap().extend(more);
        serde_json::from_value::<Claims>(claims).unwrap().into()
    }

    #[test]
    fn a_session_has_user_company_login_and_expiry_of_its_token() {
        let without_login = session(json!({}));
        assert_eq!(
            (
                without_login.user.to_string(),
                without_login.company.to_string()
            ),
            ("d".repeat(24), "a".repeat(24))
        );
        assert_eq!(
            (
                without_login.role,
                without_login.time_left(NOW),
                without_login.session,
                without_login.login()
            ),
            (StaffRole::Manager, Duration::from_secs(900), None, None)
        );
        let with_login = session(json!({"sid": "e".repeat(24)}));
        assert_eq!(
            with_login.session.map(|id| id.to_string()),
            Some("e".repeat(24))
        );
        assert_eq!(with_login.time_left(with_login.expires), Duration::ZERO);
        assert_eq!(with_login.at(NOW), Ok(with_login));
        assert_eq!(
            with_login.at(with_login.expires),
            Err(access_token::BadToken::Expired.into())
        );
    }
}
