//! Settings of the scheduler, read and checked once at the start. Does not apply them.

use std::time::Duration;

use runtime::seal::Keyring;
use runtime::service::settings::{Common, Environment, Settings, meta_bot_base_url};
use secrecy::SecretString;

/// Allowed intervals of a job. The server's schedules count in whole seconds.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30 * 86_400));
/// Allowed intervals of the search for tokens of Facebook and Instagram. Tokens are renewed in the
/// 7 days before they expire. With these intervals two runs see each token, and the later one still
/// has the time of the longest deadline.
const TOKEN_INTERVALS: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(3 * 86_400));
/// Allowed intervals of the bot's probe. Even after a probe that takes its whole time limit, the
/// last result must be younger than 15 s. Otherwise forwarders would ignore it.
const PROBE_INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// Allowed delays from the start to a run that is already due.
const FIRST_DELAYS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3_600));
/// Allowed intervals of the search for tokens of Google. They are shorter than the time before a
/// token's end at which the token is enqueued.
const GOOGLE_INTERVALS: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(10 * 60));
/// Allowed deadlines of a token. After its deadline a token is not tried again until the next run.
const DEADLINES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(86_400));
const DAY: Duration = Duration::from_secs(86_400);

/// Settings of the Graph API, by which tokens of Facebook and Instagram are renewed.
#[derive(Clone)]
pub struct GraphSettings {
    /// `FACEBOOK_APP_ID`: required in production. Without an id no token is renewed.
    pub app_id: Option<String>,
    /// `FACEBOOK_APP_SECRET`: required in production. Without a secret no token is renewed.
    pub app_secret: Option<SecretString>,
    /// `FACEBOOK_GRAPH_VERSION`
    pub version: String,
    /// `FACEBOOK_GRAPH_BASE_URL`, without the last slash.
    pub base_url: String,
    /// `INSTAGRAM_GRAPH_BASE_URL`, without the last slash.
    pub instagram_base_url: String,
}

impl GraphSettings {
    fn read(settings: &mut Settings, environment: Environment) -> GraphSettings {
        let app_id = settings
            .named(
                "FACEBOOK_APP_ID",
                "Id of the Facebook app, from its page at Meta for Developers. Without id and \
                 secret no token of Facebook and Instagram is refreshed.",
            )
            .required_in_production()
            .optional();
        let app_secret = settings
            .named("FACEBOOK_APP_SECRET", "Secret of the Facebook app.")
            .sensitive()
            .required_in_production()
            .optional();
        for (name, missing) in [
            ("FACEBOOK_APP_ID", app_id.is_none()),
            ("FACEBOOK_APP_SECRET", app_secret.is_none()),
        ] {
            if missing && environment == Environment::Production {
                settings.problem(format!(
                    "{name} is not set: copy it from the app's page at Meta for Developers"
                ));
            }
        }
        let version = settings
            .named("FACEBOOK_GRAPH_VERSION", "Version of the Graph API.")
            .text("v18.0");
        if !is_version(&version) {
            settings.problem(format!(
                "FACEBOOK_GRAPH_VERSION must be such as v18.0, not `{version}`"
            ));
        }
        let base_url = settings
            .named("FACEBOOK_GRAPH_BASE_URL", "Base URL of the Graph API.")
            .http_url("https://graph.facebook.com");
        let instagram_base_url = settings
            .named(
                "INSTAGRAM_GRAPH_BASE_URL",
                "Base URL of Instagram's API, where tokens of Instagram Login are refreshed.",
            )
            .http_url("https://graph.instagram.com");
        GraphSettings {
            app_id,
            app_secret: app_secret.map(SecretString::from),
            version,
            base_url,
            instagram_base_url,
        }
    }
}

/// Settings of Google's OAuth, by which tokens of Google are renewed.
#[derive(Clone)]
pub struct GoogleSettings {
    /// `GOOGLE_CLIENT_ID` and `GOOGLE_CLIENT_SECRET`. Without them no token of Google is renewed.
    pub client: Option<(String, SecretString)>,
    /// `GOOGLE_TOKEN_URL`
    pub token_url: String,
}

