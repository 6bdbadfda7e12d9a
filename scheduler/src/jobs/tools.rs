//! The connections and clients that jobs share, and the error of a failed run. Runs no job.

use std::time::Duration;

use contract::Timestamp;
use runtime::log::publisher::Publisher;
use runtime::net::connection::Connection;

use crate::platforms::bot::Bot;

/// Given to every run. Cloning is cheap.
#[derive(Clone)]
pub struct Tools {
    /// For queries, streams and buckets.
    pub connection: Connection,
    /// For events.
    pub publisher: Publisher,
    pub bot: Bot,
    /// Whether an app is set by which tokens of Facebook and Instagram can be exchanged.
    pub refreshes_tokens: bool,
    /// How often Google's tokens are looked for; `None` without a client to renew them with.
    pub refreshes_google: Option<Duration>,
    pub clock: fn() -> Timestamp,
}

/// Why a run failed; short text for staff.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct JobError(pub String);

impl JobError {
    /// For `map_err`.
    pub fn new(error: impl std::fmt::Display) -> JobError {
        JobError(error.to_string())
    }
}
