//! The scheduler: runs periodic jobs. The NATS server ticks; one of any number of replicas takes a
//! tick and does the job. It has no timer that starts a job and no lock of its own.
//!
//! `schedule` keeps the schedules, `tick` takes ticks, `runs` decides what one means, `jobs` is
//! what they do. What a job hands out piece by piece, `work` takes: `refresh` renews one token,
//! with the table in `verdict`.

mod config;
mod jobs;
mod platforms;
mod refresh;
mod ticks;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use contract::{Timestamp, inventory};
use runtime::CancellationToken;
use runtime::consume::worker::{Worker, watch_lag};
use runtime::kv::bot_watch;
use runtime::log::publisher::Publisher;
use runtime::service::{self, Service, ServiceError};

use crate::jobs::Tools;
use crate::jobs::digest::Gauges;
use crate::platforms::bot::Bot;
use crate::platforms::google::Google;
use crate::platforms::graph::Graph;
use crate::refresh::{Refresher, queue};
use crate::ticks::runs::Runs;
use crate::ticks::schedule::{self, Keeper};
use crate::ticks::tick::{self, Ticks};

pub use config::{Config, GoogleSettings, GraphSettings};

/// So many ticks behind, a scheduler is not ready.
const READY_LAG: u64 = 50;

/// Runs until `shutdown`.
///
/// # Errors
/// The settings cannot work, or a worker ended. A NATS that is away is none: it waits for it.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ServiceError> {
    // An error means that the process has chosen its provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut service = Service::start("scheduler", &config.common, shutdown).await?;
    service
        .health
        .expect(&[schedule::CHECK, bot_watch::CHECK, "lag"]);
    let jobs: Arc<[jobs::Job]> = jobs::table(&config).into();
    let bot = Bot::new(&config.bot_base_url).map_err(ServiceError::Start)?;
    let graph = Graph::new(config.graph).map_err(ServiceError::Start)?;
    let google = Google::new(config.google).map_err(ServiceError::Start)?;
    service
        .serve_ops(SocketAddr::new(config.common.host, config.port))
        .await?;
    let connection = service.connection.clone();
    let runs = Runs::new(connection.jetstream.clone());
    let keeper = Keeper {
        jetstream: connection.jetstream.clone(),
        jobs: jobs.clone(),
        runs: runs.clone(),
        health: service.health.clone(),
        stop: service.stop.clone(),
        gauges: Gauges::default(),
        clock: Timestamp::now,
    };
    service.spawn("schedules", keeper.run());
    service.spawn(
        "bot watch",
        bot_watch::watch(
            connection.clone(),
            service.health.clone(),
            service.stop.clone(),
        ),
    );
    let lag = watch_lag(
        connection.clone(),
        tick::SOURCE,
        service.health.clone(),
        READY_LAG,
        service.stop.clone(),
    );
    service.spawn("lag watch", lag);
    let refresher = Refresher {
        connection: connection.clone(),
        keyring: config.keyring,
        graph: graph.clone(),
        deadline: config.token_refresh_deadline,
        google: google.clone(),
        // Before that, the next run hands it out in vain.
        google_deadline: config
            .google_refresh_interval
            .max(inventory::DUPLICATE_WINDOW),
        clock: Timestamp::now,
        jitter: rand::random,
    };
    let worker = Worker::new(
        connection.clone(),
        queue::SOURCE,
        service.health.clone(),
        service.stop.clone(),
    );
    service.spawn("work", queue::consume(refresher, worker));
    let tools = Tools {
        connection: connection.clone(),
        publisher: Publisher::start(&mut service),
        bot,
        refreshes_tokens: graph.is_some(),
        refreshes_google: google.map(|_| config.google_refresh_interval),
        clock: Timestamp::now,
    };
    let instance = connection.instance.clone();
    let ticks = Ticks {
        jobs,
        tools,
        runs,
        instance,
        stop: service.stop.clone(),
        clock: Timestamp::now,
    };
    let worker = Worker::new(
        connection,
        tick::SOURCE,
        service.health.clone(),
        service.stop.clone(),
    );
    service.spawn("ticks", ticks.consume(worker));
    service.finish().await
}

/// The process.
pub fn main() -> ExitCode {
    service::main(Config::read, run)
}
