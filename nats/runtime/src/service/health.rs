//! Health of one service: named checks that the workers keep fresh, and the routes `/health`,
//! `/ready`, `/metrics`. Ready means that every check is good and was confirmed within
//! [`STALE_AFTER`]. So the check of a worker that hangs goes stale by itself. Makes no check but
//! that of the connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::CancellationToken;
use crate::net::connection::Connection;

/// How long a confirmation of a check holds. After that the check counts as failed.
pub const STALE_AFTER: Duration = Duration::from_secs(10);

struct Check {
    good: bool,
    detail: Value,
    at: Instant,
}

/// The checks of this process.
#[derive(Clone)]
pub struct Health {
    service: &'static str,
    instance: Arc<str>,
    checks: Arc<Mutex<BTreeMap<&'static str, Check>>>,
    stopping: CancellationToken,
}

impl Health {
    /// Begins without checks. Once `stopping` is cancelled, the service stays unready.
    pub fn new(service: &'static str, instance: Arc<str>, stopping: CancellationToken) -> Health {
        Health {
            service,
            instance,
            checks: Arc::default(),
            stopping,
        }
    }

    /// Announces checks that must be confirmed before the service is ready.
    pub fn expect(&self, names: &[&'static str]) {
        for name in names {
            self.set(name, false, json!("starting"));
        }
    }

    /// Confirms a check.
    pub fn good(&self, name: &'static str, detail: Value) {
        self.set(name, true, detail);
    }

    /// Fails a check.
    pub fn bad(&self, name: &'static str, detail: Value) {
        self.set(name, false, detail);
    }

    fn set(&self, name: &'static str, good: bool, detail: Value) {
        self.checks.lock().insert(
            name,
            Check {
                good,
                detail,
                at: Instant::now(),
            },
        );
    }

    /// Whether the service can do its work, and the state of each check.
    pub fn report(&self) -> (bool, Value) {
        let checks = self.checks.lock();
        let mut ready = !self.stopping.is_cancelled();
        let mut details = serde_json::Map::new();
        for (name, check) in &*checks {
            let fresh = check.at.elapsed() < STALE_AFTER;
            let status = match (check.good, fresh) {
                (true, true) => "ok",
                (true, false) => "stale",
                (false, _) => "failing",
            };
            ready &= status == "ok";
            details
                .insert((*name).into(), json!({"status": status, "detail": check.detail, "age_ms": check.at.elapsed().as_millis() as u64}));
        }
        let status = if self.stopping.is_cancelled() {
            "stopping"
        } else if ready {
            "ok"
        } else {
            "degraded"
        };
        (
            ready,
            json!({"status": status, "service": self.service, "instance": &*self.instance, "version": env!("CARGO_PKG_VERSION"), "checks": details}),
        )
    }
}

/// Confirms the check `nats` every second while there is a connection.
pub async fn watch_connection(health: Health, connection: Connection, stop: CancellationToken) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let state = connection.client.connection_state().to_string();
        match connection.is_connected() && !connection.is_lame_duck() {
            true => health.good("nats", json!({"state": state})),
            false => health.bad(
                "nats",
                json!({"state": state, "lame_duck": connection.is_lame_duck()}),
            ),
        }
    }
}

#[derive(Clone)]
struct Ops {
    health: Health,
    metrics: PrometheusHandle,
}

/// The routes that every service has.
pub fn routes(health: Health, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/health", get(show_health))
        .route("/ready", get(show_ready))
        .route("/metrics", get(show_metrics))
        .with_state(Ops { health, metrics })
}

/// Answers 200 as long as the process answers at all. The checks are in the body.
async fn show_health(State(ops): State<Ops>) -> Json<Value> {
    Json(ops.health.report().1)
}

async fn show_ready(State(ops): State<Ops>) -> Response {
    let (ready, report) = ops.health.report();
    (
        if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        },
        Json(report),
    )
        .into_response()
}

async fn show_metrics(State(ops): State<Ops>) -> Response {
    ops.metrics.run_upkeep();
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        ops.metrics.render(),
    )
        .into_response()
}