impl GoogleSettings {
    fn read(settings: &mut Settings) -> GoogleSettings {
        let id = settings
            .named(
                "GOOGLE_CLIENT_ID",
                "Id of the OAuth client, from the console of Google Cloud. Without id and secret \
                 no token of Google is refreshed; one without the other is a problem.",
            )
            .optional();
        let secret = settings
            .named("GOOGLE_CLIENT_SECRET", "Secret of the OAuth client.")
            .sensitive()
            .optional();
        let client = match (id, secret) {
            (Some(id), Some(secret)) => Some((id, secret.into())),
            (None, None) => None,
            _ => {
                settings.problem(
                    "GOOGLE_CLIENT_ID and GOOGLE_CLIENT_SECRET go together: set both, or neither",
                );
                None
            }
        };
        GoogleSettings {
            client,
            token_url: settings
                .named(
                    "GOOGLE_TOKEN_URL",
                    "Where Google exchanges refresh tokens for access tokens.",
                )
                .http_url("https://oauth2.googleapis.com/token"),
        }
    }
}

fn is_version(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
    text.strip_prefix('v')
        .and_then(|v| v.split_once('.'))
        .is_some_and(|(major, minor)| digits(major) && digits(minor))
}

/// Settings of the scheduler.
#[derive(Clone)]
pub struct Config {
    /// Settings that every service has.
    pub common: Common,
    /// `SCHEDULER_PORT`: health and metrics.
    pub port: u16,
    /// `ENCRYPTION_KEYS`: opens and seals the companies' tokens.
    pub keyring: Keyring,
    /// The Graph API.
    pub graph: GraphSettings,
    /// Google's OAuth.
    pub google: GoogleSettings,
    /// `META_BOT_BASE_URL`, without the last slash.
    pub bot_base_url: String,
    /// `TOKEN_REFRESH_INTERVAL`: 1 s to 3 days, in whole seconds.
    pub token_refresh_interval: Duration,
    /// `TOKEN_REFRESH_FIRST_DELAY`: from the start to the first run, if one is due. 1 s to 1 h.
    pub token_refresh_first_delay: Duration,
    /// `TOKEN_REFRESH_DEADLINE`: how long the tasks of one run are tried, 1 s to 24 h.
    pub token_refresh_deadline: Duration,
    /// `GOOGLE_REFRESH_INTERVAL`: how often tokens of Google are looked for, 1 s to 10 min. Each
    /// token is tried for the same time, but for at least 2 min.
    pub google_refresh_interval: Duration,
    /// `BOT_PROBE_INTERVAL`: how often the bot is asked for its health, 1 s to 5 s.
    pub bot_probe_interval: Duration,
    /// `BOT_RESUME_INTERVAL`: how often contacts are looked for whose suspension has ended. This
    /// and the intervals below are 1 s to 30 days, in whole seconds.
    pub bot_resume_interval: Duration,
    /// `SLA_SWEEP_INTERVAL`: how often messages are looked for that were not delivered in time.
    pub sla_sweep_interval: Duration,
    /// `DEAD_LETTER_DIGEST_INTERVAL`: how often open dead letters are counted.
    pub dead_letter_digest_interval: Duration,
}

