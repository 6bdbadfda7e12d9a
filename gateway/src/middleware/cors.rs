//! The layer that tells browsers which pages of other origins may call the API. Which pages these
//! are is up to [`Origins`]. Refuses no request: callers that are no browsers are not concerned.

use std::time::Duration;

use axum::http::{HeaderName, Method, header};
use runtime::net::origins::Origins;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// How long a browser may keep the answer to a preflight.
const MAX_AGE: Duration = Duration::from_secs(600);

/// The layer that answers preflights, and marks answers for the browser.
pub fn layer(origins: &Origins) -> CorsLayer {
    let layer = CorsLayer::new()
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        // Any header that the page asks for: tracing and other tools add headers of their own. A header
        // that the API does not know has no effect.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([
            header::LOCATION,
            header::RETRY_AFTER,
            HeaderName::from_static("idempotency-replayed"),
            HeaderName::from_static("preference-applied"),
            HeaderName::from_static("ratelimit-limit"),
            HeaderName::from_static("ratelimit-policy"),
            HeaderName::from_static("ratelimit-remaining"),
            HeaderName::from_static("ratelimit-reset"),
            HeaderName::from_static("x-request-id"),
        ])
        .max_age(MAX_AGE);
    match origins {
        Origins::Any => layer.allow_origin(AllowOrigin::any()),
        Origins::Listed(listed) => layer
            .allow_origin(AllowOrigin::list(listed.iter().cloned()))
            .allow_credentials(true),
    }
}
