//! The counters and the histogram of requests. Decides nothing about a request.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use metrics::{SharedString, counter, histogram};

/// The methods that are labels by their own name. Any other is `other`, because a word of a
/// caller's own would make a series of its own.
const METHODS: [(Method, &str); 7] = [
    (Method::GET, "GET"),
    (Method::POST, "POST"),
    (Method::PUT, "PUT"),
    (Method::PATCH, "PATCH"),
    (Method::DELETE, "DELETE"),
    (Method::HEAD, "HEAD"),
    (Method::OPTIONS, "OPTIONS"),
];

/// What a request is counted by, taken from it before it is handled.
pub struct RequestLabels {
    pub method: Method,
    /// The path as the routes declare it, or `unmatched`.
    pub route: Arc<str>,
}

impl RequestLabels {
    pub fn of(request: &Request) -> RequestLabels {
        let route = request.extensions().get::<MatchedPath>();
        RequestLabels {
            method: request.method().clone(),
            route: route.map_or("unmatched", MatchedPath::as_str).into(),
        }
    }

    /// Counts the request once it is answered.
    pub fn count(self, status: StatusCode, took: Duration) {
        let known = METHODS.iter().find(|(method, _)| *method == self.method);
        let method = known.map_or("other", |(_, name)| name);
        let route = SharedString::from(self.route);
        let status = status.as_u16().to_string();
        counter!(
            "http_requests_total",
            "method" => method, "route" => route.clone(), "status" => status
        )
        .increment(1);
        histogram!("http_request_seconds", "route" => route).record(took.as_secs_f64());
    }
}
