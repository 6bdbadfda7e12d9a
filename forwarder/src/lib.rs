//! The forwarder: takes operators' messages from `OUTBOUND` to the Meta bot, each conversation in
//! order, and tells the log how far each message has come. Calls nothing but the bot, and keeps no
//! message: a message that waits, waits in the stream.
//!
//! `relay` brings the messages from the log into `OUTBOUND`. `partition` shares the partitions among
//! the forwarders, and decides whose turn it is in a partition's lanes. `delivery` takes one message
//! as far as it goes. `bot` makes the calls, and its `admission` with the `breaker` decides when a
//! call may begin. The folders depend on one another in this order only.

mod bot;
mod delivery;
mod partition;
mod relay;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use contract::Timestamp;
use contract::subject::PARTITIONS;
use runtime::CancellationToken;
use runtime::log::publisher::Publisher;
use runtime::seal::Keyring;
use runtime::service::settings::{Common, Settings, internal_api_key, meta_bot_base_url};
use runtime::service::{self, Service, ServiceError};
use secrecy::SecretString;
use tokio::sync::watch;

use crate::bot::Bot;
use crate::bot::admission::{Admission, CALLS_AT_ONCE};
use crate::delivery::forwarder::Forwarder;
use crate::delivery::lane_store::LaneStore;
use crate::delivery::refusals::Refusals;
use crate::delivery::token_holds::TokenHolds;
use crate::partition::{Partition, partition_assignment, standing};

/// The default for how old a message may get. An older message becomes a dead letter, because Meta
/// lets a company answer for 24 hours.
const DEADLINE: Duration = Duration::from_secs(24 * 3_600);
/// The shortest and longest deadline that can be set. The entries of the bucket `lanes` and the ack
/// wait outlive the longest.
const DEADLINES: (Duration, Duration) = (Duration::from_secs(1), DEADLINE);
/// The default for calls a second in one replica. Further calls wait.
const CALLS_A_SECOND: u32 = 500;

/// Settings of the forwarder.
#[derive(Clone)]
pub struct Config {
    /// The settings of every service.
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
    /// Reads the settings; problems stay in `settings`.
    pub fn read(settings: &mut Settings) -> Config {
        Config {
            common: Common::read(settings, "forwarder"),
            port: settings
                .named("FORWARDER_PORT", "Port for health and metrics.")
                .port(4020),
            bot_base_url: meta_bot_base_url(settings),
            api_key: internal_api_key(settings),
            keyring: Keyring::read(settings),
            deadline: settings
                .named(
                    "FORWARDER_DEADLINE",
                    "How old an operator's message may get before it becomes a dead letter. The \
                     default is Meta's messaging window.",
                )
                .duration(DEADLINE, DEADLINES.0..=DEADLINES.1),
            longest_pause: settings
                .named(
                    "FORWARDER_MAX_RETRY_PAUSE",
                    "Longest pause between two calls for a message, unless the bot asks for more.",
                )
                .duration(
                    bot::backoff::LONGEST,
                    bot::backoff::FIRST..=bot::backoff::LONGEST_RETRY_AFTER,
                ),
            call_timeout: settings
                .named(
                    "FORWARDER_CALL_TIMEOUT",
                    "How long the Meta bot may take to answer.",
                )
                .duration(
                    bot::CALL_TIMEOUT,
                    bot::CALL_TIMEOUTS.0..=bot::CALL_TIMEOUTS.1,
                ),
            calls_a_second: settings
                .named(
                    "FORWARDER_MAX_CALLS_PER_SECOND",
                    "Calls to the Meta bot a second that one forwarder makes at most; 64 at once.",
                )
                .number(CALLS_A_SECOND, 1..=10_000),
        }
    }
}

/// Runs until `shutdown`.
///
/// # Errors
/// The settings cannot work, or a worker ended. A bot or NATS that is away is no error: the forwarder
/// waits for it.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ServiceError> {
    let mut service = Service::start("forwarder", &config.common, shutdown).await?;
    service.health.expect(&["meta_bot", "lag"]);
    let bot = Bot::new(config.bot_base_url, &config.api_key, config.call_timeout)
        .map_err(|e| ServiceError::Start(e.to_string()))?;
    service
        .serve_ops(SocketAddr::new(config.common.host, config.port))
        .await?;
    let (connection, stop) = (service.connection.clone(), service.stop.clone());
    let admission = Admission::new(CALLS_AT_ONCE, config.calls_a_second);
    let watch_bot =
        admission
            .clone()
            .watch(connection.clone(), service.health.clone(), stop.clone());
    service.spawn("bot watch", watch_bot);
    let holds = TokenHolds::default();
    service.spawn(
        "holds",
        holds.clone().watch(connection.clone(), stop.clone()),
    );
    let forwarder = Forwarder {
        connection: connection.clone(),
        // The publisher outlives the stop for as long as `forwarder` does. Otherwise the results of
        // calls under way could not reach the log.
        publisher: Publisher::start(&mut service, None),
        bot,
        keyring: config.keyring,
        holds: holds.clone(),
        refusals: Refusals::default(),
        lane_store: LaneStore::new(connection.clone()),
        deadline: config.deadline,
        longest_pause: config.longest_pause,
        stop: stop.clone(),
        clock: Timestamp::now,
        jitter: rand::random,
    };
    relay::start(&mut service);
    let (sender, assigned) = watch::channel(BTreeSet::new());
    service.spawn(
        "members",
        partition_assignment::watch(connection, sender, stop.clone()),
    );
    let mut standings = Vec::new();
    for number in 0..PARTITIONS {
        let (partition, standing) = Partition::new(
            number,
            forwarder.clone(),
            admission.clone(),
            assigned.clone(),
            stop.clone(),
        );
        standings.push(standing);
        service.spawn("partition", partition.run());
    }
    let show = standing::show(standings, assigned, holds, service.health.clone(), stop);
    service.spawn("standings", show);
    drop(forwarder);
    service.finish().await
}

/// Runs the service as a process of its own.
pub fn main() -> ExitCode {
    service::main(Config::read, run)
}
