//! Refresh tokens in a cookie that no script can read, for browsers (`REFRESH_TOKEN_COOKIE`). A
//! second cookie, which only a page of the API's own site can read, must come back in a header.
//! Otherwise another site's page could make the browser send the first one. Does not look into the
//! token.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use cookie::{Cookie, SameSite};
use subtle::ConstantTimeEq;

use crate::api::problem::Problem;

/// The cookie with the refresh token.
const REFRESH: &str = "refreshToken";
/// The only paths where browsers send that cookie.
const REFRESH_PATH: &str = "/api/v1/auth";
/// The cookie whose value the header must repeat.
const CSRF: &str = "csrfToken";
const CSRF_HEADER: &str = "x-csrf-token";
/// The random bytes of a CSRF token.
const CSRF_BYTES: usize = 16;

/// How the two cookies are set.
#[derive(Clone, Copy, Debug)]
pub struct Cookies {
    /// Whether browsers send the cookies over HTTPS only: everywhere but in development.
    pub secure: bool,
    /// How long browsers keep the cookies.
    pub ttl: Duration,
}

impl Cookies {
    /// Sets both cookies.
    pub fn set(&self, headers: &mut HeaderMap, refresh_token: &str, csrf: &str) {
        self.append(headers, refresh_token, csrf, self.ttl);
    }

    /// Makes the browser forget both cookies.
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
            // This holds for every value, because tokens and hexadecimal digits are fit for a
            // header.
            if let Ok(value) = HeaderValue::from_str(&cookie.to_string()) {
                headers.append(header::SET_COOKIE, value);
            }
        }
    }
}

/// A new CSRF token. The body of the answer has it too, because a page on another host than the API
/// cannot read the API's cookies.
pub fn csrf_token() -> String {
    rand::random::<[u8; CSRF_BYTES]>()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// The refresh token of a request, if the browser sent the cookie.
///
/// # Errors
/// [`Problem::Csrf`] if the header does not repeat the other cookie.
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
    use proptest::prelude::*;

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
    fn scripts_can_read_the_csrf_cookie_and_not_the_refresh_token() {
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
    fn the_refresh_token_is_taken_only_with_the_csrf_header() {
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

    proptest! {
        #[test]
        fn no_cookie_header_is_taken_without_the_csrf_header(
            other in "[ -~]{0,64}",
            token in "[!-:<-~]{0,32}",
            csrf in "[!-:<-~]{0,32}",
        ) {
            let line = format!("{other}; refreshToken={token}; csrfToken={csrf}");
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, line.parse().unwrap());
            prop_assert!(matches!(refresh_token(&headers), Ok(None) | Err(Problem::Csrf)));
        }

        #[test]
        fn a_token_that_is_set_is_read_again(token in "[A-Za-z0-9._-]{1,64}") {
            let mut answer = HeaderMap::new();
            let cookies = Cookies { secure: true, ttl: Duration::from_secs(1) };
            cookies.set(&mut answer, &token, "cafe");
            let mut headers = HeaderMap::new();
            for line in answer.get_all(header::SET_COOKIE) {
                let pair = line.to_str().unwrap().split(';').next().unwrap();
                headers.append(header::COOKIE, pair.parse().unwrap());
            }
            headers.insert(CSRF_HEADER, HeaderValue::from_static("cafe"));
            prop_assert_eq!(refresh_token(&headers), Ok(Some(token)));
        }
    }
}
