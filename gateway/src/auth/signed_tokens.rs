//! Signed tokens that are no access tokens: a refresh token is for the next access token, an
//! invitation for a place among a company's staff. They are signed with another key than access
//! tokens. Each kind names its audience, so that no token passes for one of another kind. Does not
//! know whether a token was used before.

use std::sync::Arc;
use std::time::Duration;

use contract::domain::{Email, StaffRole};
use contract::{Id, Timestamp};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::problem::Problem;

/// How long an invitation can be accepted.
pub const INVITATION_TTL: Duration = Duration::from_secs(7 * 86_400);
/// The most bytes of a token. A longer one is refused unread. Tokens of the gateway have about 400,
/// and the email of an invitation has at most 254 characters more.
const MAX_TOKEN_BYTES: usize = 4_096;

/// What a token of one kind says.
pub trait TokenKind: Serialize + DeserializeOwned {
    /// Its claim `aud`.
    const AUDIENCE: &'static str;
}

/// One refresh of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refresh {
    pub user_id: Id,
    pub company_id: Id,
    /// The session.
    pub sid: Id,
    /// This token among the session's.
    pub jti: Id,
}

impl TokenKind for Refresh {
    const AUDIENCE: &'static str = "refresh";
}

/// A place among a company's staff. It can be used once, because an email registers once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Invitation {
    /// The company that invites.
    pub company_id: Id,
    /// The only email that can register with the invitation.
    pub email: Email,
    pub role: StaffRole,
}

impl TokenKind for Invitation {
    const AUDIENCE: &'static str = "invitation";
}

#[derive(Serialize, Deserialize)]
struct Claims<T> {
    aud: String,
    iat: i64,
    exp: i64,
    #[serde(flatten)]
    content: T,
}

/// Signs and checks tokens.
#[derive(Clone)]
pub struct SignedTokens(Arc<(EncodingKey, DecodingKey)>);

impl SignedTokens {
    /// With `JWT_REFRESH_SECRET`.
    pub fn new(secret: &SecretString) -> SignedTokens {
        let secret = secret.expose_secret().as_bytes();
        SignedTokens(Arc::new((
            EncodingKey::from_secret(secret),
            DecodingKey::from_secret(secret),
        )))
    }

    /// Signs a token that is valid for `ttl`.
    ///
    /// # Errors
    /// [`Problem::Internal`] if the token cannot be signed.
    pub fn sign<T: TokenKind>(
        &self,
        content: T,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<String, Problem> {
        let iat = now.millis() / 1_000;
        let claims = Claims {
            aud: T::AUDIENCE.into(),
            iat,
            exp: iat + ttl.as_secs() as i64,
            content,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.0.0).map_err(|e| {
            tracing::error!(error = %e, "a token cannot be signed");
            Problem::Internal
        })
    }

    /// Reads a token.
    ///
    /// # Errors
    /// [`Problem::TokenExpired`], or [`Problem::InvalidToken`] if the token is of another kind or
    /// was signed with another key.
    pub fn verify<T: TokenKind>(&self, token: &str) -> Result<T, Problem> {
        let mut rules = Validation::new(Algorithm::HS256);
        rules.leeway = 0;
        rules.set_audience(&[T::AUDIENCE]);
        rules.set_required_spec_claims(&["exp", "aud"]);
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Problem::InvalidToken);
        }
        match jsonwebtoken::decode::<Claims<T>>(token, &self.0.1, &rules) {
            Ok(decoded) => Ok(decoded.claims.content),
            Err(e) if *e.kind() == ErrorKind::ExpiredSignature => Err(Problem::TokenExpired),
            Err(_) => Err(Problem::InvalidToken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const DAY: Duration = Duration::from_secs(86_400);

    fn tokens(secret: &str) -> SignedTokens {
        SignedTokens::new(&secret.repeat(32).into())
    }

    fn refresh() -> Refresh {
        let [user_id, company_id, sid, jti] = [1, 2, 3, 4].map(|n| Id::from_bytes([n; 12]));
        Refresh {
            user_id,
            company_id,
            sid,
            jti,
        }
    }

    fn invitation() -> Invitation {
        Invitation {
            company_id: Id::from_bytes([2; 12]),
            email: Email::new("a@b.example").unwrap(),
            role: StaffRole::Receptionist,
        }
    }

    #[test]
    fn a_token_is_valid_until_it_expires_and_only_under_its_key() {
        let ours = tokens("s");
        let token = ours.sign(refresh(), DAY, Timestamp::now()).unwrap();
        assert_eq!(ours.verify(&token), Ok(refresh()));
        assert_eq!(
            tokens("t").verify::<Refresh>(&token),
            Err(Problem::InvalidToken)
        );
        let token = ours.sign(invitation(), DAY, Timestamp::now()).unwrap();
        assert_eq!(ours.verify(&token), Ok(invitation()));
        let old = ours
            .sign(refresh(), DAY, Timestamp::from_millis(0))
            .unwrap();
        assert_eq!(ours.verify::<Refresh>(&old), Err(Problem::TokenExpired));
        assert_eq!(
            ours.verify::<Refresh>(&"x".repeat(MAX_TOKEN_BYTES + 1)),
            Err(Problem::InvalidToken)
        );
    }

    #[test]
    fn a_token_of_one_kind_does_not_pass_for_another_even_with_all_claims() {
        let ours = tokens("s");
        let exp = Timestamp::now().plus(DAY).millis() / 1_000;
        let mut all: Value = serde_json::to_value(refresh()).unwrap();
        all.as_object_mut().unwrap().append(
            serde_json::to_value(invitation())
                .unwrap()
                .as_object_mut()
                .unwrap(),
        );
        for (aud, is_refresh, is_invitation) in [
            (json!("refresh"), true, false),
            (json!("invitation"), false, true),
            (json!("access"), false, false),
            (Value::Null, false, false),
        ] {
            all["iat"] = json!(exp - 60);
            all["exp"] = json!(exp);
            all["aud"] = aud.clone();
            let mut claims = all.clone();
            claims.as_object_mut().unwrap().retain(|_, v| !v.is_null());
            let token =
                jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &ours.0.0).unwrap();
            assert_eq!(
                (
                    ours.verify::<Refresh>(&token).is_ok(),
                    ours.verify::<Invitation>(&token).is_ok()
                ),
                (is_refresh, is_invitation),
                "{aud}"
            );
        }
    }
}
