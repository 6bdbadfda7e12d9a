//! Settings: defaults in the code, then `petbuddy.toml`, then the environment. Every problem is
//! listed at once. Names are those of the environment, upper case with underscores. This module
//! knows no service's own settings: each service reads its own, and says with each what it means.
//!
//! Every read is remembered as a [`Spec`]. So the settings that a service reads, with their
//! defaults and meanings, can be listed without a list kept by hand.
//!
//! ```
//! use std::time::Duration;
//! use runtime::service::settings::{Settings, Unset};
//!
//! let mut settings = Settings::of([("PORT".to_owned(), "99999".to_owned())]);
//! let port = settings.named("PORT", "Port of the REST API.").port(4000);
//! let pause = settings
//!     .named("PAUSE", "Time between two tries.")
//!     .duration(Duration::from_secs(90), Duration::from_secs(1)..=Duration::from_secs(3_600));
//!
//! assert_eq!((port, pause), (4000, Duration::from_secs(90)));
//! assert_eq!(settings.specs()[1].unset, Unset::Value("90s".into()));
//! assert_eq!(settings.specs()[1].accepts, "1s to 1h");
//! let problems = settings.finish().unwrap_err();
//! assert!(problems.to_string().contains("PORT must be a number from 1 to 65535, not `99999`"));
//! ```

mod common;
mod duration;
mod setting;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use figment::Figment;
use figment::providers::{Format, Toml};
use figment::value::Value;

pub use self::common::{Common, Environment, NatsSettings, internal_api_key, meta_bot_base_url};
pub use self::duration::parse_duration;
pub use self::setting::{MIN_SECRET, Setting, Spec, Unset};

/// Reads settings by name, and gathers what is wrong with them.
pub struct Settings {
    values: BTreeMap<String, String>,
    problems: Vec<String>,
    specs: Vec<Spec>,
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

    /// The environment is taken as text. Otherwise figment would read `NATS_PASSWORD=0123` as a
    /// number.
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
        Settings {
            values,
            problems,
            specs: Vec::new(),
        }
    }

    /// Begins to read a setting. `meaning` is a sentence for operators; the documents print it.
    pub fn named(&mut self, name: &'static str, meaning: &'static str) -> Setting<'_> {
        Setting::new(self, name, meaning)
    }

    /// Whether a setting has a value. Reads nothing, so the setting is not among [`Self::specs`].
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Names a problem that only the caller can see.
    pub fn problem(&mut self, text: impl Into<String>) {
        self.problems.push(text.into());
    }

    /// The settings that were read so far, in the order of their first reading.
    pub fn specs(&self) -> &[Spec] {
        &self.specs
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
