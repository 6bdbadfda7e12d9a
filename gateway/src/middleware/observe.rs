//! The outermost layer: request id, trace, span, counters, and problem documents for every error.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use contract::trace::TraceContext;
use contract::{Id, Timestamp};
use metrics::{counter, histogram};
use tracing::{Instrument, debug, error, field, info_span};

use crate::api::problem::{self, Problem, REQUEST_ID};

/// Longest request id taken over from a caller.
const REQUEST_ID_CHARS: usize = 64;

const REQUEST_ID_HEADER: &str = "x-request-id";

/// A layer: gives the request an id, a trace and a span, counts it, and makes every error a problem
/// document.
pub async fn observe(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let given = request
        .headers()
        .get(REQUEST_ID_HEADER)
        .and_then(|v| v.to_str().ok());
    let good = |id: &&str| {
        !id.is_empty()
            && id.len() <= REQUEST_ID_CHARS
            && id
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
    };
    let request_id = given
        .filter(good)
        .map_or_else(|| Id::generate(Timestamp::now()).to_string(), str::to_owned);
    let parent = request
        .headers()
        .get("traceparent")
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<TraceContext>().ok());
    let trace = parent.map_or_else(TraceContext::generate, TraceContext::child);
    request.extensions_mut().insert(trace);
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", |p| p.as_str())
        .to_owned();
    let method = request.method().clone();
    // A label with a caller's own word would make a series of each.
    let known = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
    ]
    .contains(&method);
    let label = if known {
        method.to_string()
    } else {
        "other".to_owned()
    };
    let span = info_span!(
        "request",
        request_id,
        trace_id = trace.trace_id(),
        company = field::Empty
    );
    let answer = async { as_problem(next.run(request).await) };
    let mut response = REQUEST_ID
        .scope(request_id.clone(), answer)
        .instrument(span.clone())
        .await;
    let status = response.status();
    counter!("http_requests_total", "method" => label, "route" => route.clone(), "status" => status.as_u16().to_string()).increment(1);
    histogram!("http_request_seconds", "route" => route.clone())
        .record(started.elapsed().as_secs_f64());
    span.in_scope(|| match status.is_server_error() {
        true if status != StatusCode::SERVICE_UNAVAILABLE => {
            error!(%method, route, status = status.as_u16(), "request")
        }
        _ => debug!(%method, route, status = status.as_u16(), "request"),
    });
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, id);
    }
    response
}

/// An error that is not ours has the text of a library, which says nothing to a client. Its
/// headers, such as `Allow`, do.
fn as_problem(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error
        || response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind == problem::CONTENT_TYPE)
    {
        return response;
    }
    let mut problem = Problem::of_status(status).into_response();
    for (name, value) in response.headers() {
        if ![header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name) {
            problem.headers_mut().append(name, value.clone());
        }
    }
    problem
}
