//! HTTP around the routes: the port, bounds on bodies and requests in flight, request ids, spans and metrics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use bytes::Bytes;
use metrics::{counter, histogram};
use nats::runtime::service::{Service, ServiceError};
use nats::trace::TraceContext;
use nats::{Id, Timestamp};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tracing::{Instrument, debug, error, field, info_span};

use crate::problem::Problem;

/// Largest body.
const BODY_BYTES: usize = 10 * 1024 * 1024;
/// A body must have arrived within this.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// Longest request id taken over from a caller.
const REQUEST_ID_CHARS: usize = 64;

const REQUEST_ID: &str = "x-request-id";

/// Adds the bounds, and what is common to all answers.
pub fn protect(router: Router, max_in_flight: usize) -> Router {
    let slots = Arc::new(Semaphore::new(max_in_flight));
    router
        .fallback(|| async { Problem::NotFound("path") })
        .method_not_allowed_fallback(|| async { Problem::Method })
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(middleware::from_fn_with_state(slots, bound_in_flight))
        .layer(middleware::from_fn(observe))
}

async fn bound_in_flight(State(slots): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    match slots.try_acquire() {
        Ok(_slot) => next.run(request).await,
        Err(_) => {
            counter!("http_refused_total", "reason" => "in_flight").increment(1);
            Problem::Overloaded.into_response()
        }
    }
}

async fn observe(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let given = request.headers().get(REQUEST_ID).and_then(|v| v.to_str().ok());
    let good =
        |id: &&str| !id.is_empty() && id.len() <= REQUEST_ID_CHARS && id.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
    let request_id = given.filter(good).map_or_else(|| Id::generate(Timestamp::now()).to_string(), str::to_owned);
    let parent = request.headers().get("traceparent").and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<TraceContext>().ok());
    let trace = parent.map_or_else(TraceContext::generate, TraceContext::child);
    request.extensions_mut().insert(trace);
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", |p| p.as_str()).to_owned();
    let method = request.method().clone();
    // A label with a caller's own word would make a series of each.
    let known = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS].contains(&method);
    let label = if known { method.to_string() } else { "other".to_owned() };
    let span = info_span!("request", request_id, trace_id = trace.trace_id(), company = field::Empty);
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    counter!("http_requests_total", "method" => label, "route" => route.clone(), "status" => status.as_u16().to_string()).increment(1);
    histogram!("http_request_seconds", "route" => route.clone()).record(started.elapsed().as_secs_f64());
    span.in_scope(|| match status.is_server_error() {
        true if status != StatusCode::SERVICE_UNAVAILABLE => error!(%method, route, status = status.as_u16(), "request"),
        _ => debug!(%method, route, status = status.as_u16(), "request"),
    });
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The request's trace, for the events and queries that it causes.
#[derive(Clone, Copy)]
pub struct Trace(pub TraceContext);

impl<S: Sync> FromRequestParts<S> for Trace {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Trace, Problem> {
        Ok(Trace(parts.extensions.get().copied().unwrap_or_else(TraceContext::generate)))
    }
}

/// A body that is one JSON object.
pub struct JsonObject(pub Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for JsonObject {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, state: &S) -> Result<JsonObject, Problem> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
            return Err(Problem::MediaType);
        }
        let read = tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, state)).await;
        let body = match read {
            Ok(Ok(body)) => body,
            Ok(Err(rejected)) if rejected.status() == StatusCode::PAYLOAD_TOO_LARGE => return Err(Problem::TooLarge),
            _ => return Err(Problem::BadJson("the body did not arrive".into())),
        };
        match serde_json::from_slice(&body) {
            Ok(Value::Object(object)) => Ok(JsonObject(object)),
            Ok(_) => Err(Problem::BadJson("it must be an object".into())),
            Err(e) => Err(Problem::BadJson(e.to_string())),
        }
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

/// Listens, and serves until the service stops; then open requests are answered.
pub async fn serve(service: &mut Service, address: SocketAddr, router: Router) -> Result<(), ServiceError> {
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| ServiceError::Listen { address, error })?;
    tracing::info!(%address, "listening");
    // Answers are small; without it they would wait for the client's acknowledgement.
    let listener = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
    let stop = service.stop.clone();
    service.spawn("http", async move {
        if let Err(e) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
            error!(error = %e, "http");
        }
    });
    Ok(())
}
