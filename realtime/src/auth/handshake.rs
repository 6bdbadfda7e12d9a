//! Who may open a socket, over whichever transport. Does not know what an open socket does.

use axum::http::{HeaderMap, header};
use contract::Timestamp;
use runtime::net::access_token::Verifier;
use runtime::net::origins::Origins;

use crate::auth::session::{BadToken, Session};
use crate::config::Config;
use crate::transport::refusal::Refusal;

/// Checks the page and the token.
pub struct Handshake {
    verifier: Verifier,
    origins: Origins,
}

impl Handshake {
    /// With the secret and the origins of the settings.
    pub fn new(config: &Config) -> Handshake {
        Handshake {
            verifier: Verifier::new(&config.access_secret),
            origins: config.origins.clone(),
        }
    }

    /// Browsers say which page asks. Other clients say nothing of a page, and prove themselves by
    /// the token alone.
    ///
    /// # Errors
    /// [`Refusal::Origin`]
    pub fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match self.origins.admit(headers) {
            true => Ok(()),
            false => Err(Refusal::Origin),
        }
    }

    /// The session that a token stands for.
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
        let check = |origins: Origins, headers: &HeaderMap| {
            Handshake {
                verifier: Verifier::new(&"s".repeat(32).into()),
                origins,
            }
            .check_origin(headers)
        };
        let allowed = || {
            Origins::Listed(vec![header::HeaderValue::from_static(
                "https://app.example.com",
            )])
        };
        let from = |origin| headers(header::ORIGIN, origin);
        assert_eq!(check(allowed(), &from("https://app.example.com")), Ok(()));
        for origin in [
            "https://app.example.com.evil.example",
            "http://app.example.com",
            "null",
        ] {
            assert_eq!(
                check(allowed(), &from(origin)),
                Err(Refusal::Origin),
                "{origin}"
            );
        }
        assert_eq!(check(allowed(), &HeaderMap::new()), Ok(()));
        assert_eq!(check(Origins::Any, &from("https://any.example")), Ok(()));
        assert_eq!(
            check(Origins::Listed(vec![]), &from("https://any.example")),
            Err(Refusal::Origin)
        );
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
