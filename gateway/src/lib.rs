//! The gateway: the REST API. A change becomes an event that is answered once it is on disk in the
//! log; a read becomes a query to the persister. The gateway holds no state that a second gateway
//! would need, and no database credential.

mod api;
mod auth;
mod dedup;
mod log;
mod middleware;
mod openapi;
mod routes;
mod server;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use runtime::CancellationToken;
use runtime::kv::bot_watch;
use runtime::log::publisher::Publisher;
use runtime::net::access_token;
use runtime::net::origins::Origins;
use runtime::seal::Keyring;
use runtime::service::settings::{Common, Environment, Settings, internal_api_key};
use runtime::service::{self, Service, ServiceError};
use secrecy::{ExposeSecret, SecretString};

use auth::{Authenticator, Cookies, Lockout, LoginService, Passwords, Sessions, SignedTokens};
use dedup::Dedup;
use log::Log;
use middleware::{Protection, RateLimiters, RateLimits, TrustedProxies};
use routes::{App, DeadLetterAccess, DeliveryWaits};

/// Settings of the gateway.
pub struct Config {
    /// The settings that every service has.
    pub common: Common,
    /// `PORT`
    pub port: u16,
    /// `JWT_ACCESS_SECRET`: signs access tokens.
    pub access_secret: SecretString,
    /// `JWT_REFRESH_SECRET`: signs refresh tokens and invitations.
    pub refresh_secret: SecretString,
    /// `INTERNAL_SERVICE_API_KEY`: the key that channel bots send as `x-api-key`.
    pub internal_key: SecretString,
    /// `ACCESS_TOKEN_TTL`
    pub access_ttl: Duration,
    /// `REFRESH_TOKEN_TTL`: how long a login lasts without a refresh.
    pub refresh_ttl: Duration,
    /// `REFRESH_TOKEN_COOKIE`: refresh tokens come and go in cookies, and not in bodies.
    pub refresh_cookie: bool,
    /// `FRONTEND_URL`: the pages where an invitation can be accepted.
    pub frontend_url: Option<String>,
    /// `BCRYPT_SALT_ROUNDS`
    pub bcrypt_rounds: u32,
    /// `ENCRYPTION_KEYS`: seal the platforms' access tokens.
    pub keyring: Keyring,
    /// `MAX_IN_FLIGHT`: requests that are worked on at a time. Further ones get 503.
    pub max_in_flight: usize,
    /// `MAX_CONNECTIONS`: connections that are open at a time. A further one is closed at once.
    pub max_connections: usize,
    /// `MAX_CONNECTIONS_PER_ADDRESS`: of these, connections from one address that is no trusted
    /// proxy. 0 switches the limit off.
    pub max_connections_per_address: usize,
    /// `TRUSTED_PROXIES`: the proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: TrustedProxies,
    /// `CORS_ORIGINS`: pages of other origins that may call the API.
    pub origins: Origins,
    /// `RATE_LIMIT_*`
    pub rate_limits: RateLimits,
}

impl Config {
    /// Reads the settings; problems stay in `settings`.
    pub fn read(settings: &mut Settings) -> Config {
        const DAY: Duration = Duration::from_secs(86_400);
        let common = Common::read(settings, "gateway");
        let port = settings
            .named("PORT", "Port of the REST API, health and metrics.")
            .port(4000);
        let access_secret = access_token::read_secret(settings);
        let refresh_secret = settings
            .named(
                "JWT_REFRESH_SECRET",
                "Signs refresh tokens and invitations. Must differ from `JWT_ACCESS_SECRET`.",
            )
            .secret();
        if access_secret.expose_secret() == refresh_secret.expose_secret()
            && !access_secret.expose_secret().is_empty()
        {
            settings.problem("JWT_REFRESH_SECRET must differ from JWT_ACCESS_SECRET");
        }
        let access_ttl = settings
            .named("ACCESS_TOKEN_TTL", "How long an access token is valid.")
            .duration(Duration::from_secs(900), Duration::from_secs(1)..=DAY);
        let refresh_ttl = settings
            .named(
                "REFRESH_TOKEN_TTL",
                "How long a login lasts without a refresh. Not less than `ACCESS_TOKEN_TTL`.",
            )
            .duration(7 * DAY, Duration::from_secs(1)..=90 * DAY);
        if refresh_ttl < access_ttl {
            settings.problem("REFRESH_TOKEN_TTL must not be less than ACCESS_TOKEN_TTL");
        }
        Config {
            port,
            access_secret,
            refresh_secret,
            internal_key: internal_api_key(settings),
            keyring: Keyring::read(settings),
            access_ttl,
            refresh_ttl,
            refresh_cookie: settings
                .named(
                    "REFRESH_TOKEN_COOKIE",
                    "`true`: refresh tokens come and go in a cookie that no script can read, with \
                     CSRF protection, and not in bodies. Pages that use it must be of the API's \
                     own site.",
                )
                .flag(false),
            frontend_url: settings
                .named(
                    "FRONTEND_URL",
                    "Base URL of the pages, for the links of invitations. Without it an \
                     invitation is only a text.",
                )
                .example("https://app.example.com")
                .optional_http_url(),
            // Fewer than 10 is too few to protect anybody, more than 15 takes seconds.
            bcrypt_rounds: settings
                .named(
                    "BCRYPT_SALT_ROUNDS",
                    "Cost of a password hash: 2^N rounds of bcrypt.",
                )
                .number(12, 10..=15),
            max_in_flight: settings
                .named(
                    "MAX_IN_FLIGHT",
                    "Requests that one gateway works on at a time. The next one gets 503.",
                )
                .number(2_048, 1..=100_000),
            max_connections: settings
                .named(
                    "MAX_CONNECTIONS",
                    "Connections that one gateway holds open. A further one is closed at once. \
                     For more than 60000 raise `nofile` in docker-compose.yml too.",
                )
                .number(10_000, 1..=1_000_000),
            // No single address can take them all, and the browsers of a large office behind one
            // address fit.
            max_connections_per_address: settings
                .named(
                    "MAX_CONNECTIONS_PER_ADDRESS",
                    "Of these, connections from one address (IPv6: one /64) that is no trusted \
                     proxy. 0 switches the limit off.",
                )
                .number(1_000, 0..=1_000_000),
            trusted_proxies: TrustedProxies::read(settings),
            origins: Origins::read(settings, common.environment),
            rate_limits: RateLimits::read(settings),
            common,
        }
    }
}

