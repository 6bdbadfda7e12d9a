//! Reads settings one by one. Each reader remembers name, default, accepted values and meaning as a
//! [`Spec`], which is all that documents need to list the setting.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;

use super::duration::{parse_duration, show_duration};
use super::source::{self, Values};
use super::spec::{Spec, Unset};

/// Shortest secret that signs or authenticates anything, in characters. A shorter one is a problem.
pub const MIN_SECRET: usize = 32;

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
        Settings::with(source::load())
    }

    /// From given values only.
    pub fn of(values: impl IntoIterator<Item = (String, String)>) -> Settings {
        Settings::with(source::of(values))
    }

    fn with((values, problems): Values) -> Settings {
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

/// One setting, about to be read.
#[must_use = "a setting that is not read is not listed either"]
pub struct Setting<'a> {
    settings: &'a mut Settings,
    spec: Spec,
}

impl<'a> Setting<'a> {
    fn new(settings: &'a mut Settings, name: &'static str, meaning: &'static str) -> Setting<'a> {
        let spec = Spec {
            name,
            meaning,
            accepts: String::new(),
            unset: Unset::Nothing,
            example: None,
            secret: false,
        };
        Setting { settings, spec }
    }

    /// Says that the value must not be shown to anybody.
    pub fn sensitive(mut self) -> Self {
        self.spec.secret = true;
        self
    }

    /// Shows this value in documents where there is no default.
    pub fn example(mut self, example: &'static str) -> Self {
        self.spec.example = Some(example);
        self
    }

    /// Shows the default in words, where it is not the same for everybody.
    pub fn default_in_words(mut self, words: &'static str) -> Self {
        self.spec.unset = Unset::Described(words);
        self
    }

    /// Says that the caller demands a value in production.
    pub fn required_in_production(mut self) -> Self {
        self.spec.unset = Unset::RequiredInProduction;
        self
    }

    /// Shows the accepted values in words instead of as a range.
    pub fn accepts(mut self, words: &str) -> Self {
        self.spec.accepts = words.to_owned();
        self
    }

    /// Remembers the setting, unless it was read before, and looks up its value.
    fn look_up(&mut self, unset: Unset, accepts: impl FnOnce() -> String) -> Option<String> {
        if self.spec.unset == Unset::Nothing {
            self.spec.unset = unset;
        }
        if self.spec.accepts.is_empty() {
            self.spec.accepts = accepts();
        }
        let specs = &mut self.settings.specs;
        if specs.iter().all(|spec| spec.name != self.spec.name) {
            specs.push(self.spec.clone());
        }
        self.settings.values.get(self.spec.name).cloned()
    }

    /// The default, with a problem that says what the value must be instead of what it is.
    fn refuse<T>(self, wanted: &str, text: &str, default: T) -> T {
        let name = self.spec.name;
        self.settings
            .problem(format!("{name} must be {wanted}, not `{text}`"));
        default
    }

    /// A text that may be absent.
    pub fn optional(mut self) -> Option<String> {
        self.look_up(Unset::Nothing, String::new)
    }

    /// A text with a default.
    pub fn text(mut self, default: &str) -> String {
        let unset = match default {
            "" => Unset::Nothing,
            _ => Unset::Value(default.to_owned()),
        };
        self.look_up(unset, String::new)
            .unwrap_or_else(|| default.to_owned())
    }

    /// A text that must be there. `hint` says what to set.
    pub fn required(mut self, hint: &str) -> String {
        self.look_up(Unset::Required, String::new)
            .unwrap_or_else(|| {
                let name = self.spec.name;
                self.settings.problem(format!("{name} is not set: {hint}"));
                String::new()
            })
    }

    /// A secret of at least [`MIN_SECRET`] characters.
    pub fn secret(mut self) -> SecretString {
        self.spec.secret = true;
        let name = self.spec.name;
        let value = self
            .look_up(Unset::Required, || {
                format!("{MIN_SECRET} characters or more")
            })
            .unwrap_or_default();
        let problem = match value.chars().count() {
            0 => "is not set: give it a random value, such as `openssl rand -hex 32` prints".into(),
            1..MIN_SECRET => format!("must have at least {MIN_SECRET} characters"),
            _ => return value.into(),
        };
        self.settings.problem(format!("{name} {problem}"));
        value.into()
    }

    /// A number within a range.
    pub fn number<T: FromStr + PartialOrd + Display + Copy>(
        mut self,
        default: T,
        range: RangeInclusive<T>,
    ) -> T {
        let (start, end) = (range.start(), range.end());
        let unset = Unset::Value(default.to_string());
        let Some(text) = self.look_up(unset, || format!("{start} to {end}")) else {
            return default;
        };
        match text.trim().parse::<T>() {
            Ok(n) if range.contains(&n) => n,
            _ => self.refuse(&format!("a number from {start} to {end}"), &text, default),
        }
    }

    /// A TCP port to listen on.
    pub fn port(self, default: u16) -> u16 {
        self.accepts("a port").number(default, 1..=u16::MAX)
    }

    /// `true` or `false`.
    pub fn flag(mut self, default: bool) -> bool {
        let unset = Unset::Value(default.to_string());
        let text = self.look_up(unset, || "true or false".into());
        match text.as_deref() {
            None => default,
            Some("true") => true,
            Some("false") => false,
            Some(other) => self.refuse("true or false", other, default),
        }
    }

    /// `15m`, `7d`, `500ms`, `30s`, `24h`; a bare number means seconds.
    pub fn duration(mut self, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let (start, end) = (*range.start(), *range.end());
        let accepts = || format!("{} to {}", show_duration(start), show_duration(end));
        let unset = Unset::Value(show_duration(default));
        let Some(text) = self.look_up(unset, accepts) else {
            return default;
        };
        match parse_duration(&text) {
            Some(d) if range.contains(&d) => d,
            _ => {
                let wanted = format!("a time from {start:?} to {end:?}, such as 15m");
                self.refuse(&wanted, &text, default)
            }
        }
    }

    /// A time in whole seconds, as the schedules of the NATS server count.
    pub fn seconds(self, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let name = self.spec.name;
        let ends = (show_duration(*range.start()), show_duration(*range.end()));
        let words = format!("{} to {}, whole seconds", ends.0, ends.1);
        let Setting { settings, spec } = self.accepts(&words);
        let again = Setting {
            settings: &mut *settings,
            spec,
        };
        let duration = again.duration(default, range);
        if duration.subsec_nanos() != 0 {
            settings.problem(format!("{name} must be whole seconds"));
        }
        duration
    }

    /// An `http://` or `https://` base URL, without the last slash.
    pub fn http_url(mut self, default: &str) -> String {
        let unset = Unset::Value(default.to_owned());
        let text = self.look_up(unset, String::new);
        self.checked_url(text.unwrap_or_else(|| default.to_owned()))
    }

    /// An `http://` or `https://` base URL that may be absent, without the last slash.
    pub fn optional_http_url(mut self) -> Option<String> {
        let text = self.look_up(Unset::Nothing, String::new)?;
        Some(self.checked_url(text))
    }

    fn checked_url(self, text: String) -> String {
        match contract::domain::Url::new(&text) {
            Ok(url) => url.as_str().trim_end_matches('/').to_owned(),
            Err(e) => {
                let name = self.spec.name;
                self.settings.problem(format!("{name} {e}"));
                text
            }
        }
    }

    /// Texts separated by commas.
    pub fn list(mut self) -> Vec<String> {
        let text = self
            .look_up(Unset::Nothing, || "a comma-separated list".into())
            .unwrap_or_default();
        text.split(',')
            .map(|t| t.trim().to_owned())
            .filter(|t| !t.is_empty())
            .collect()
    }
}
