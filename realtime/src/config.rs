//! Settings of the service, read once at start. Limits that nobody should have to tune are constants beside their use.

use nats::runtime::settings::{Common, Settings};
use secrecy::SecretString;

/// Port where none is set.
const DEFAULT_PORT: u16 = 4001;
/// Sockets of one node where none is set.
const DEFAULT_MAX_SOCKETS: usize = 20_000;

/// What the service needs to know.
#[derive(Clone)]
pub struct Config {
    /// What every service reads.
    pub common: Common,
    /// `REALTIME_PORT`
    pub port: u16,
    /// `JWT_ACCESS_SECRET`: checks access tokens; the gateway signs with the same.
    pub access_secret: SecretString,
    /// `CORS_ORIGINS`: the pages that may open sockets; empty or `*` means any.
    pub origins: Vec<String>,
    /// `MAX_SOCKETS`: open sockets of this node; the next one gets 503.
    pub max_sockets: usize,
}

impl Config {
    /// Reads it; problems stay in `settings`.
    pub fn read(settings: &mut Settings) -> Config {
        Config {
            common: Common::read(settings, "realtime"),
            port: settings.number("REALTIME_PORT", DEFAULT_PORT, 1..=u16::MAX),
            access_secret: settings.secret("JWT_ACCESS_SECRET"),
            origins: settings.list("CORS_ORIGINS"),
            max_sockets: settings.number("MAX_SOCKETS", DEFAULT_MAX_SOCKETS, 1..=1_000_000),
        }
    }
}
