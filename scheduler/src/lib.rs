//! The scheduler: runs periodic jobs. The NATS server makes the ticks; one of any number of
//! replicas takes a tick and runs its job. The scheduler has no timer that starts a job and no lock
//! of its own.
//!
//! `ticks` turns schedules into recorded runs, and `jobs` is the work of a run. The jobs that look
//! for expiring tokens enqueue them in `refresh`, which renews one token at a time. `platforms` are
//! the services outside that this crate calls.

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

use crate::jobs::digest::Gauges;
use crate::jobs::tools::Tools;
use crate::platforms::bot::Bot;
use crate::platforms::google::Google;
use crate::platforms::graph::Graph;
use crate::refresh::{Refresher, worker};
use crate::ticks::consume::{self, Ticks};
use crate::ticks::runs::Runs;
use crate::ticks::schedule::{self, ScheduleKeeper};

pub use config::{Config, GoogleSettings, GraphSettings};

/// Unprocessed ticks beyond which a scheduler is not ready.
const READY_LAG: u64 = 50;

/// Runs the scheduler until `shutdown`. Waits for a NATS server that cannot be reached.
///
/// # Errors
/// The settings cannot work, or a worker ended.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ServiceError> {
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
    let keeper = ScheduleKeeper {
        connection: connection.clone(),
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
        consume::SOURCE,
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
        // Before that, a task of the next run would be dropped as a duplicate.
        google_deadline: config
            .google_refresh_interval
            .max(inventory::DUPLICATE_WINDOW),
        clock: Timestamp::now,
        jitter: rand::random,
    };
    let tasks = Worker::new(
        connection.clone(),
        worker::SOURCE,
        service.health.clone(),
        service.stop.clone(),
    );
    service.spawn("work", worker::consume(refresher, tasks));
    let tools = Tools {
        connection: connection.clone(),
        publisher: Publisher::start(&mut service, None),
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
        consume::SOURCE,
        service.health.clone(),
        service.stop.clone(),
    );
    service.spawn("ticks", ticks.consume(worker));
    service.finish().await
}

/// Runs the scheduler as a process of its own.
pub fn main() -> ExitCode {
    service::main(Config::read, run)
}
