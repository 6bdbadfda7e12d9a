//! Checks the page and the token of a client that wants to open a socket, whichever its transport.
//! Does not know what an open socket does.

use axum::http::{HeaderMap, header};
use contract::Timestamp;
use runtime::net::access_token::Verifier;
use runtime::net::origins::Origins;

use super::session::{BadToken, Session};
use crate::config::Config;

/// Checks the page and the token.
pub struct Handshake {
    verifier: Verifier,
    origins: Origins,
}

impl Handshake {
    /// Uses the secret and the origins of the settings.
    pub fn new(config: &Config) -> Handshake {
        Handshake {
            verifier: Verifier::new(&config.access_secret),
            origins: config.origins.clone(),
        }
    }

    /// Whether the page that a request comes from may open sockets. Only browsers name a page.
    /// Other clients prove themselves by the token alone.
    pub fn allows_page(&self, headers: &HeaderMap) -> bool {
        self.origins.admit(headers)
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
            .allows_page(headers)
        };
        let allowed = || {
            Origins::Listed(vec![header::HeaderValue::from_static(
                "https://app.example.com",
            )])
        };
        let from = |origin| headers(header::ORIGIN, origin);
        assert!(check(allowed(), &from("https://app.example.com")));
        for origin in [
            "https://app.example.com.evil.example",
            "http://app.example.com",
            "null",
        ] {
            assert!(!check(allowed(), &from(origin)), "{origin}");
        }
        assert!(check(allowed(), &HeaderMap::new()));
        assert!(check(Origins::Any, &from("https://any.example")));
        assert!(!check(
            Origins::Listed(vec![]),
            &from("https://any.example")
        ));
    }

    #[test]
    fn the_token_may_be_in_the_authorization_header() {
        assert_eq!(
            bearer(&headers(header::AUTHORIZATION, "bearer  abc")),
            Some("abc")
        );
        assert_eq!(bearer(&headers(header::AUTHORIZATION, "Basic abc")), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
