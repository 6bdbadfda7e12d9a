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

    /// The session that a token stands for. `places` tells a client without a token where to put
    /// one.
    ///
    /// # Errors
    /// See [`BadToken`].
    pub fn verify(
        &self,
        token: Option<&str>,
        places: &'static str,
        now: Timestamp,
    ) -> Result<Session, BadToken> {
        let token = token.ok_or(BadToken::Missing(places))?;
        Ok(self.verifier.verify(token, now)?.into())
    }
}

/// The scheme of an access token, in the header `Authorization` and as a subprotocol.
const BEARER: &str = "bearer";

/// The token of a handshake: of the header `Authorization: Bearer`, else the subprotocol that
/// follows `bearer`, else the parameter `token` of the query string. Browsers can set a subprotocol
/// but no header, and proxies do not log subprotocols.
pub fn token<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Option<&'a str> {
    let authorization = headers.get(header::AUTHORIZATION);
    let authorization = authorization.and_then(|value| value.to_str().ok()?.split_once(' '));
    authorization
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(BEARER))
        .and_then(|(_, token)| bare(token))
        .or_else(|| bearer_subprotocol(headers).map(|(_, token)| token))
        .or_else(|| bare(query?))
}

/// A token without the scheme that some clients write before it; `None` if nothing is left.
pub fn bare(text: &str) -> Option<&str> {
    let text = text.trim();
    let token = match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(BEARER) => token.trim(),
        _ => text,
    };
    (!token.is_empty()).then_some(token)
}

/// The subprotocol that a handshake is answered with: `bearer` if a token follows it, else the first
/// one that the client offers. Clients fail that offer some and are answered with none.
pub fn subprotocol(headers: &HeaderMap) -> Option<&str> {
    let bearer = bearer_subprotocol(headers).map(|(bearer, _)| bearer);
    bearer.or_else(|| subprotocols(headers).next())
}

fn bearer_subprotocol(headers: &HeaderMap) -> Option<(&str, &str)> {
    let mut offered = subprotocols(headers).skip_while(|name| !name.eq_ignore_ascii_case(BEARER));
    offered.next().zip(offered.next())
}

fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    lists
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
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
    fn the_token_is_in_the_header_or_a_subprotocol_or_the_query() {
        let (authorization, protocols) = (header::AUTHORIZATION, header::SEC_WEBSOCKET_PROTOCOL);
        for (name, value, query, wanted) in [
            (&authorization, "bearer  abc", None, Some("abc")),
            (&authorization, "Bearer abc", Some("q"), Some("abc")),
            (&authorization, "Basic abc", Some("q"), Some("q")),
            (&authorization, "Bearer ", Some("q"), Some("q")),
            (&authorization, "Basic abc", None, None),
            (&protocols, "bearer, abc", Some("q"), Some("abc")),
            (&protocols, "chat,Bearer,abc", None, Some("abc")),
            (&protocols, "bearer", Some("q"), Some("q")),
            (&protocols, "abc", None, None),
            (&header::ACCEPT, "*/*", Some("Bearer q"), Some("q")),
            (&header::ACCEPT, "*/*", Some(""), None),
            (&header::ACCEPT, "*/*", None, None),
        ] {
            let headers = headers(name.clone(), value);
            assert_eq!(token(&headers, query), wanted, "{name}: {value}, {query:?}");
        }
    }

    #[test]
    fn a_token_may_have_its_scheme_before_it() {
        for (text, wanted) in [
            ("abc", Some("abc")),
            ("Bearer abc", Some("abc")),
            ("BEARER  abc ", Some("abc")),
            ("Basic abc", Some("Basic abc")),
            ("", None),
            ("  ", None),
        ] {
            assert_eq!(bare(text), wanted, "{text}");
        }
    }

    #[test]
    fn the_subprotocol_of_the_token_or_else_the_first_one_is_answered() {
        for (offered, wanted) in [
            ("bearer, abc", Some("bearer")),
            ("Bearer, abc", Some("Bearer")),
            ("chat, bearer, abc", Some("bearer")),
            ("bearer", Some("bearer")),
            ("chat, v2", Some("chat")),
            (" , ", None),
        ] {
            let headers = headers(header::SEC_WEBSOCKET_PROTOCOL, offered);
            assert_eq!(subprotocol(&headers), wanted, "{offered}");
        }
        assert_eq!(subprotocol(&HeaderMap::new()), None);
    }
}
