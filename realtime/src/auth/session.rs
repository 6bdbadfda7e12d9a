//! What an access token says to a socket: who opens it, of which company, until when. Checks no
//! token; see [`access_token`].

use std::time::Duration;

use contract::domain::StaffRole;
use contract::{Id, Timestamp};
use runtime::net::access_token::{self, Claims};

/// A login: the user, and the session that the login began.
pub type Login = (Id, Id);

/// What a good token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The member of staff.
    pub user: Id,
    /// Their company, the only one whose events they get.
    pub company: Id,
    /// What they may do.
    pub role: StaffRole,
    /// The login that the token comes from. Tokens that others have signed have none.
    pub session: Option<Id>,
    /// When the token ends, and the socket with it.
    pub expires: Timestamp,
}

impl Session {
    /// The login, by its entry in the bucket `sessions`.
    pub fn login(&self) -> Option<Login> {
        Some((self.user, self.session?))
    }

    /// How long it is still good; zero once it has expired.
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
    /// There is no token, neither in the query nor in the header.
    #[error("an access token is needed, as ?token= or as a Bearer token")]
    Missing,
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
        let mut claims = json!({"userId": "d".repeat(24), "companyId": "a".repeat(24), "role": "manager", "iat": 1_699_999_000, "exp": 1_700_000_900});
        let more = more.as_object().unwrap().clone();
        claims.as_object_mut().unwrap().extend(more);
        serde_json::from_value::<Claims>(claims).unwrap().into()
    }

    #[test]
    fn a_good_token_names_user_and_company_and_end() {
        let of_nobody = session(json!({}));
        assert_eq!(
            (of_nobody.user.to_string(), of_nobody.company.to_string()),
            ("d".repeat(24), "a".repeat(24))
        );
        assert_eq!(
            (
                of_nobody.role,
                of_nobody.time_left(NOW),
                of_nobody.session,
                of_nobody.login()
            ),
            (StaffRole::Manager, Duration::from_secs(900), None, None)
        );
        let of_a_login = session(json!({"sid": "e".repeat(24)}));
        assert_eq!(
            of_a_login.session.map(|id| id.to_string()),
            Some("e".repeat(24))
        );
        assert_eq!(of_a_login.time_left(of_a_login.expires), Duration::ZERO);
    }
}
