//! What handlers take out of a request: its caller, its trace, its body. Bounds are in
//! `middleware`.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRef, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use bytes::Bytes;
use contract::Id;
use contract::trace::TraceContext;
use serde_json::{Map, Value};

use super::field_reader::Fields;
use super::json_object;
use super::problem::Problem;
use crate::auth::Caller;
use crate::log::Log;

/// A body must have arrived within this.
const BODY_WITHIN: Duration = Duration::from_secs(30);
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

/// What a request of a known caller comes with.
pub struct Call {
    /// Events and queries.
    pub log: Log,
    /// Who calls.
    pub caller: Caller,
    /// The trace that its events and queries belong to.
    pub trace: TraceContext,
}

impl<S: Sync> FromRequestParts<S> for Call
where
    Log: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Call, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let Trace(trace) = Trace::from_request_parts(parts, state).await?;
        Ok(Call {
            log: Log::from_ref(state),
            caller,
            trace,
        })
    }
}

/// The company of a request whose query string may name one; an internal service must.
pub fn company_in(query: &Map<String, Value>, caller: &Caller) -> Result<Id, Problem> {
    let mut f = Fields::of(query);
    let named = f.optional("company_id", str::parse::<Id>);
    f.finish()?;
    caller.company(named)
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
        json_object::parse_object(&body)
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
