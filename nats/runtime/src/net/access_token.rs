//! Access tokens (JWT, HS256): their claims, and the one way to check them. Knows no login and no
//! header that carries a token.

use contract::domain::StaffRole;
use contract::{Id, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::service::settings::Settings;

/// Longest token that is checked, in bytes. A longer one is invalid; ours have about 300.
pub const MAX_TOKEN_BYTES: usize = 4_096;

/// The claims of an access token, by the names that clients of the Express backend know. Any token
/// so signed is valid, whomever its `aud` names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claims {
    /// The member of staff.
    pub user_id: Id,
    /// The company of the user.
    pub company_id: Id,
    /// The role of the user.
    pub role: StaffRole,
    /// The login that the token comes from. Tokens that other services have signed have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<Id>,
    /// When the token was signed, in seconds since 1970.
    pub iat: i64,
    /// When the token expires, in seconds since 1970.
    pub exp: i64,
}

impl Claims {
    /// When the token expires. At that moment the token is no longer valid.
    pub fn expires(&self) -> Timestamp {
        Timestamp::from_millis(self.exp.saturating_mul(1_000))
    }
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// The token is not ours, or not an access token.
    #[error("the access token is not valid")]
    Invalid,
    /// The token was valid once.
    #[error("the access token has expired")]
    Expired,
}

/// Reads `JWT_ACCESS_SECRET`.
pub fn read_secret(settings: &mut Settings) -> SecretString {
    settings
        .named(
            "JWT_ACCESS_SECRET",
            "Signs access tokens. The gateways and the realtime nodes share it.",
        )
        .secret()
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
        // `verify` compares the expiry itself, with the caller's clock and without leeway.
        rules.validate_exp = false;
        rules.validate_aud = false;
        Verifier {
            key: DecodingKey::from_secret(secret.expose_secret().as_bytes()),
            rules,
        }
    }

    /// The claims of a token that is valid at `now`.
    ///
    /// # Errors
    /// See [`BadToken`].
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, BadToken> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(BadToken::Invalid);
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.rules)
            .map_err(|_| BadToken::Invalid)?
            .claims;
        match claims.expires() <= now {
            true => Err(BadToken::Expired),
            false => Ok(claims),
        }
    }
}

/// Signs tokens with one secret.
pub struct Signer(EncodingKey);

impl Signer {
    /// For the holder of `secret`.
    pub fn new(secret: &SecretString) -> Signer {
        Signer(EncodingKey::from_secret(secret.expose_secret().as_bytes()))
    }

    /// The signed token.
    ///
    /// # Errors
    /// The claims cannot be signed; the text says why.
    pub fn sign(&self, claims: &Claims) -> Result<String, String> {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &self.0)
            .map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::encode;
    use serde_json::{Value, json};

    use super::*;

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

    fn verify(token: &str) -> Result<Claims, BadToken> {
        Verifier::new(&SECRET.into()).verify(token, NOW)
    }

    #[test]
    fn a_signed_token_is_read_as_the_same_claims() {
        let claims: Claims = serde_json::from_value(claims()).unwrap();
        let token = Signer::new(&SECRET.into()).sign(&claims).unwrap();
        assert_eq!(verify(&token), Ok(claims));
    }

    #[test]
    fn a_token_may_name_a_login_and_an_audience() {
        let mut of_a_login = claims();
        of_a_login["sid"] = json!("e".repeat(24));
        of_a_login["aud"] = json!("api");
        let claims = verify(&sign(Algorithm::HS256, SECRET, &of_a_login)).unwrap();
        assert_eq!(claims.sid.map(|id| id.to_string()), Some("e".repeat(24)));
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
