//! The scheduler: runs periodic jobs. The NATS server ticks; one of any number of replicas takes a tick and does the job.
//! It has no timer that starts a job and no lock of its own.

mod jobs;
mod runs;
mod schedule;
mod tick;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nats::Timestamp;
use nats::runtime::CancellationToken;
use nats::runtime::publish::Publisher;
use nats::runtime::service::{self, Service, ServiceError};
use nats::runtime::settings::{Common, Environment, Settings};
use nats::runtime::worker::{Worker, watch_lag};
use secrecy::SecretString;

use crate::jobs::Tools;
use crate::runs::Runs;
use crate::schedule::Keeper;
use crate::tick::Ticks;

/// How often a job may run: the server's schedules count in whole seconds.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30 * 86_400));
/// How long after the start a job that has never run, or is overdue, may wait.
const FIRST_DELAYS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3_600));
/// So many ticks behind, a scheduler is not ready.
const READY_LAG: u64 = 50;

/// Facebook's Graph API, for refreshing tokens. Read and checked now; used once integrations exist.
#[derive(Clone)]
pub struct Graph {
    /// `FACEBOOK_APP_ID`: required in production.
    pub app_id: Option<String>,
    /// `FACEBOOK_APP_SECRET`: required in production.
    pub app_secret: Option<SecretString>,
    /// `FACEBOOK_GRAPH_VERSION`
    pub version: String,
    /// `FACEBOOK_GRAPH_BASE_URL`, without the last slash.
    pub base_url: String,
}

impl Graph {
    fn read(settings: &mut Settings, environment: Environment) -> Graph {
        let app_id = settings.optional("FACEBOOK_APP_ID");
        let app_secret = settings.optional("FACEBOOK_APP_SECRET");
        for (name, missing) in [("FACEBOOK_APP_ID", app_id.is_none()), ("FACEBOOK_APP_SECRET", app_secret.is_none())] {
            if missing && environment == Environment::Production {
                settings.problem(format!("{name} is not set: copy it from the app's page at Meta for Developers"));
            }
        }
        let version = settings.text("FACEBOOK_GRAPH_VERSION", "v18.0");
        if !is_version(&version) {
            settings.problem(format!("FACEBOOK_GRAPH_VERSION must be such as v18.0, not `{version}`"));
        }
        let base_url = settings.http_url("FACEBOOK_GRAPH_BASE_URL", "https://graph.facebook.com");
        Graph { app_id, app_secret: app_secret.map(SecretString::from), version, base_url }
    }
}

fn is_version(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
    text.strip_prefix('v').and_then(|v| v.split_once('.')).is_some_and(|(major, minor)| digits(major) && digits(minor))
}

/// Settings of the scheduler.
#[derive(Clone)]
pub struct Config {
    /// What every service has.
    pub common: Common,
    /// `SCHEDULER_PORT`: health and metrics.
    pub port: u16,
    /// `TOKEN_REFRESH_INTERVAL`: 1 s to 30 days, whole seconds.
    pub token_refresh_interval: Duration,
    /// `TOKEN_REFRESH_FIRST_DELAY`: from the start to the first run, if one is due. 1 s to 1 h.
    pub token_refresh_first_delay: Duration,
    /// `SLA_SWEEP_INTERVAL`: how often messages are looked for that missed their target. 1 s to 30 days, whole seconds.
    pub sla_sweep_interval: Duration,
    /// The Graph API.
    pub graph: Graph,
}

