//! The settings that several services read: each is declared here once.

use std::fmt;
use std::net::IpAddr;

use secrecy::SecretString;

use super::reader::Settings;

/// Where the process runs; decides defaults that differ between a laptop and the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// `NODE_ENV=development`, the default.
    Development,
    /// `NODE_ENV=production`.
    Production,
    /// `NODE_ENV=test`.
    Test,
}

/// The settings that every service reads.
#[derive(Clone)]
pub struct Common {
    /// `NODE_ENV`
    pub environment: Environment,
    /// `LOG_LEVEL`
    pub log_level: String,
    /// `LOG_DIR`
    pub log_dir: String,
    /// `HOST`
    pub host: IpAddr,
    /// How to reach NATS.
    pub nats: NatsSettings,
}

/// How to reach NATS.
#[derive(Clone)]
pub struct NatsSettings {
    /// `NATS_URL`
    pub url: String,
    /// `NATS_USER`
    pub user: String,
    /// `NATS_PASSWORD`
    pub password: SecretString,
}

impl fmt::Debug for NatsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password too.
        f.debug_struct("NatsSettings")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Common {
    /// Reads the settings that all services have in common, for the service of this name.
    pub fn read(settings: &mut Settings, service: &str) -> Common {
        Common {
            environment: environment(settings),
            log_level: log_level(settings),
            log_dir: settings
                .named("LOG_DIR", "Folder of `combined.log` and `error.log`.")
                .text("logs"),
            host: host(settings),
            nats: NatsSettings::read(settings, service),
        }
    }
}

fn environment(settings: &mut Settings) -> Environment {
    let meaning = "Where the process runs. In `production` the console log is JSON, the \
                   scheduler demands the Facebook app, and no page of another origin is let in \
                   unless `CORS_ORIGINS` names it.";
    let text = settings
        .named("NODE_ENV", meaning)
        .accepts("development, production or test")
        .text("development");
    match text.as_str() {
        "development" => Environment::Development,
        "production" => Environment::Production,
        "test" => Environment::Test,
        other => {
            settings.problem(format!(
                "NODE_ENV must be development, production or test, not `{other}`"
            ));
            Environment::Production
        }
    }
}

fn log_level(settings: &mut Settings) -> String {
    const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
    let log_level = settings
        .named(
            "LOG_LEVEL",
            "Least severity that is logged. Bodies and tokens never are.",
        )
        .accepts("error, warn, info, debug or trace")
        .text("info");
    if !LEVELS.contains(&log_level.as_str()) {
        settings.problem(format!(
            "LOG_LEVEL must be error, warn, info, debug or trace, not `{log_level}`"
        ));
    }
    log_level
}

fn host(settings: &mut Settings) -> IpAddr {
    let host = settings
        .named("HOST", "IP address to listen on.")
        .text("127.0.0.1");
    host.parse().unwrap_or_else(|_| {
        settings.problem(format!(
            "HOST must be an IP address such as 0.0.0.0, not `{host}`"
        ));
        IpAddr::from([127, 0, 0, 1])
    })
}

impl NatsSettings {
    fn read(settings: &mut Settings, service: &str) -> NatsSettings {
        let url = settings
            .named(
                "NATS_URL",
                "NATS servers. One address may hold a login; then `NATS_USER` and \
                 `NATS_PASSWORD` are not needed.",
            )
            .accepts("a comma-separated list")
            .text("nats://127.0.0.1:4222");
        let password = settings
            .named("NATS_PASSWORD", "Password of the NATS user.")
            .sensitive();
        let password = match url.contains('@') {
            true => password.text(""),
            false => password.required(&format!(
                "the password of the NATS user `{service}`, see nats/server/users.conf"
            )),
        };
        NatsSettings {
            user: settings
                .named("NATS_USER", "NATS user.")
                .default_in_words("the service's name")
                .text(service),
            password: password.into(),
            url,
        }
    }
}

/// Reads `META_BOT_BASE_URL`, without the last slash.
pub fn meta_bot_base_url(settings: &mut Settings) -> String {
    settings
        .named("META_BOT_BASE_URL", "Base URL of the Meta bot.")
        .http_url("http://localhost:5001")
}

/// Reads `INTERNAL_SERVICE_API_KEY`: channel bots show it to the gateway, and the forwarder to the
/// Meta bot.
pub fn internal_api_key(settings: &mut Settings) -> SecretString {
    settings
        .named(
            "INTERNAL_SERVICE_API_KEY",
            "Key of internal services, header `x-api-key`. The bots show it to the gateway, the \
             forwarder to the Meta bot.",
        )
        .secret()
}
