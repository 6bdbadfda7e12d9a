//! Headers that tell browsers to be careful, on every answer: those that helmet sets, stricter
//! where an API that serves data and no pages can be. A handler's own value stays, so the one route
//! with a page can have its own policy.

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

/// What nothing speaks against, anywhere.
const ALWAYS: [(HeaderName, &str); 11] = [
    // Answers are data: whatever a browser makes of one, it must load nothing, run nothing and be
    // framed nowhere.
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
/// 180 days, as helmet has it. In production only, which is reached over TLS; over plain HTTP it
/// means nothing.
const STRICT_TRANSPORT: &str = "max-age=15552000; includeSubDomains";

/// A layer: sets what the handler has not set. `production` adds the one for TLS.
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
