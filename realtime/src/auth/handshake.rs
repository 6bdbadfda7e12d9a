//! Who may open a socket, whichever door they come by. What an open socket does is not known here.

use axum::http::{HeaderMap, header};
use contract::Timestamp;
use runtime::net::access_token::Verifier;

use crate::auth::session::{BadToken, Session};
use crate::config::Config;
use crate::transport::refusal::Refusal;

/// Checks the page and the token.
pub struct Handshake {
    verifier: Verifier,
    origins: Vec<String>,
}

impl Handshake {
    /// With the secret and the origins of the settings.
    pub fn new(config: &Config) -> Handshake {
        Handshake {
            verifier: Verifier::new(&config.access_secret),
            origins: config.origins.clone(),
        }
    }

    /// Browsers say which page asks; other clients say nothing, and prove themselves by the token
    /// alone.
    ///
    /// # Errors
    /// [`Refusal::Origin`]
    pub fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Ok(());
        };
        let any = self.origins.is_empty() || self.origins.iter().any(|a| a == "*");
        let named = || {
            self.origins.iter().any(|a| {
                a.trim_end_matches('/')
                    .as_bytes()
                    .eq_ignore_ascii_case(origin.as_bytes())
            })
        };
        if any || named() {
            Ok(())
        } else {
            Err(Refusal::Origin)
        }
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// See [`BadToken`].
    pub fn verify(&self, token: Option<&str>, now: Timestamp) -> Result<Session, BadToken> {
        let claims = self.verifier.verify(token.ok_or(BadToken::Missing)?, now)?;
        Ok(claims.into())
    }
}

/// The token of an `Authorization: Bearer` header.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, header::HeaderValue::from_static(value))])
    }

    #[test]
    fn pages_that_are_not_named_are_refused() {
        let check = |origins: &[&str], headers: &HeaderMap| {
            let origins = origins.iter().map(|o| (*o).to_owned()).collect();
            Handshake {
                verifier: Verifier::new(&"s".repeat(32).into()),
                origins,
            }
            .check_origin(headers)
        };
        let allowed = ["https://app.example.com/"];
        let from = |origin| headers(header::ORIGIN, origin);
        assert_eq!(check(&allowed, &from("https://app.example.com")), Ok(()));
        for origin in [
            "https://app.example.com.evil.example",
            "http://app.example.com",
            "null",
        ] {
            assert_eq!(
                check(&allowed, &from(origin)),
                Err(Refusal::Origin),
                "{origin}"
            );
        }
        assert_eq!(check(&allowed, &HeaderMap::new()), Ok(()));
        assert_eq!(check(&[], &from("https://any.example")), Ok(()));
        assert_eq!(check(&["*"], &from("https://any.example")), Ok(()));
    }

    #[test]
    fn the_header_may_carry_the_token() {
        assert_eq!(
            bearer(&headers(header::AUTHORIZATION, "bearer  abc")),
            Some("abc")
        );
        assert_eq!(bearer(&headers(header::AUTHORIZATION, "Basic abc")), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
