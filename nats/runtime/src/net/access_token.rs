//! Access tokens (JWT, HS256): their claims, and the one way to check them. Knows no login and no
//! header that carries a token.

use contract::domain::StaffRole;
use contract::{Id, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::de::IntoDeserializer;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::service::settings::Settings;

/// Longest token that is checked, in bytes. A longer one is invalid; ours have about 300.
pub const MAX_TOKEN_BYTES: usize = 4_096;

/// The claims of an access token, by the names that clients of the Express backend know. Any token
/// so signed is valid, whomever its `aud` names. Times are read as the Express backend's library wrote
/// them: with a fraction, which is cut off, and `iat` only where it was not switched off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claims {
    /// The member of staff.
    pub user_id: Id,
    /// The company of the user.
    pub company_id: Id,
    /// The role of the user.
    #[serde(deserialize_with = "role")]
    pub role: StaffRole,
    /// The login that the token comes from. Tokens that other services have signed have none, or one
    /// of another form, which is none here.
    #[serde(
        default,
        deserialize_with = "login",
        skip_serializing_if = "Option::is_none"
    )]
    pub sid: Option<Id>,
    /// When the token was signed, in seconds since 1970.
    #[serde(
        default,
        deserialize_with = "maybe_seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub iat: Option<i64>,
    /// From when on the token is valid, in seconds since 1970.
    #[serde(
        default,
        deserialize_with = "maybe_seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub nbf: Option<i64>,
    /// When the token expires, in seconds since 1970.
    #[serde(deserialize_with = "seconds")]
    pub exp: i64,
}

impl Claims {
    /// When the token expires. At that moment the token is no longer valid.
    pub fn expires(&self) -> Timestamp {
        Timestamp::from_millis(self.exp.saturating_mul(1_000))
    }
}

fn role<'de, D: Deserializer<'de>>(claim: D) -> Result<StaffRole, D::Error> {
    let name = String::deserialize(claim)?.to_lowercase();
    StaffRole::deserialize(name.into_deserializer())
}

fn login<'de, D: Deserializer<'de>>(claim: D) -> Result<Option<Id>, D::Error> {
    let login = Value::deserialize(claim)?;
    Ok(login.as_str().and_then(|login| login.parse().ok()))
}

/// A NumericDate (RFC 7519, 2).
fn seconds<'de, D: Deserializer<'de>>(claim: D) -> Result<i64, D::Error> {
    // A number beyond the range becomes the end of the range, which is no time of anybody.
    f64::deserialize(claim).map(|seconds| seconds.floor() as i64)
}

fn maybe_seconds<'de, D: Deserializer<'de>>(claim: D) -> Result<Option<i64>, D::Error> {
    let seconds = Option::<f64>::deserialize(claim)?;
    Ok(seconds.map(|seconds| seconds.floor() as i64))
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
        rules.validate_nbf = false;
        rules.validate_aud = false;
        // `Claims` says itself what a token must have.
        rules.required_spec_claims.clear();
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
        let from = claims.nbf.unwrap_or(i64::MIN).saturating_mul(1_000);
        match claims.expires() <= now {
            true => Err(BadToken::Expired),
            false if from > now.millis() => Err(BadToken::Invalid),
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
    use serde_json::json;

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
    fn claims_are_read_as_other_libraries_write_them() {
        for (name, claim, is_good) in [
            ("exp", json!(1_700_000_900.75), true),
            ("exp", json!(1.7000009e9), true),
            ("exp", json!(1e300), true),
            ("exp", json!(1_700_000_000.5), false),
            ("exp", json!("1700000900"), false),
            ("exp", Value::Null, false),
            ("iat", json!(1_699_999_000.123), true),
            ("iat", json!(1_700_000_100), true),
            ("iat", Value::Null, true),
            ("nbf", json!(1_700_000_000), true),
            ("nbf", json!(1_699_999_999.9), true),
            ("nbf", json!(-1), true),
            ("nbf", json!(1_700_000_002), false),
            ("nbf", json!(1e300), false),
            ("nbf", Value::Null, true),
            ("role", json!("Manager"), true),
            ("role", json!("RECEPTIONIST"), true),
            ("role", json!("boss"), false),
            ("sid", Value::Null, true),
            ("sid", json!("0d9c4b7e-6f0e-4a3f-8f5b-1f2d3c4b5a69"), true),
            ("sid", json!(7), true),
            ("aud", json!(["api", "web"]), true),
            ("iss", json!("petbuddy"), true),
            ("companyId", Value::Null, false),
            ("userId", json!(7), false),
        ] {
            let mut claims = claims();
            claims[name] = claim.clone();
            let read = verify(&sign(Algorithm::HS256, SECRET, &claims));
            assert_eq!(read.is_ok(), is_good, "{name} {claim}: {read:?}");
        }
    }

    #[test]
    fn missing_or_wrong_claims_are_refused() {
        for name in ["userId", "companyId", "role", "iat", "nbf", "exp"] {
            let mut lacking = claims();
            lacking.as_object_mut().unwrap().remove(name);
            assert_eq!(
                verify(&sign(Algorithm::HS256, SECRET, &lacking)).is_ok(),
                ["iat", "nbf"].contains(&name),
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
