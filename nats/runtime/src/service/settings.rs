//! Settings: defaults in the code, then `petbuddy.toml`, then the environment; every problem is
//! listed at once. Names are those of the environment, upper case with underscores. It knows no
//! service's settings; each reads its own.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format, Toml};
use figment::value::Value;
use secrecy::SecretString;

/// Shortest secret that signs or authenticates anything, in characters.
pub const MIN_SECRET: usize = 32;

/// Reads settings by name and gathers what is wrong with them.
pub struct Settings {
    values: BTreeMap<String, String>,
    problems: Vec<String>,
}

/// All that is wrong with the settings.
#[derive(Debug, thiserror::Error)]
#[error("the settings have {} problem(s):\n{}", .0.len(), .0.iter().map(|p| format!("  - {p}")).collect::<Vec<_>>().join("\n"))]
pub struct BadSettings(pub Vec<String>);

impl Settings {
    /// From `petbuddy.toml` (or the file that `PETBUDDY_CONFIG` names) and the environment of this
    /// process.
    pub fn load() -> Settings {
        let file = std::env::var("PETBUDDY_CONFIG").unwrap_or_else(|_| "petbuddy.toml".into());
        Settings::merge(
            Figment::from(Toml::file(&file)),
            std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
        )
    }

    /// From given values only.
    pub fn of(values: impl IntoIterator<Item = (String, String)>) -> Settings {
        Settings::merge(Figment::new(), values)
    }

    /// The environment is taken as text, not through figment's guesses: `NATS_PASSWORD=0123` is not
    /// a number.
    fn merge(file: Figment, environment: impl IntoIterator<Item = (String, String)>) -> Settings {
        let (mut values, mut problems) = (BTreeMap::new(), Vec::new());
        match file.extract::<BTreeMap<String, Value>>() {
            Ok(entries) => {
                for (name, value) in entries {
                    match scalar(&value) {
                        Some(text) => drop(values.insert(name.to_uppercase(), text)),
                        None => problems.push(format!(
                            "{name} in the settings file must be a text, number or boolean"
                        )),
                    }
                }
            }
            Err(e) => problems.push(format!("the settings file cannot be read: {e}")),
        }
        values.extend(environment.into_iter().filter(|(_, v)| !v.is_empty()));
        Settings { values, problems }
    }

    /// Names a problem that only the caller can see.
    pub fn problem(&mut self, text: impl Into<String>) {
        self.problems.push(text.into());
    }

    /// A text that may be absent.
    pub fn optional(&mut self, name: &str) -> Option<String> {
        self.values.get(name).cloned()
    }

    /// A text with a default.
    pub fn text(&mut self, name: &str, default: &str) -> String {
        self.optional(name).unwrap_or_else(|| default.to_owned())
    }

    /// A text that must be there. `hint` says what to set.
    pub fn required(&mut self, name: &str, hint: &str) -> String {
        self.optional(name).unwrap_or_else(|| {
            self.problem(format!("{name} is not set: {hint}"));
            String::new()
        })
    }

    /// A secret of at least [`MIN_SECRET`] characters.
    pub fn secret(&mut self, name: &str) -> SecretString {
        let value = self.required(
            name,
            "give it a random value, such as `openssl rand -hex 32` prints",
        );
        if !value.is_empty() && value.chars().count() < MIN_SECRET {
            self.problem(format!("{name} must have at least {MIN_SECRET} characters"));
        }
        value.into()
    }

    /// Something that parses, within a range.
    pub fn number<T: FromStr + PartialOrd + Display + Copy>(
        &mut self,
        name: &str,
        default: T,
        range: RangeInclusive<T>,
    ) -> T {
        let Some(text) = self.optional(name) else {
            return default;
        };
        match text.trim().parse::<T>() {
            Ok(n) if range.contains(&n) => n,
            _ => {
                self.problem(format!(
                    "{name} must be a number from {} to {}, not `{text}`",
                    range.start(),
                    range.end()
                ));
                default
            }
        }
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &str, default: bool) -> bool {
        match self.optional(name).as_deref() {
            None => default,
            Some("true") => true,
            Some("false") => false,
            Some(other) => {
                let problem = format!("{name} must be true or false, not `{other}`");
                self.problem(problem);
                default
            }
        }
    }

    /// `15m`, `7d`, `500ms`, `30s`, `24h`; a bare number means seconds.
    pub fn duration(
        &mut self,
        name: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(text) = self.optional(name) else {
            return default;
        };
        match parse_duration(&text) {
            Some(d) if range.contains(&d) => d,
            _ => {
                self.problem(format!(
                    "{name} must be a time from {:?} to {:?}, such as 15m, not `{text}`",
                    range.start(),
                    range.end()
                ));
                default
            }
        }
    }

    /// The same in whole seconds, as the server's schedules count.
    pub fn seconds(
        &mut self,
        name: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let duration = self.duration(name, default, range);
        if duration.subsec_nanos() != 0 {
            self.problem(format!("{name} must be whole seconds"));
        }
        duration
    }

    /// An `http://` or `https://` base URL, without the last slash.
    pub fn http_url(&mut self, name: &str, default: &str) -> String {
        let text = self.text(name, default);
        match contract::domain::Url::new(&text) {
            Ok(url) => url.as_str().trim_end_matches('/').to_owned(),
            Err(e) => {
                self.problem(format!("{name} {e}"));
                text
            }
        }
    }

