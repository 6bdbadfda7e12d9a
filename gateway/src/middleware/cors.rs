//! Which pages may call the API from a browser: `CORS_ORIGINS`. Callers that are no browsers are
//! not concerned by it.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use runtime::service::settings::{Environment, Settings};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// A browser may keep the answer to a preflight so long.
const MAX_AGE: Duration = Duration::from_secs(600);

/// The pages that may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Every page, but without cookies.
    Any,
    /// These, with cookies.
    Listed(Vec<HeaderValue>),
}

impl Origins {
    /// Reads `CORS_ORIGINS`: exact origins with commas, or `*`. Unset: any in development, none in
    /// production.
    pub fn read(settings: &mut Settings, environment: Environment) -> Origins {
        let production = environment == Environment::Production;
        let given = settings.list("CORS_ORIGINS");
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

    /// The layer that answers preflights, and marks answers for the browser.
    pub fn layer(&self) -> CorsLayer {
        let layer = CorsLayer::new()
            .allow_methods([
                Method::GET,
                Method::POST,
                Method::PUT,
                Method::PATCH,
                Method::DELETE,
            ])
            .allow_headers([
                header::AUTHORIZATION,
                header::CONTENT_TYPE,
                HeaderName::from_static("idempotency-key"),
                HeaderName::from_static("prefer"),
                HeaderName::from_static("traceparent"),
                HeaderName::from_static("x-api-key"),
                HeaderName::from_static("x-csrf-token"),
                HeaderName::from_static("x-request-id"),
            ])
            .expose_headers([
                header::LOCATION,
                header::RETRY_AFTER,
                HeaderName::from_static("idempotency-replayed"),
                HeaderName::from_static("ratelimit-limit"),
                HeaderName::from_static("ratelimit-policy"),
                HeaderName::from_static("ratelimit-remaining"),
                HeaderName::from_static("ratelimit-reset"),
                HeaderName::from_static("x-request-id"),
            ])
            .max_age(MAX_AGE);
        match self {
            Origins::Any => layer.allow_origin(AllowOrigin::any()),
            Origins::Listed(origins) => layer
                .allow_origin(AllowOrigin::list(origins.iter().cloned()))
                .allow_credentials(true),
        }
    }
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
}
