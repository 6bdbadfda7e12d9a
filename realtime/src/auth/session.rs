//! Access tokens: who opens a socket, of which company, until when. Checks only; the gateway signs
//! them.

use std::time::Duration;

use contract::domain::StaffRole;
use contract::{Id, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// Longest token that is looked at, in bytes; ours have about 300.
const MAX_TOKEN_BYTES: usize = 4_096;

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

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Neither in the query nor in the header.
    #[error("an access token is needed, as ?token= or as a Bearer token")]
    Missing,
    /// Not ours, or not an access token.
    #[error("the access token is not valid")]
    Invalid,
    /// It was good once.
    #[error("the access token has expired")]
    Expired,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    user_id: Id,
    company_id: Id,
    role: StaffRole,
    #[serde(default)]
    sid: Option<Id>,
    #[allow(dead_code)] // must be there
    iat: i64,
    exp: i64,
}

/// Checks tokens against one secret.
pub struct Verifier {
    key: DecodingKey,
    rules: Validation,
}

impl Verifier {
    /// For tokens signed with `secret`.
    pub fn new(secret: &SecretString) -> Verifier {
        let mut rules = Validation::new(Algorithm::HS256);
        // The expiry is compared below, with the caller's clock and without leeway.
        rules.validate_exp = false;
        // As the gateway: there is one kind of token, whomever it names.
        rules.validate_aud = false;
        Verifier {
            key: DecodingKey::from_secret(secret.expose_secret().as_bytes()),
            rules,
        }
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// See [`BadToken`].
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Session, BadToken> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(BadToken::Invalid);
        }
        let claims = decode::<Claims>(token, &self.key, &self.rules)
            .map_err(|_| BadToken::Invalid)?
            .claims;
        let expires = Timestamp::from_millis(claims.exp.saturating_mul(1_000));
        if expires <= now {
            return Err(BadToken::Expired);
        }
        Ok(Session {
            user: claims.user_id,
            company: claims.company_id,
            role: claims.role,
            session: claims.sid,
            expires,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    const SECRET: &str = "a secret of the tests, thirty-two or more";
    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn claims() -> Value {
        json!({"userId": "d".repeat(24), "companyId": "a".repeat(24), "role": "manager", "iat": 1_699_999_000, "exp": 1_700_000_900})
    }

    fn sign(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
        encode(
            &Header::new(algorithm),
            claims,
            &EncodingKey::from_secret(secret.as_bytes()),
        )
        .unwrap()
    }

    fn verify(token: &str) -> Result<Session, BadToken> {
        Verifier::new(&SECRET.into()).verify(token, NOW)
    }

    #[test]
    fn a_good_token_names_user_and_company_and_end() {
        let session = verify(&sign(Algorithm::HS256, SECRET, &claims())).unwrap();
        assert_eq!(
            (session.user.to_string(), session.company.to_string()),
            ("d".repeat(24), "a".repeat(24))
        );
        assert_eq!(
            (session.role, session.time_left(NOW), session.session),
            (StaffRole::Manager, Duration::from_secs(900), None)
        );
        let mut of_a_login = claims();
        of_a_login["sid"] = json!("e".repeat(24));
        let session = verify(&sign(Algorithm::HS256, SECRET, &of_a_login)).unwrap();
        assert_eq!(
            session.session.map(|id| id.to_string()),
            Some("e".repeat(24))
        );
        let mut of_another = claims();
        of_another["aud"] = json!("api");
        assert!(verify(&sign(Algorithm::HS256, SECRET, &of_another)).is_ok());
    }

    #[test]
    fn another_key_or_algorithm_or_none_is_refused() {
        for token in [
            sign(
                Algorithm::HS256,
                "another secret, as long as the first",
                &claims(),
            ),
            sign(Algorithm::HS512, SECRET, &claims()),
            // {"alg":"none","typ":"JWT"} and the claims, unsigned.
            {
                let signed = sign(Algorithm::HS256, SECRET, &claims());
                format!(
                    "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.",
                    signed.split('.').nth(1).unwrap()
                )
            },
            "x".repeat(MAX_TOKEN_BYTES + 1),
            String::new(),
        ] {
            assert_eq!(verify(&token), Err(BadToken::Invalid), "{token}");
        }
    }

    #[test]
    fn an_expired_one_says_so_to_the_second() {
        let mut claims = claims();
        claims["exp"] = json!(1_700_000_000);
        assert_eq!(
            verify(&sign(Algorithm::HS256, SECRET, &claims)),
            Err(BadToken::Expired)
        );
        claims["exp"] = json!(1_700_000_001);
        assert!(verify(&sign(Algorithm::HS256, SECRET, &claims)).is_ok());
    }

    #[test]
    fn missing_or_wrong_claims_are_refused() {
        for name in ["userId", "companyId", "role", "iat", "exp"] {
            let mut lacking = claims();
            lacking.as_object_mut().unwrap().remove(name);
            assert_eq!(
                verify(&sign(Algorithm::HS256, SECRET, &lacking)),
                Err(BadToken::Invalid),
                "{name}"
            );
            let mut wrong = claims();
            wrong[name] = json!("*");
            assert_eq!(
                verify(&sign(Algorithm::HS256, SECRET, &wrong)),
                Err(BadToken::Invalid),
                "{name}"
            );
        }
    }
}
