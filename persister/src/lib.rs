//! The persister: keeps MongoDB as a view of the log, and answers the other services' queries from
//! the view. No other crate depends on a MongoDB driver. Any number of replicas share one consumer,
//! because their writes do not depend on order.
//!
//! `consume` takes batches from the log. `view` writes them, and `fold` has the pure rules for
//! documents that depend on more than one event. `queries` answers. `mongo` has everything about
//! MongoDB itself. `progress` knows how far the view is, and `latency` how long messages take.

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

pub use mongo::client::DatabaseError;
pub use mongo::dev::initiate_replica_set;
pub use view::{Stored, Verdict, View};

/// How many events a ready persister may be behind. Beyond that reads would be too old, and the
/// persister is not ready.
const READY_LAG: u64 = 100_000;

/// Settings of the persister.
pub struct Config {
    /// The settings of every service.
    pub common: Common,
    /// `PERSISTER_PORT`: health and metrics.
    pub port: u16,
    /// `MONGODB_URI`, with the database's name.
    pub mongodb_uri: SecretString,
}

impl Config {
    /// Reads the settings; problems stay in `settings`.
    pub fn read(settings: &mut Settings) -> Config {
        let common = Common::read(settings, "persister");
        let port = settings
            .named("PERSISTER_PORT", "Port for health and metrics.")
            .port(4010);
        let mongodb_uri = settings
            .named(
                "MONGODB_URI",
                "The database, with its name. The database must be a replica set.",
            )
            .sensitive()
            .example("mongodb://127.0.0.1:27017/petbuddy?replicaSet=rs0")
            .required("such as mongodb://127.0.0.1:27017/petbuddy?replicaSet=rs0");
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
/// The settings cannot work, or a worker ended. A MongoDB or NATS that is away is no error: the
/// persister waits for it.
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
    queries::answer(&service, view.collections.clone(), progress.clone()).await?;
    service.spawn(
        "progress",
        progress.watch(service.connection.clone(), service.stop.clone()),
    );
    let watch = mongo::indexes::watch(
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

/// Runs the service as a process of its own.
pub fn main() -> ExitCode {
    service::main(Config::read, run)
}