/// Runs until `shutdown`, then answers the requests that are open.
///
/// # Errors
/// The port is taken, or a task ended by itself.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ServiceError> {
    let mut service = Service::start("gateway", &config.common, shutdown).await?;
    service.health.expect(&["log"]);
    let dedup = Dedup::new(service.connection.clone());
    let publisher = Publisher::start(&mut service, Some(Box::new(dedup)));
    // Reads that wait for a database that is away must leave room for creates, which need no
    // database.
    let a_quarter = (config.max_in_flight / 4).max(1);
    let log = Log::new(service.connection.clone(), publisher, a_quarter);
    let watch = log::watch(
        service.connection.clone(),
        service.health.clone(),
        service.stop.clone(),
    );
    service.spawn("log watch", watch);
    let watch = bot_watch::watch(
        service.connection.clone(),
        service.health.clone(),
        service.stop.clone(),
    );
    service.spawn("bot watch", watch);
    let authenticator = Authenticator::new(
        &config.access_secret,
        config.access_ttl,
        &config.internal_key,
    );
    let logins = LoginService {
        authenticator: authenticator.clone(),
        signed_tokens: SignedTokens::new(&config.refresh_secret),
        passwords: Passwords::new(config.bcrypt_rounds)
            .map_err(|e| ServiceError::Start(e.to_string()))?,
        sessions: Sessions::new(service.connection.clone(), config.refresh_ttl),
        lockout: Lockout::new(service.connection.clone()),
        cookies: config.refresh_cookie.then_some(Cookies {
            secure: config.common.environment != Environment::Development,
            ttl: config.refresh_ttl,
        }),
        refresh_ttl: config.refresh_ttl,
        frontend_url: config.frontend_url,
    };
    let delivery_waits =
        DeliveryWaits::new(service.connection.clone(), a_quarter, service.stop.clone());
    let app = App {
        log,
        authenticator,
        logins: Arc::new(logins),
        keyring: config.keyring,
        delivery_waits: Arc::new(delivery_waits),
        dead_letters: Arc::new(DeadLetterAccess::new(service.connection.clone())),
    };
    let limiters = RateLimiters::new(&config.rate_limits);
    let evict = limiters.clone().evict_idle(service.stop.clone());
    service.spawn("rate limits", evict);
    let protection = Protection {
        origins: config.origins,
        trusted: config.trusted_proxies.clone(),
        max_in_flight: config.max_in_flight,
    };
    let (api, document) = routes::router(app, limiters);
    let document = openapi::complete(document).map_err(|e| ServiceError::Start(e.to_string()))?;
    let api = protection.around(api.merge(openapi::routes(document)));
    let production = config.common.environment == Environment::Production;
    let router = middleware::with_security_headers(api, service.ops_routes(), production);
    let limits = server::Limits {
        max_connections: config.max_connections,
        max_per_address: config.max_connections_per_address,
        trusted: config.trusted_proxies,
    };
    server::serve(
        &mut service,
        SocketAddr::new(config.common.host, config.port),
        router,
        limits,
    )
    .await?;
    service.finish().await
}

/// The gateway's process.
pub fn main() -> ExitCode {
    service::main(Config::read, run)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(more: &[(&str, &str)]) -> String {
        let secrets = [
            ("JWT_ACCESS_SECRET", "a"),
            ("JWT_REFRESH_SECRET", "r"),
            ("INTERNAL_SERVICE_API_KEY", "i"),
            ("NATS_PASSWORD", "n"),
        ];
        let secrets = secrets.map(|(name, letter)| (name.to_owned(), letter.repeat(32)));
        let mut settings = Settings::of(
            secrets
                .into_iter()
                .chain(more.iter().map(|(k, v)| (k.to_string(), v.to_string()))),
        );
        Config::read(&mut settings);
        settings
            .finish()
            .map_or_else(|e| e.to_string(), |()| String::new())
    }

    #[test]
    fn settings_that_contradict_each_other_are_named() {
        let same = "a".repeat(32);
        for (wrong, more) in [
            (
                "JWT_REFRESH_SECRET must differ",
                [("JWT_REFRESH_SECRET", same.as_str())].as_slice(),
            ),
            (
                "REFRESH_TOKEN_TTL must not be less",
                &[("ACCESS_TOKEN_TTL", "2h"), ("REFRESH_TOKEN_TTL", "1h")],
            ),
            ("REFRESH_TOKEN_COOKIE", &[("REFRESH_TOKEN_COOKIE", "yes")]),
            ("FRONTEND_URL", &[("FRONTEND_URL", "app.example.com")]),
        ] {
            assert!(
                problems(more).contains(wrong),
                "{wrong}: {}",
                problems(more)
            );
            assert!(!problems(&[]).contains(wrong), "{wrong}");
        }
    }
}
