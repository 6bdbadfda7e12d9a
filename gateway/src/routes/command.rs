//! Writes whose result the persister tells: an event is stored, then its outcome is waited for,
//! within a limit.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use contract::event::Event;
use contract::trace::TraceContext;
use contract::{Id, Timestamp};
use serde_json::json;

use crate::api::problem::Problem;
use crate::api::response::json;
use crate::auth::Caller;
use crate::log::{Log, Settled};

/// Stores an event of this moment and waits, bounded, until it is applied.
pub async fn command(
    log: &Log,
    caller: &Caller,
    company_id: Id,
    event: Event,
    trace: TraceContext,
) -> Result<Settled, Problem> {
    let envelope = Log::envelope(caller, company_id, event, Timestamp::now());
    let msg_id = envelope.id.to_string();
    Ok(log.command(&envelope, msg_id, trace).await?.0)
}

/// 202: durable, and not applied yet. `location` is where to look.
pub fn accepted(settled: &Settled, location: &str) -> Response {
    let mut response = json(
        StatusCode::ACCEPTED,
        json!({"message": "Accepted; it will be applied", "seq": settled.seq}),
    );
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
