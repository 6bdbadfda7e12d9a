//! The forwarder: takes operator messages from `OUTBOUND` to the Meta bot and tells the log how far each has come. It calls
//! nothing but the bot and keeps no state of its own; what waits, waits in the stream.

mod backoff;
mod bot;
mod forward;
mod outbound;
mod report;
mod verdict;

use std::net::SocketAddr;
use std::process::ExitCode;

use nats::runtime::CancellationToken;
use nats::runtime::publish::Publisher;
use nats::runtime::service::{self, Service, ServiceError};
use nats::runtime::settings::{Common, Settings};
use nats::runtime::worker::{Source, Worker, watch_lag};
use nats::{Timestamp, stream};
use secrecy::SecretString;

use crate::bot::Bot;
use crate::forward::Forwarder;

/// Messages in work at once in one replica, and so calls to the bot at once.
const CONCURRENT_CALLS: usize = 64;
/// Where they come from. Few ahead of need: their ack clock runs while they wait for a slot, and a call can take 10 s.
const SOURCE: Source = Source { stream: stream::OUTBOUND, consumer: stream::FORWARDER, prefetch: 8 };
/// So many messages behind, a forwarder is not ready. Generous: a backlog is what a bot that was down leaves behind.
const READY_LAG: u64 = 1_000_000;

/// Settings of the forwarder.
#[derive(Clone)]
pub struct Config {
    /// What every service has.
    pub common: Common,
    /// `FORWARDER_PORT`: health and metrics.
    pub port: u16,
    /// `META_BOT_BASE_URL`, without the last slash.
    pub bot_base_url: String,
    /// `INTERNAL_SERVICE_API_KEY`: shown to the bot.
    pub api_key: SecretString,
}

impl Config {
    /// Reads them.
    pub fn read(settings: &mut Settings) -> Config {
        Config {
            common: Common::read(settings, "forwarder"),
            port: settings.number("FORWARDER_PORT", 4020, 1..=u16::MAX),
            bot_base_url: settings.http_url("META_BOT_BASE_URL", "http://localhost:5001"),
            api_key: settings.secret("INTERNAL_SERVICE_API_KEY"),
        }
    }
}

/// Runs until `shutdown`.
///
/// # Errors
/// The settings cannot work, or a worker ended. A bot or NATS that is away is none: it waits for them.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ServiceError> {
    // An error means that the process has chosen its provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut service = Service::start("forwarder", &config.common, shutdown).await?;
    service.health.expect(&["meta_bot", "lag"]);
    let bot = Bot::new(config.bot_base_url, &config.api_key).map_err(|e| ServiceError::Start(e.to_string()))?;
    service.serve_ops(SocketAddr::new(config.common.host, config.port)).await?;
    service.spawn("bot watch", bot::watch(bot.clone(), service.health.clone(), service.stop.clone()));
    let lag = watch_lag(service.connection.clone(), SOURCE, service.health.clone(), READY_LAG, service.stop.clone());
    service.spawn("lag watch", lag);
    let forwarder = Forwarder {
        connection: service.connection.clone(),
        // It outlives the stop for as long as `forwarder` does: the results of calls under way must still reach the log.
        publisher: Publisher::start(service.connection.clone(), &service.tasks),
        bot,
        stop: service.stop.clone(),
        clock: Timestamp::now,
        jitter: rand::random,
    };
    let worker = Worker::new(service.connection.clone(), SOURCE, service.health.clone(), service.stop.clone());
    service.spawn("forward", async move {
        worker
            .run_each(CONCURRENT_CALLS, |delivery| {
                let forwarder = forwarder.clone();
                async move { forwarder.forward(&delivery).await }
            })
            .await;
    });
    service.finish().await
}

/// The process.
pub fn main() -> ExitCode {
    service::main(Config::read, run)
}
