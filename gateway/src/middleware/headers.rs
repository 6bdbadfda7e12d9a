//! Headers of every answer that tell browsers to be careful: those that helmet sets, stricter where
//! an API that serves data and no pages can be. A handler's own value stays. Because of that the
//! one route with a page can have its own policy.

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

/// The headers that every answer has in every environment.
const ALWAYS: [(HeaderName, &str); 11] = [
    // Because answers are data, a browser that shows one must load nothing, run nothing and frame
    // it nowhere.
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_XSS_PROTECTION, "0"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (HeaderName::from_static("origin-agent-cluster"), "?1"),
    (HeaderName::from_static("x-dns-prefetch-control"), "off"),
    (
        HeaderName::from_static("x-permitted-cross-domain-policies"),
        "none",
    ),
    // Answers hold customers' messages and tokens.
    (header::CACHE_CONTROL, "no-store"),
];
/// 180 days, as helmet has it. In production only, because only there the API is reached over TLS.
/// Over plain HTTP the header means nothing.
const STRICT_TRANSPORT: &str = "max-age=15552000; includeSubDomains";

/// A layer that sets each header that the handler has not set. `production` adds the one for TLS.
pub async fn set(State(production): State<bool>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    if production {
        headers
            .entry(header::STRICT_TRANSPORT_SECURITY)
            .or_insert(HeaderValue::from_static(STRICT_TRANSPORT));
    }
    response
}