    /// Texts separated by commas.
    pub fn list(&mut self, name: &str) -> Vec<String> {
        let text = self.text(name, "");
        text.split(',')
            .map(|t| t.trim().to_owned())
            .filter(|t| !t.is_empty())
            .collect()
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`BadSettings`] with every problem found.
    pub fn finish(self) -> Result<(), BadSettings> {
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(BadSettings(self.problems))
        }
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(_, s) => Some(s.clone()),
        Value::Char(_, c) => Some(c.to_string()),
        Value::Bool(_, b) => Some(b.to_string()),
        Value::Num(_, n) => n
            .to_i128()
            .map(|i| i.to_string())
            .or_else(|| n.to_u128().map(|u| u.to_string()))
            .or_else(|| n.to_f64().map(|f| f.to_string())),
        _ => None,
    }
}

/// As [`Settings::duration`] reads it.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let n: u64 = text[..digits].parse().ok()?;
    match text[digits..].trim() {
        "ms" => Some(Duration::from_millis(n)),
        "" | "s" => Some(Duration::from_secs(n)),
        "m" => n.checked_mul(60).map(Duration::from_secs),
        "h" => n.checked_mul(3_600).map(Duration::from_secs),
        "d" => n.checked_mul(86_400).map(Duration::from_secs),
        _ => None,
    }
}

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

/// What every service reads.
#[derive(Clone)]
pub struct Common {
    /// `NODE_ENV`
    pub environment: Environment,
    /// `LOG_LEVEL`: error, warn, info, debug or trace.
    pub log_level: String,
    /// `LOG_DIR`: the folder of `combined.log` and `error.log`.
    pub log_dir: String,
    /// `HOST`: the address to listen on.
    pub host: std::net::IpAddr,
    /// How to reach NATS.
    pub nats: NatsSettings,
}

/// How to reach NATS.
#[derive(Clone)]
pub struct NatsSettings {
    /// `NATS_URL`: one address or several with commas.
    pub url: String,
    /// `NATS_USER`: by default the service's name.
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
    /// Reads the shared settings of a service.
    pub fn read(settings: &mut Settings, service: &str) -> Common {
        let environment = match settings.text("NODE_ENV", "development").as_str() {
            "development" => Environment::Development,
            "production" => Environment::Production,
            "test" => Environment::Test,
            other => {
                settings.problem(format!(
                    "NODE_ENV must be development, production or test, not `{other}`"
                ));
                Environment::Production
            }
        };
        let log_level = settings.text("LOG_LEVEL", "info");
        if !["error", "warn", "info", "debug", "trace"].contains(&log_level.as_str()) {
            settings.problem(format!(
                "LOG_LEVEL must be error, warn, info, debug or trace, not `{log_level}`"
            ));
        }
        let host = settings.text("HOST", "127.0.0.1");
        let host = host.parse().unwrap_or_else(|_| {
            settings.problem(format!(
                "HOST must be an IP address such as 0.0.0.0, not `{host}`"
            ));
            std::net::IpAddr::from([127, 0, 0, 1])
        });
        let url = settings.text("NATS_URL", "nats://127.0.0.1:4222");
        let password = match url.contains('@') {
            true => settings.text("NATS_PASSWORD", ""),
            false => settings.required(
                "NATS_PASSWORD",
                &format!("the password of the NATS user `{service}`, see nats/server/users.conf"),
            ),
        };
        let nats = NatsSettings {
            user: settings.text("NATS_USER", service),
            password: password.into(),
            url,
        };
        Common {
            environment,
            log_level,
            log_dir: settings.text("LOG_DIR", "logs"),
            host,
            nats,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn settings(values: &[(&str, &str)]) -> Settings {
        Settings::of(values.iter().map(|(k, v)| (k.to_string(), v.to_string())))
    }

    #[test]
    fn every_problem_is_listed_at_once_and_no_secret_is_shown() {
        let mut s = settings(&[("PORT", "99999"), ("JWT", "short-secret"), ("TTL", "soon")]);
        s.number::<u16>("PORT", 4000, 1..=65535);
        s.secret("JWT");
        s.duration(
            "TTL",
            Duration::from_secs(1),
            Duration::ZERO..=Duration::from_secs(9),
        );
        s.required("MONGODB_URI", "say where MongoDB is");
        let text = s.finish().unwrap_err().to_string();
        for part in ["PORT", "JWT", "TTL", "MONGODB_URI"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("short-secret"));
    }

    #[test]
    fn a_secret_of_digits_keeps_its_zeros() {
        let digits = "0".repeat(8) + &"1".repeat(24);
        let mut s = settings(&[("KEY", &digits)]);
        assert_eq!(s.secret("KEY").expose_secret(), digits);
        s.finish().unwrap();
    }

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [
            ("15m", 900),
            ("7d", 604_800),
            ("30", 30),
            ("24h", 86_400),
            ("2 s", 2),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_secs(seconds)),
                "{text}"
            );
        }
        for text in ["", "m", "5y", "-1s", "99999999999999999999d", "é"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
