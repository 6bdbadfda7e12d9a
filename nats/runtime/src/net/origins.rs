//! Which pages of other origins are let in: `CORS_ORIGINS`, with one meaning for REST and sockets.
//! Concerns browsers only: every other client says nothing of an origin. Answers no preflight.

use axum::http::{HeaderMap, HeaderValue, Uri, header};

use crate::service::settings::{Environment, Settings};

/// The pages of other origins that are let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Every page, but without cookies.
    Any,
    /// These pages, with cookies.
    Listed(Vec<HeaderValue>),
}

impl Origins {
    /// Reads `CORS_ORIGINS`: exact origins with commas, or `*`. Unset means any page in development
    /// and no page of another origin in production.
    pub fn read(settings: &mut Settings, environment: Environment) -> Origins {
        let production = environment == Environment::Production;
        let given = settings
            .named(
                "CORS_ORIGINS",
                "Origins whose pages may call the API and open sockets, scheme and port included. \
                 Pages of the API's own origin always may, and so may all clients that are no \
                 browsers. `*` means any page, and is refused in production.",
            )
            .default_in_words("any; in production none")
            .example("https://app.example.com")
            .list();
        if given.iter().any(|origin| origin == "*") {
            if production {
                settings.problem("CORS_ORIGINS must name the origins in production, such as https://app.example.com, not `*`");
            }
            return Origins::Any;
        }
        if given.is_empty() && !production {
            return Origins::Any;
        }
        let origins = given.iter().filter_map(|text| {
            let found = origin(text);
            if found.is_none() {
                settings.problem(format!(
                    "CORS_ORIGINS must hold origins such as https://app.example.com, not `{text}`"
                ));
            }
            found
        });
        Origins::Listed(origins.collect())
    }

    /// Whether a request with these headers may be answered, for requests to which a browser does
    /// not apply CORS itself, such as the upgrade to a WebSocket. A request without `Origin` comes
    /// from no page. A page of the same host and port needs no leave.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        let Some(page) = headers.get(header::ORIGIN) else {
            return true;
        };
        match self {
            Origins::Any => true,
            Origins::Listed(origins) => {
                let is_page =
                    |listed: &HeaderValue| listed.as_bytes().eq_ignore_ascii_case(page.as_bytes());
                origins.iter().any(is_page) || is_same_host(page, headers)
            }
        }
    }
}

/// Compares host and port, not the scheme: behind a balancer that ends TLS only the page knows it.
fn is_same_host(page: &HeaderValue, headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let page_host = page
        .to_str()
        .ok()
        .and_then(|page| Some(page.split_once("://")?.1));
    matches!((page_host, host), (Some(page), Some(host)) if page.eq_ignore_ascii_case(host))
}

/// Scheme, host and port as a browser sends them: without a path, in lower case.
fn origin(text: &str) -> Option<HeaderValue> {
    let text = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
    let uri: Uri = text.parse().ok()?;
    let authority = uri
        .authority()
        .filter(|authority| !authority.as_str().contains('@'))?;
    let exact = matches!(uri.scheme_str(), Some("http" | "https"))
        && text == format!("{}://{authority}", uri.scheme_str()?);
    exact.then(|| HeaderValue::from_str(&text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str, environment: Environment) -> (Origins, usize) {
        let mut settings = Settings::of([("CORS_ORIGINS".to_owned(), value.to_owned())]);
        let origins = Origins::read(&mut settings, environment);
        (
            origins,
            settings
                .finish()
                .map_or_else(|problems| problems.0.len(), |()| 0),
        )
    }

    #[test]
    fn production_names_its_pages() {
        let listed = |origins: &[&'static str]| {
            Origins::Listed(
                origins
                    .iter()
                    .map(|o| HeaderValue::from_static(o))
                    .collect(),
            )
        };
        let two = "https://App.example.com/, http://localhost:3000";
        assert_eq!(
            read(two, Environment::Production),
            (
                listed(&["https://app.example.com", "http://localhost:3000"]),
                0
            )
        );
        assert_eq!(read("*", Environment::Production), (Origins::Any, 1));
        assert_eq!(read("*", Environment::Development), (Origins::Any, 0));
        assert_eq!(read("", Environment::Production), (listed(&[]), 0));
        assert_eq!(read("", Environment::Development), (Origins::Any, 0));
    }

    #[test]
    fn what_no_browser_sends_is_a_problem() {
        for text in [
            "app.example.com",
            "https://",
            "https://a.example/path",
            "ftp://a.example",
            "null",
            "https://*.example.com/x",
            "https://u@a.example",
            "https://a b",
        ] {
            assert_eq!(read(text, Environment::Production).1, 1, "{text}");
        }
    }

    fn admits(origins: &str, environment: Environment, page: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::HOST,
            HeaderValue::from_static("api.example.com:8080"),
        );
        if let Some(page) = page {
            headers.insert(header::ORIGIN, HeaderValue::from_static(page));
        }
        read(origins, environment).0.admit(&headers)
    }

    #[test]
    fn a_socket_opens_for_listed_pages_for_the_same_host_and_without_a_page() {
        let production = |page| {
            admits(
                "https://app.example.com/",
                Environment::Production,
                Some(page),
            )
        };
        assert!(production("https://app.example.com"));
        assert!(production("https://App.example.com"));
        assert!(production("https://api.example.com:8080"));
        for page in [
            "https://app.example.com.evil.example",
            "http://app.example.com",
            "https://api.example.com",
            "null",
        ] {
            assert!(!production(page), "{page}");
        }
        assert!(admits(
            "https://app.example.com",
            Environment::Production,
            None
        ));
    }

    #[test]
    fn without_origins_no_other_page_opens_a_socket_in_production() {
        let page = Some("https://any.example");
        assert!(!admits("", Environment::Production, page));
        assert!(admits(
            "",
            Environment::Production,
            Some("https://api.example.com:8080")
        ));
        assert!(admits("", Environment::Production, None));
        assert!(admits("", Environment::Development, page));
        assert!(admits("*", Environment::Development, page));
    }
}
