//! HTTP around the routes: request ids, spans and metrics, bodies in, answers out. Bounds are in
//! `protect`, the port is in `server`.

use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use contract::trace::TraceContext;
use contract::{Id, Timestamp};
use metrics::{counter, histogram};
use serde_json::{Map, Value};
use tracing::{Instrument, debug, error, field, info_span};

use crate::body;
use crate::problem::{self, Problem, REQUEST_ID};

/// A body must have arrived within this.
const BODY_WITHIN: Duration = Duration::from_secs(30);
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

/// The request's trace, for the events and queries that it causes.
#[derive(Clone, Copy)]
pub struct Trace(pub TraceContext);

impl<S: Sync> FromRequestParts<S> for Trace {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Trace, Problem> {
        Ok(Trace(
            parts
                .extensions
                .get()
                .copied()
                .unwrap_or_else(TraceContext::generate),
        ))
    }
}

/// A body that is one JSON object.
pub struct JsonObject(pub Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for JsonObject {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, state: &S) -> Result<JsonObject, Problem> {
        let content_type = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        let essence = content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        if essence != "application/json"
            && !(essence.starts_with("application/") && essence.ends_with("+json"))
        {
            return Err(Problem::MediaType);
        }
        let read = tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, state)).await;
        let body = match read {
            Ok(Ok(body)) => body,
            Ok(Err(rejected)) if rejected.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                return Err(Problem::TooLarge);
            }
            Ok(Err(_)) => return Err(Problem::BadRequest("the body did not arrive whole")),
            Err(_) => return Err(Problem::Timeout),
        };
        body::parse_object(&body)
            .map(JsonObject)
            .map_err(Problem::BadJson)
    }
}

/// A JSON object, or no body at all.
pub struct MaybeJson(pub Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for MaybeJson {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, state: &S) -> Result<MaybeJson, Problem> {
        if request.body().is_end_stream() {
            return Ok(MaybeJson(Map::new()));
        }
        JsonObject::from_request(request, state)
            .await
            .map(|JsonObject(body)| MaybeJson(body))
    }
}

/// An answer made of JSON texts, none of which is parsed again.
pub fn raw_json(status: StatusCode, before: &str, raw: &[u8], after: &str) -> Response {
    let body = [before.as_bytes(), raw, after.as_bytes()].concat();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// An answer.
pub fn json(status: StatusCode, body: impl serde::Serialize) -> Response {
    (status, Json(body)).into_response()
}
