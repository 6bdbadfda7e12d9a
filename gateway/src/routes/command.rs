//! Writes whose result the persister tells: an event is stored, then its outcome is waited for,
//! within a limit.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use contract::event::Event;
use contract::trace::TraceContext;
use contract::{Id, Timestamp};

use crate::api::problem::Problem;
use crate::api::refusals::Accepted;
use crate::api::response::json;
use crate::auth::Caller;
use crate::log::{CommandReceipt, Log};

/// Stores an event of this moment and waits, within a limit, until the event is applied.
pub async fn command(
    log: &Log,
    caller: &Caller,
    company_id: Id,
    event: Event,
    trace: TraceContext,
) -> Result<CommandReceipt, Problem> {
    let envelope = Log::envelope(caller, company_id, event, Timestamp::now());
    let msg_id = envelope.id.to_string();
    Ok(log.command(&envelope, msg_id, trace).await?.0)
}

/// 202: the change is durable and will be applied. `location` is where the client finds it then.
pub fn accepted(command: &CommandReceipt, location: &str) -> Response {
    let mut response = json(StatusCode::ACCEPTED, Accepted::new(command.seq));
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
