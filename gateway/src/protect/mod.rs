//! What stands between the network and the routes, and in which order. Who the caller is, and the rate limits, are layers
//! of the routes themselves, which know to whom they apply.

mod address;
mod cors;
mod headers;
mod rate;
mod uri;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use metrics::counter;
use tokio::sync::Semaphore;

pub use address::{Peer, TrustedProxies, network};
pub use cors::Origins;
pub use rate::{RateLimiters, RateLimits, by_address, by_caller};

use crate::http::observe;
use crate::problem::Problem;

/// Largest body.
const BODY_BYTES: usize = 10 * 1024 * 1024;
/// A request must be answered within this, its body and all waits counted. Less than the balancer waits (75 s).
const REQUEST_WITHIN: Duration = Duration::from_secs(60);

/// How the API is protected.
pub struct Protection {
    /// Pages that may call it.
    pub origins: Origins,
    /// Proxies that say where a request comes from.
    pub trusted: TrustedProxies,
    /// Requests worked on at a time; beyond it 503.
    pub max_in_flight: usize,
}

impl Protection {
    /// The API with its layers; the first one that a request meets is the last one here.
    pub fn around(self, api: Router) -> Router {
        api.fallback(|| async { Problem::NotFound("path") })
            .method_not_allowed_fallback(|| async { Problem::Method })
            .layer(DefaultBodyLimit::max(BODY_BYTES))
            .layer(from_fn_with_state(self.trusted, address::resolve))
            .layer(from_fn(bound_time))
            .layer(from_fn_with_state(Arc::new(Semaphore::new(self.max_in_flight)), bound_in_flight))
            .layer(from_fn(uri::check))
            .layer(self.origins.layer())
            .layer(from_fn(observe))
    }
}

/// Everything that this port serves, with the headers that every answer has.
pub fn with_security_headers(routes: Router, production: bool) -> Router {
    routes.layer(from_fn_with_state(production, headers::set))
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

/// What is in the log already stays there: a create that is cut off here is found again by its `Idempotency-Key`.
async fn bound_time(request: Request, next: Next) -> Response {
    tokio::time::timeout(REQUEST_WITHIN, next.run(request)).await.unwrap_or_else(|_| {
        counter!("http_refused_total", "reason" => "time").increment(1);
        Problem::Unavailable("the request took too long").into_response()
    })
}
