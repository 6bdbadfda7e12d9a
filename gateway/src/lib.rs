//! The gateway: the REST API. A change becomes an event that is answered once it is on disk in the log; a read becomes a
//! query to the persister. It holds no state that a second gateway would need, and no database credential.

mod auth;
mod delivery;
mod http;
mod log;
mod prefer;
mod problem;
mod routes;
mod validate;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use nats::runtime::CancellationToken;
use nats::runtime::publish::Publisher;
use nats::runtime::seal::Keyring;
use nats::runtime::service::{self, Service, ServiceError};
use nats::runtime::settings::{Common, Settings};
use secrecy::SecretString;

use auth::{Passwords, Tokens};
use delivery::Waits;
use log::Log;

/// Settings of the gateway.
pub struct Config {
    /// What every service has.
    pub common: Common,
    /// `PORT`
    pub port: u16,
    /// `JWT_ACCESS_SECRET`: signs access tokens.
    pub access_secret: SecretString,
    /// `INTERNAL_SERVICE_API_KEY`: what channel bots send as `x-api-key`.
    pub internal_key: SecretString,
    /// `ACCESS_TOKEN_TTL`
    pub access_ttl: Duration,
    /// `BCRYPT_SALT_ROUNDS`
    pub bcrypt_rounds: u32,
    /// `ENCRYPTION_KEYS`: seal the platforms' access tokens.
    pub keyring: Keyring,
    /// `MAX_IN_FLIGHT`: requests worked on at a time; beyond it 503.
    pub max_in_flight: usize,
}

impl Config {
    /// Reads them.
    pub fn read(settings: &mut Settings) -> Config {
        const DAY: Duration = Duration::from_secs(86_400);
        Config {
            common: Common::read(settings, "gateway"),
            port: settings.number("PORT", 4000, 1..=u16::MAX),
            access_secret: settings.secret("JWT_ACCESS_SECRET"),
            internal_key: settings.secret("INTERNAL_SERVICE_API_KEY"),
            access_ttl: settings.duration("ACCESS_TOKEN_TTL", Duration::from_secs(900), Duration::from_secs(1)..=DAY),
            // Fewer than 10 is too few to protect anybody, more than 15 takes seconds.
            bcrypt_rounds: settings.number("BCRYPT_SALT_ROUNDS", 12, 10..=15),
            keyring: Keyring::read(settings),
            max_in_flight: settings.number("MAX_IN_FLIGHT", 2_048, 1..=100_000),
        }
    }
}

/// Runs until `shutdown`, then answers what it has accepted.
///
/// # Errors
/// The port cannot be had, or a task ended.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ServiceError> {
    let mut service = Service::start("gateway", &config.common, shutdown).await?;
    service.health.expect(&["log"]);
    let publisher = Publisher::start(service.connection.clone(), &service.tasks);
    // Reads that wait for a database that is away must leave room for creates, which do not need it.
    let a_quarter = (config.max_in_flight / 4).max(1);
    let log = Log::new(service.connection.clone(), publisher, a_quarter);
    let watch = log::watch(service.connection.clone(), service.health.clone(), service.stop.clone());
    service.spawn("log watch", watch);
    let app = routes::App {
        log,
        keyring: config.keyring,
        waits: Waits::new(service.connection.clone(), a_quarter, service.stop.clone()),
        tokens: Tokens::new(&config.access_secret, config.access_ttl, &config.internal_key),
        passwords: Passwords::new(config.bcrypt_rounds).map_err(|e| ServiceError::Start(e.to_string()))?,
    };
    let router = http::protect(routes::router(app), config.max_in_flight).merge(service.ops_routes());
    http::serve(&mut service, SocketAddr::new(config.common.host, config.port), router).await?;
    service.finish().await
}

/// The process.
pub fn main() -> ExitCode {
    service::main(Config::read, run)
}
