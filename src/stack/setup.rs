//! Brings streams, consumers and buckets of a NATS server to the contract, as the user `operator`.
//! Their definitions are in `contract::inventory`. A change that could lose data is reported and
//! not made.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use contract::{Id, Timestamp, inventory};
use runtime::net::connection::Connection;
use runtime::service::settings::{NatsSettings, Settings};
use runtime::setup::{Report, Sizes, reconcile};
use tokio::time::{Instant, interval};

use crate::failure::Failure;

/// How long the server, or the leaders of a cluster, may take to start. After that the setup fails.
const LIMIT: Duration = Duration::from_secs(60);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(250);

/// Reads `NATS_REPLICAS` and `EVENTS_MAX_BYTES`.
pub fn sizes(settings: &mut Settings) -> Sizes {
    Sizes {
        replicas: settings
            .named(
                "NATS_REPLICAS",
                "Copies of every stream and bucket; 3 in a cluster of three.",
            )
            .number(1, 1..=5),
        events_max_bytes: settings
            .named(
                "EVENTS_MAX_BYTES",
                "Disk that the log, the stream `EVENTS`, may take on each node. When the log is \
                 full, it refuses new messages.",
            )
            .accepts("bytes")
            .number(inventory::EVENTS_MAX_BYTES, 1..=i64::MAX),
    }
}

/// Reconciles the server with the contract. Waits for a server that is still starting.
///
/// # Errors
/// The setup is not done within [`LIMIT`], or the server has no room for the streams.
pub async fn run(nats: &NatsSettings, sizes: Sizes) -> Result<Report, Failure> {
    let connection = Connection::open(nats, "operator", Id::generate(Timestamp::now()))
        .await
        .map_err(|e| Failure::Settings(format!("NATS_URL cannot be used: {e}")))?;
    let deadline = Instant::now() + LIMIT;
    let mut pause = interval(PAUSE);
    let mut reason =
        "no connection; is NATS_URL right, and NATS_PASSWORD that of the user?".to_owned();
    while Instant::now() < deadline {
        pause.tick().await;
        if !connection.is_connected() {
            continue;
        }
        match reconcile(&connection.jetstream, sizes).await {
            Ok(report) => return Ok(report),
            Err(e) => match e.code() {
                Some(ErrorCode::STORAGE_RESOURCES_EXCEEDED | ErrorCode::INSUFFICIENT_RESOURCES) => {
                    return Err(Failure::NoRoom(e.to_string()));
                }
                Some(ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED) => {
                    return Err(Failure::Settings(format!(
                        "NATS_REPLICAS is {}, but the server of NATS_URL belongs to no cluster ({e})",
                        sizes.replicas
                    )));
                }
                // A cluster that is still forming has too few servers as well.
                Some(ErrorCode::CLUSTER_NO_PEERS) => {
                    reason = format!(
                        "fewer than NATS_REPLICAS={} servers are up, or one of them has no room ({e})",
                        sizes.replicas
                    );
                }
                _ => reason = e.to_string(),
            },
        }
    }
    Err(Failure::NotReady {
        what: "NATS".into(),
        limit: LIMIT,
        reason,
    })
}
