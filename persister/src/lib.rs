//! The persister: keeps MongoDB as a view of the log, and answers the other services' queries from
//! it. The only code that knows MongoDB. Any number of replicas share one consumer, because what
//! they write does not depend on order.

mod consume;
mod fold;
mod latency;
mod mongo;
mod progress;
mod queries;
mod view;

use std::net::SocketAddr;
use std::process::ExitCode;

use runtime::CancellationToken;
use runtime::consume::worker::watch_lag;
use runtime::service::settings::{Common, Settings};
use runtime::service::{self, Service, ServiceError};
use secrecy::SecretString;

use crate::progress::Progress;

pub use mongo::{DatabaseError, initiate_replica_set};
pub use view::{Stored, Verdict, View};

/// So many events behind, a persister is not ready: reads would be too old.
const READY_LAG: u64 = 100_000;

/// Settings of the persister.
pub struct Config {
    /// What every service has.
    pub common: Common,
    /// `PERSISTER_PORT`: health and metrics.
    pub port: u16,
    /// `MONGODB_URI`, with the database's name.
    pub mongodb_uri: SecretString,
}

impl Config {
    /// Reads them.
    pub fn read(settings: &mut Settings) -> Config {
        let common = Common::read(settings, "persister");
        let port = settings.number("PERSISTER_PORT", 4010, 1..=u16::MAX);
        let mongodb_uri = settings.required(
            "MONGODB_URI",
            "such as mongodb://127.0.0.1:27017/petbuddy?replicaSet=rs0",
        );
        Config {
            common,
            port,
            mongodb_uri: mongodb_uri.into(),
        }
    }
}

/// Runs until `shutdown`.
///
/// # Errors
/// The settings cannot work, or a worker ended. A MongoDB or NATS that is away is none: it waits
/// for them.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ServiceError> {
    let mut service = Service::start("persister", &config.common, shutdown).await?;
    service.health.expect(&["mongodb", "lag"]);
    let view = View::open(&config.mongodb_uri)
        .await
        .map_err(|e| ServiceError::Start(e.to_string()))?;
    service
        .serve_ops(SocketAddr::new(config.common.host, config.port))
        .await?;
    let progress = Progress::default();
    queries::answer(&service, &view, progress.clone()).await?;
    service.spawn(
        "progress",
        progress.watch(service.connection.clone(), service.stop.clone()),
    );
    let watch = mongo::watch(
        view.database().clone(),
        service.health.clone(),
        service.stop.clone(),
    );
    service.spawn("database watch", watch);
    let latencies = view.latencies.clone().write(
        view.collections.persist_latencies.clone(),
        service.stop.clone(),
    );
    service.spawn("latencies", latencies);
    let lag = watch_lag(
        service.connection.clone(),
        consume::SOURCE,
        service.health.clone(),
        READY_LAG,
        service.stop.clone(),
    );
    service.spawn("lag watch", lag);
    let consume = consume::run(
        service.connection.clone(),
        service.health.clone(),
        view,
        service.stop.clone(),
    );
    service.spawn("consume", consume);
    service.finish().await
}

/// The process.
pub fn main() -> ExitCode {
    service::main(Config::read, run)
}
