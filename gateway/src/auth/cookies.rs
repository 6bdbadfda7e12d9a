//! Refresh tokens in a cookie that no script can read, for browsers (`REFRESH_TOKEN_COOKIE`).
//! Against requests that another site's page makes the browser send, a second cookie, which only
//! our own page can read, must come back in a header.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use cookie::{Cookie, SameSite};
use subtle::ConstantTimeEq;

use crate::api::problem::Problem;

/// Cookie: the refresh token.
const REFRESH: &str = "refreshToken";
/// Where browsers send it, and nowhere else.
const REFRESH_PATH: &str = "/api/v1/auth";
/// Cookie: what the header must repeat.
const CSRF: &str = "csrfToken";
/// The header.
const CSRF_HEADER: &str = "x-csrf-token";
/// Random bytes of it.
const CSRF_BYTES: usize = 16;

/// How the two cookies are set.
#[derive(Clone, Copy, Debug)]
pub struct Cookies {
    /// Only over HTTPS: everywhere but in development.
    pub secure: bool,
    /// How long browsers keep them.
    pub ttl: Duration,
}

impl Cookies {
    /// Sets both.
    pub fn set(&self, headers: &mut HeaderMap, refresh_token: &str, csrf: &str) {
        self.append(headers, refresh_token, csrf, self.ttl);
    }

    /// Makes the browser forget both.
    pub fn clear(&self, headers: &mut HeaderMap) {
        self.append(headers, "", "", Duration::ZERO);
    }

    fn append(&self, headers: &mut HeaderMap, refresh_token: &str, csrf: &str, ttl: Duration) {
        for (name, value, path, http_only) in [
            (REFRESH, refresh_token, REFRESH_PATH, true),
            (CSRF, csrf, "/", false),
        ] {
            let max_age = cookie::time::Duration::seconds(ttl.as_secs() as i64);
            let cookie = Cookie::build((name, value))
                .path(path)
                .max_age(max_age)
                .same_site(SameSite::Strict);
            let cookie = cookie.http_only(http_only).secure(self.secure).build();
            // Tokens and hexadecimal digits are fit for a header.
            if let Ok(value) = HeaderValue::from_str(&cookie.to_string()) {
                headers.append(header::SET_COOKIE, value);
            }
        }
    }
}

/// A new CSRF token. It is also told in the body: a page on another host than the API cannot read
/// the API's cookies.
pub fn csrf_token() -> String {
    rand::random::<[u8; CSRF_BYTES]>()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// The refresh token that the browser sent, if it sent one.
///
/// # Errors
/// [`Problem::Csrf`] if it did, and the header does not repeat the other cookie.
pub fn refresh_token(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(token) = find(headers, REFRESH) else {
        return Ok(None);
    };
    let header = headers
        .get(CSRF_HEADER)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    let cookie = find(headers, CSRF).unwrap_or_default();
    let repeated = !cookie.is_empty() && bool::from(cookie.as_bytes().ct_eq(header));
    if repeated {
        Ok(Some(token))
    } else {
        Err(Problem::Csrf)
    }
}

fn find(headers: &HeaderMap, name: &str) -> Option<String> {
    let sent = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok());
    let mut cookies = sent.flat_map(Cookie::split_parse).filter_map(Result::ok);
    cookies
        .find(|cookie| cookie.name() == name)
        .map(|cookie| cookie.value().to_owned())
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(secure: bool, ttl: Duration, token: &str) -> Vec<String> {
        let mut headers = HeaderMap::new();
        Cookies { secure, ttl }.append(&mut headers, token, "cafe", ttl);
        headers
            .get_all(header::SET_COOKIE)
            .iter()
            .map(|v| v.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn scripts_read_the_one_and_not_the_other() {
        let week = Duration::from_secs(604_800);
        assert_eq!(
            set(true, week, "a.b.c"),
            [
                "refreshToken=a.b.c; HttpOnly; SameSite=Strict; Secure; Path=/api/v1/auth; Max-Age=604800",
                "csrfToken=cafe; SameSite=Strict; Secure; Path=/; Max-Age=604800",
            ]
        );
        assert!(!set(false, week, "a.b.c").concat().contains("Secure"));
        assert!(set(true, Duration::ZERO, "")[0].contains("Max-Age=0"));
    }

    #[test]
    fn the_cookie_is_taken_only_with_the_header() {
        let read = |cookie: &str, header: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, cookie.parse().unwrap());
            if let Some(header) = header {
                headers.insert(CSRF_HEADER, header.parse().unwrap());
            }
            refresh_token(&headers)
        };
        assert_eq!(
            read("refreshToken=a.b.c; csrfToken=cafe", Some("cafe")),
            Ok(Some("a.b.c".to_owned()))
        );
        assert_eq!(read("csrfToken=cafe", None), Ok(None));
        assert_eq!(read("refreshToken=", None), Ok(None));
        for (cookie, header) in [
            ("refreshToken=a.b.c; csrfToken=cafe", None),
            ("refreshToken=a.b.c; csrfToken=cafe", Some("caff")),
            ("refreshToken=a.b.c; csrfToken=", Some("")),
            ("refreshToken=a.b.c", Some("")),
            ("refreshToken=a.b.c", None),
        ] {
            assert_eq!(
                read(cookie, header),
                Err(Problem::Csrf),
                "{cookie} {header:?}"
            );
        }
    }
}
