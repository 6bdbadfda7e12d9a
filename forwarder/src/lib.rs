//! The forwarder: takes operator messages from `OUTBOUND` to the Meta bot, each conversation in
//! order, and tells the log how far each has come. It calls nothing but the bot and keeps no
//! message: what waits, waits in the stream.
//!
//! `members` shares out the partitions; `partition` works one off by its `lane`s; `gate` with its
//! `breaker` lets calls through; `forward` is the way of one message, with the tables in `verdict`
//! and `backoff`; `holds` waits for tokens, `entries` tells why.

mod bot;
mod delivery;
mod partition;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use contract::Timestamp;
use contract::subject::PARTITIONS;
use runtime::CancellationToken;
use runtime::log::publisher::Publisher;
use runtime::seal::Keyring;
use runtime::service::settings::{Common, Settings};
use runtime::service::{self, Service, ServiceError};
use secrecy::SecretString;
use tokio::sync::watch;

use crate::bot::Bot;
use crate::bot::admission::Gate;
use crate::delivery::forward::Forwarder;
use crate::delivery::lane_store::Entries;
use crate::delivery::token_holds::Holds;
use crate::partition::{Partition, Standings, partition_assignment};

/// Calls to the bot at once in one replica.
const CALLS_AT_ONCE: usize = 64;
/// Meta lets a company answer for 24 hours; a message older than that is not sent any more.
const DEADLINE: Duration = Duration::from_secs(24 * 3_600);
/// The shortest and longest deadline that can be set. Lanes' entries and the ack wait outlive the
/// longest.
const DEADLINES: (Duration, Duration) = (Duration::from_secs(1), DEADLINE);
/// Calls a second in one replica, unless set otherwise.
const CALLS_A_SECOND: u32 = 500;

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
    /// `ENCRYPTION_KEYS`: opens the companies' tokens.
    pub keyring: Keyring,
    /// `FORWARDER_DEADLINE`: how old a message may get, 1 s to 24 h.
    pub deadline: Duration,
    /// `FORWARDER_MAX_RETRY_PAUSE`: between two calls for a message, 1 s to 1 h, unless the bot
    /// asks for more.
    pub longest_pause: Duration,
    /// `FORWARDER_CALL_TIMEOUT`: how long the bot may take to answer, 1 s to 15 s.
    pub call_timeout: Duration,
    /// `FORWARDER_MAX_CALLS_PER_SECOND`: of one replica, 1 to 10,000.
    pub calls_a_second: u32,
}

impl Config {
    /// Reads them.
    pub fn read(settings: &mut Settings) -> Config {
        Config {
            common: Common::read(settings, "forwarder"),
            port: settings.number("FORWARDER_PORT", 4020, 1..=u16::MAX),
            bot_base_url: settings.http_url("META_BOT_BASE_URL", "http://localhost:5001"),
            api_key: settings.secret("INTERNAL_SERVICE_API_KEY"),
            keyring: Keyring::read(settings),
            deadline: settings.duration("FORWARDER_DEADLINE", DEADLINE, DEADLINES.0..=DEADLINES.1),
            longest_pause: settings.duration(
                "FORWARDER_MAX_RETRY_PAUSE",
                bot::backoff::LONGEST,
                bot::backoff::FIRST..=bot::backoff::LONGEST_RETRY_AFTER,
            ),
            call_timeout: settings.duration(
                "FORWARDER_CALL_TIMEOUT",
                bot::CALL_TIMEOUT,
                bot::CALL_TIMEOUTS.0..=bot::CALL_TIMEOUTS.1,
            ),
            calls_a_second: settings.number(
                "FORWARDER_MAX_CALLS_PER_SECOND",
                CALLS_A_SECOND,
                1..=10_000,
            ),
        }
    }
}

/// Runs until `shutdown`.
///
/// # Errors
/// The settings cannot work, or a worker ended. A bot or NATS that is away is none: it waits for
/// them.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ServiceError> {
    // An error means that the process has chosen its provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut service = Service::start("forwarder", &config.common, shutdown).await?;
    service.health.expect(&["meta_bot", "lag"]);
    let bot = Bot::new(config.bot_base_url, &config.api_key, config.call_timeout)
        .map_err(|e| ServiceError::Start(e.to_string()))?;
    service
        .serve_ops(SocketAddr::new(config.common.host, config.port))
        .await?;
    let (connection, stop) = (service.connection.clone(), service.stop.clone());
    let gate = Gate::new(CALLS_AT_ONCE, config.calls_a_second);
    service.spawn(
        "bot watch",
        gate.clone()
            .watch(connection.clone(), service.health.clone(), stop.clone()),
    );
    let holds = Holds::default();
    service.spawn(
        "holds",
        holds.clone().watch(connection.clone(), stop.clone()),
    );
    let forwarder = Forwarder {
        connection: connection.clone(),
        // It outlives the stop for as long as `forwarder` does: the results of calls under way must
        // still reach the log.
        publisher: Publisher::start(&mut service),
        bot,
        keyring: config.keyring,
        holds: holds.clone(),
        entries: Entries::new(connection.clone()),
        deadline: config.deadline,
        longest_pause: config.longest_pause,
        stop: stop.clone(),
        clock: Timestamp::now,
        jitter: rand::random,
    };
    let (sender, mine) = watch::channel(BTreeSet::new());
    service.spawn(
        "members",
        partition_assignment::watch(connection, sender, stop.clone()),
    );
    let standings = Standings::default();
    service.spawn(
        "standings",
        partition::show(
            standings.clone(),
            mine.clone(),
            holds,
            service.health.clone(),
            stop.clone(),
        ),
    );
    for number in 0..PARTITIONS {
        let partition = Partition::new(
            number,
            forwarder.clone(),
            gate.clone(),
            mine.clone(),
            standings.clone(),
            stop.clone(),
        );
        service.spawn("partition", partition.run());
    }
    drop(forwarder);
    service.finish().await
}

/// The process.
pub fn main() -> ExitCode {
    service::main(Config::read, run)
}
