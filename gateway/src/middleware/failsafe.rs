//! Answers a request even if its handler does not: a handler that takes too long is cut off, and one
//! that panics ends its own request and not the connection. Repeats nothing.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use metrics::counter;
use tracing::error;

use crate::api::problem::Problem;

/// The time within which a request must be answered, its body and all waits counted. Beyond it the
/// request gets 503. Less than the balancer waits (75 s).
pub const REQUEST_WITHIN: Duration = Duration::from_secs(60);

/// The layer. Events that are in the log when a request is cut off stay there: its
/// `Idempotency-Key` finds a create again.
pub async fn always_answer(request: Request, next: Next) -> Response {
    // Nothing that a handler shares with others is left half changed: each change of a shared value
    // is one write, or is undone when its guard is dropped.
    let handled = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(REQUEST_WITHIN, handled).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            error!(why = text_of(&*panic), "a handler panicked");
            Problem::Internal.into_response()
        }
        Err(_) => {
            counter!("http_refused_total", "reason" => "time").increment(1);
            Problem::Unavailable("the request took too long").into_response()
        }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text")
}