impl Config {
    /// Reads them.
    pub fn read(settings: &mut Settings) -> Config {
        let common = Common::read(settings, "scheduler");
        let graph = Graph::read(settings, common.environment);
        let range = INTERVALS.0..=INTERVALS.1;
        let token_refresh_interval = settings.duration("TOKEN_REFRESH_INTERVAL", Duration::from_secs(86_400), range.clone());
        let sla_sweep_interval = settings.duration("SLA_SWEEP_INTERVAL", Duration::from_secs(10), range);
        for (name, interval) in [("TOKEN_REFRESH_INTERVAL", token_refresh_interval), ("SLA_SWEEP_INTERVAL", sla_sweep_interval)] {
            if interval.subsec_nanos() != 0 {
                settings.problem(format!("{name} must be whole seconds"));
            }
        }
        Config {
            common,
            token_refresh_interval,
            sla_sweep_interval,
            port: settings.number("SCHEDULER_PORT", 4030, 1..=u16::MAX),
            token_refresh_first_delay: settings.duration(
                "TOKEN_REFRESH_FIRST_DELAY",
                Duration::from_secs(10),
                FIRST_DELAYS.0..=FIRST_DELAYS.1,
            ),
            graph,
        }
    }
}

/// Runs until `shutdown`.
///
/// # Errors
/// The settings cannot work, or a worker ended. A NATS that is away is none: it waits for it.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ServiceError> {
    let mut service = Service::start("scheduler", &config.common, shutdown).await?;
    service.health.expect(&[schedule::CHECK, "lag"]);
    service.serve_ops(SocketAddr::new(config.common.host, config.port)).await?;
    let jobs: Arc<[jobs::Job]> = jobs::table(&config).into();
    let runs = Runs::new(service.connection.jetstream.clone());
    let keeper = Keeper {
        jetstream: service.connection.jetstream.clone(),
        jobs: jobs.clone(),
        runs: runs.clone(),
        health: service.health.clone(),
        stop: service.stop.clone(),
        clock: Timestamp::now,
    };
    service.spawn("schedules", keeper.run());
    let lag = watch_lag(service.connection.clone(), tick::SOURCE, service.health.clone(), READY_LAG, service.stop.clone());
    service.spawn("lag watch", lag);
    let tools = Tools {
        connection: service.connection.clone(),
        publisher: Publisher::start(service.connection.clone(), &service.tasks),
        clock: Timestamp::now,
    };
    let instance = service.connection.instance.clone();
    let ticks = Ticks { jobs, tools, runs, instance, stop: service.stop.clone(), clock: Timestamp::now };
    let worker = Worker::new(service.connection.clone(), tick::SOURCE, service.health.clone(), service.stop.clone());
    service.spawn("ticks", ticks.consume(worker));
    service.finish().await
}

/// The process.
pub fn main() -> ExitCode {
    service::main(Config::read, run)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[(&str, &str)]) -> (Config, Option<String>) {
        let password = [("NATS_PASSWORD", "n")];
        let mut settings = Settings::of(values.iter().chain(&password).map(|(k, v)| (k.to_string(), v.to_string())));
        let config = Config::read(&mut settings);
        (config, settings.finish().err().map(|e| e.to_string()))
    }

    #[test]
    fn the_defaults_work_in_development() {
        let (config, problems) = read(&[]);
        assert_eq!(problems, None);
        assert_eq!(config.token_refresh_interval, Duration::from_secs(24 * 3_600));
        assert_eq!(config.graph.version, "v18.0");
    }

    #[test]
    fn production_needs_the_facebook_app() {
        let problems = read(&[("NODE_ENV", "production")]).1.unwrap();
        assert!(problems.contains("FACEBOOK_APP_ID") && problems.contains("FACEBOOK_APP_SECRET"), "{problems}");
    }

    #[test]
    fn wrong_values_are_named() {
        for (name, value) in [
            ("TOKEN_REFRESH_INTERVAL", "1500ms"),
            ("TOKEN_REFRESH_INTERVAL", "500ms"),
            ("SLA_SWEEP_INTERVAL", "1500ms"),
            ("TOKEN_REFRESH_FIRST_DELAY", "2d"),
            ("FACEBOOK_GRAPH_VERSION", "18"),
            ("FACEBOOK_GRAPH_VERSION", "v18.x"),
            ("FACEBOOK_GRAPH_BASE_URL", "graph"),
        ] {
            assert!(read(&[(name, value)]).1.is_some_and(|p| p.contains(name)), "{name}={value}");
        }
    }
}
