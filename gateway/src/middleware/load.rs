//! Limits of what a gateway works on at a time. Beyond them a request gets 503 at once, because a
//! queue would only make every client wait.

use std::sync::Arc;

use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use metrics::counter;
use tokio::sync::Semaphore;

use crate::api::problem::Problem;

const KIB: usize = 1024;
/// The largest body. A larger one is refused with 413.
pub const BODY_BYTES: usize = 10 * KIB * KIB;
/// The largest body that is not counted among the large ones. There is room for as many of these as
/// there can be requests.
pub const SMALL_BODY_BYTES: usize = 64 * KIB;
/// The bytes of all large bodies together. Beyond them a request with a large body gets 503. A body
/// that does not say its length counts as the largest.
pub const LARGE_BODIES_BYTES: usize = 256 * KIB * KIB;

/// A layer that limits the requests. Each holds a permit until it is answered.
pub async fn limit_in_flight(
    State(permits): State<Arc<Semaphore>>,
    request: Request,
    next: Next,
) -> Response {
    match permits.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => {
            counter!("http_refused_total", "reason" => "in_flight").increment(1);
            Problem::Overloaded.into_response()
        }
    }
}

/// The permits for [`limit_large_bodies`], one for each KiB.
pub fn large_body_permits() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(LARGE_BODIES_BYTES / KIB))
}

/// A layer for the routes that take the largest bodies. A request holds its permits until it is
/// answered, because what is made of a body lives as long.
pub async fn limit_large_bodies(
    State(permits): State<Arc<Semaphore>>,
    request: Request,
    next: Next,
) -> Response {
    let permit = match large_body_bytes(&request) {
        Some(bytes) => permits
            .try_acquire_many(bytes.div_ceil(KIB) as u32)
            .map(Some),
        None => Ok(None),
    };
    match permit {
        Ok(_permit) => next.run(request).await,
        Err(_) => {
            counter!("http_refused_total", "reason" => "bodies").increment(1);
            Problem::Overloaded.into_response()
        }
    }
}

/// The bytes of a large body; `None` for a small one.
fn large_body_bytes(request: &Request) -> Option<usize> {
    let says = request.body().size_hint().upper();
    let says = says.and_then(|bytes| usize::try_from(bytes).ok());
    // A longer body is refused before it is read.
    let bytes = says.unwrap_or(BODY_BYTES).min(BODY_BYTES);
    (bytes > SMALL_BODY_BYTES).then_some(bytes)
}