impl Config {
    /// Reads the settings; problems stay in `settings`.
    pub fn read(settings: &mut Settings) -> Config {
        let common = Common::read(settings, "scheduler");
        let graph = GraphSettings::read(settings, common.environment);
        let (often, probes) = (
            INTERVALS.0..=INTERVALS.1,
            PROBE_INTERVALS.0..=PROBE_INTERVALS.1,
        );
        let tokens = TOKEN_INTERVALS.0..=TOKEN_INTERVALS.1;
        let (delays, deadlines) = (FIRST_DELAYS.0..=FIRST_DELAYS.1, DEADLINES.0..=DEADLINES.1);
        Config {
            common,
            graph,
            google: GoogleSettings::read(settings),
            port: settings
                .named("SCHEDULER_PORT", "Port for health and metrics.")
                .port(4030),
            keyring: Keyring::read(settings),
            bot_base_url: meta_bot_base_url(settings),
            token_refresh_interval: settings
                .named(
                    "TOKEN_REFRESH_INTERVAL",
                    "How often tokens of Facebook and Instagram are looked for that expire within \
                     7 days.",
                )
                .seconds(DAY, tokens),
            token_refresh_first_delay: settings
                .named(
                    "TOKEN_REFRESH_FIRST_DELAY",
                    "Time from the start of a scheduler to a token refresh that is already due.",
                )
                .duration(Duration::from_secs(10), delays),
            token_refresh_deadline: settings
                .named(
                    "TOKEN_REFRESH_DEADLINE",
                    "How long one run goes on trying a token that could not be renewed yet.",
                )
                .duration(DAY / 2, deadlines),
            google_refresh_interval: settings
                .named(
                    "GOOGLE_REFRESH_INTERVAL",
                    "How often tokens of Google are looked for that expire within 15 minutes, and \
                     how long one is tried then, at least 2 minutes.",
                )
                .seconds(
                    Duration::from_secs(5 * 60),
                    GOOGLE_INTERVALS.0..=GOOGLE_INTERVALS.1,
                ),
            bot_probe_interval: settings
                .named(
                    "BOT_PROBE_INTERVAL",
                    "How often the Meta bot is asked for its health.",
                )
                .seconds(Duration::from_secs(3), probes),
            bot_resume_interval: settings
                .named(
                    "BOT_RESUME_INTERVAL",
                    "How often contacts are looked for whose `botSuspendUntil` has passed.",
                )
                .seconds(Duration::from_secs(5), often.clone()),
            sla_sweep_interval: settings
                .named(
                    "SLA_SWEEP_INTERVAL",
                    "How often messages are looked for that were not delivered in time.",
                )
                .seconds(Duration::from_secs(10), often.clone()),
            dead_letter_digest_interval: settings
                .named(
                    "DEAD_LETTER_DIGEST_INTERVAL",
                    "How often the open dead letters are counted.",
                )
                .seconds(DAY, often),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[(&str, &str)]) -> (Config, Option<String>) {
        let password = [
            ("NATS_PASSWORD", "n"),
            (
                "ENCRYPTION_KEYS",
                "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            ),
        ];
        let mut settings = Settings::of(
            values
                .iter()
                .chain(&password)
                .map(|(k, v)| (k.to_string(), v.to_string())),
        );
        let config = Config::read(&mut settings);
        (config, settings.finish().err().map(|e| e.to_string()))
    }

    #[test]
    fn the_defaults_work_in_development() {
        let (config, problems) = read(&[]);
        assert_eq!(problems, None);
        assert_eq!(
            config.token_refresh_interval,
            Duration::from_secs(24 * 3_600)
        );
        assert_eq!(config.graph.version, "v18.0");
    }

    #[test]
    fn each_token_is_looked_at_twice_before_it_expires_and_has_its_time_then() {
        assert!(TOKEN_INTERVALS.1 * 2 + DEADLINES.1 <= crate::jobs::tokens::AHEAD);
    }

    #[test]
    fn production_needs_the_facebook_app() {
        let problems = read(&[("NODE_ENV", "production")]).1.unwrap();
        assert!(
            problems.contains("FACEBOOK_APP_ID") && problems.contains("FACEBOOK_APP_SECRET"),
            "{problems}"
        );
    }

    #[test]
    fn wrong_values_are_named() {
        for (name, value) in [
            ("TOKEN_REFRESH_INTERVAL", "1500ms"),
            ("TOKEN_REFRESH_INTERVAL", "500ms"),
            ("TOKEN_REFRESH_INTERVAL", "4d"),
            ("SLA_SWEEP_INTERVAL", "1500ms"),
            ("DEAD_LETTER_DIGEST_INTERVAL", "31d"),
            ("BOT_RESUME_INTERVAL", "0s"),
            ("BOT_PROBE_INTERVAL", "6s"),
            ("META_BOT_BASE_URL", "bot"),
            ("TOKEN_REFRESH_DEADLINE", "25h"),
            ("TOKEN_REFRESH_FIRST_DELAY", "2d"),
            ("FACEBOOK_GRAPH_VERSION", "18"),
            ("FACEBOOK_GRAPH_VERSION", "v18.x"),
            ("FACEBOOK_GRAPH_BASE_URL", "graph"),
            ("INSTAGRAM_GRAPH_BASE_URL", "instagram"),
            ("GOOGLE_CLIENT_ID", "without a secret"),
            ("GOOGLE_CLIENT_SECRET", "without an id"),
            ("GOOGLE_TOKEN_URL", "google"),
            ("GOOGLE_REFRESH_INTERVAL", "11m"),
        ] {
            assert!(
                read(&[(name, value)]).1.is_some_and(|p| p.contains(name)),
                "{name}={value}"
            );
        }
    }
}
