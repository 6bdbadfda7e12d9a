//! The outermost layer: gives a request its id, its trace and its span, counts it, and makes every
//! error a problem document.

use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use contract::trace::TraceContext;
use contract::{Id, Timestamp};
use tracing::{Instrument, debug, error, field, info_span};

use super::problems::as_problem;
use super::request_metrics::RequestLabels;
use crate::api::problem::REQUEST_ID;

const REQUEST_ID_HEADER: &str = "x-request-id";
/// The most characters of a request id that is taken over from a caller. A longer one is replaced.
const REQUEST_ID_CHARS: usize = 64;

/// The layer.
pub async fn trace(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let request_id = request_id(request.headers());
    let trace = trace_context(request.headers());
    request.extensions_mut().insert(trace);
    let labels = RequestLabels::of(&request);
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
    span.in_scope(|| log(&labels, status));
    labels.count(status, started.elapsed());
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, id);
    }
    response
}

/// The caller's own id for the request if it is fit for logs, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let is_fit = |id: &&str| {
        (1..=REQUEST_ID_CHARS).contains(&id.len())
            && id
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
    };
    let given = headers.get(REQUEST_ID_HEADER);
    let given = given.and_then(|id| id.to_str().ok()).filter(is_fit);
    given.map_or_else(|| Id::generate(Timestamp::now()).to_string(), str::to_owned)
}

/// The caller's trace, of which the request is a part, or a trace of its own.
fn trace_context(headers: &HeaderMap) -> TraceContext {
    let given = headers.get("traceparent").and_then(|v| v.to_str().ok());
    let parent = given.and_then(|text| text.parse::<TraceContext>().ok());
    parent.map_or_else(TraceContext::generate, TraceContext::child)
}

/// An overloaded gateway answers 503, which is no error worth a line for each request.
fn log(labels: &RequestLabels, status: StatusCode) {
    let (method, route, status_code) = (&labels.method, &*labels.route, status.as_u16());
    match status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
        true => error!(%method, route, status = status_code, "request"),
        false => debug!(%method, route, status = status_code, "request"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request_id_of(given: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID_HEADER, HeaderValue::from_str(given).unwrap());
        request_id(&headers)
    }

    proptest! {
        #[test]
        fn a_request_id_that_is_fit_for_logs_is_kept(id in "[A-Za-z0-9._-]{1,64}") {
            prop_assert_eq!(request_id_of(&id), id);
        }

        #[test]
        fn every_request_id_is_fit_for_logs(given in "[ -~]{0,80}") {
            let id = request_id_of(&given);
            prop_assert!((1..=REQUEST_ID_CHARS).contains(&id.len()));
            prop_assert!(id.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c)));
        }
    }
}
