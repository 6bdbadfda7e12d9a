//! Inflates bodies that come compressed. How long the inflated body may be is up to the limit of its
//! route, which counts what comes out here. Compresses no answer.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower::ServiceExt;
use tower_http::decompression::RequestDecompression;

use crate::api::problem::Problem;

/// The layer. A body that is not compressed passes as it is.
pub async fn inflate(mut request: Request, next: Next) -> Response {
    let encodings = request.headers().get_all(header::CONTENT_ENCODING);
    let names: Option<Vec<&str>> = encodings.iter().map(|name| name.to_str().ok()).collect();
    let name = names.map(|names| names.join(",").trim().to_ascii_lowercase());
    let encoding = match name.as_deref() {
        Some("" | "identity") => {
            request.headers_mut().remove(header::CONTENT_ENCODING);
            return next.run(request).await;
        }
        Some("gzip" | "x-gzip") => "gzip",
        Some("deflate") => "deflate",
        _ => return Problem::Encoding.into_response(),
    };
    let encoding = header::HeaderValue::from_static(encoding);
    request
        .headers_mut()
        .insert(header::CONTENT_ENCODING, encoding);
    let inner = tower::service_fn(|request: axum::http::Request<_>| {
        let next = next.clone();
        async { Ok::<_, std::convert::Infallible>(next.run(request.map(Body::new)).await) }
    });
    match RequestDecompression::new(inner).oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(_) => Problem::Internal.into_response(),
    }
}
