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
mod reader;
mod source;
mod spec;
#[cfg(test)]
mod tests;

pub use self::common::{Common, Environment, NatsSettings, internal_api_key, meta_bot_base_url};
pub use self::duration::parse_duration;
pub use self::reader::{BadSettings, MIN_SECRET, Setting, Settings};
pub use self::spec::{Spec, Unset};
