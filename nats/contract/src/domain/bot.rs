//! How the Meta bot is, as the bucket `bot-health` keeps it.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// What the probe saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BotStatus {
    /// It answers.
    Up,
    /// It does not.
    Down,
}

/// The entry `meta-bot`: the scheduler's probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BotHealth {
    /// How it is.
    pub status: BotStatus,
    /// What it said, where it is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Since when it has been so.
    pub since: Timestamp,
    /// When it was asked last.
    pub checked_at: Timestamp,
    /// How long the answer took, in ms.
    pub took_ms: u64,
    /// The replica that asked.
    pub by: String,
}

/// How a forwarder's circuit breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Calls are made.
    Closed,
    /// None are.
    Open,
    /// One is, to try.
    HalfOpen,
}

/// The entry `breaker.<instance>`: a forwarder's circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerView {
    /// How it stands.
    pub state: BreakerState,
    /// Since when.
    pub since: Timestamp,
    /// How often it has opened since the process began.
    pub opened: u64,
}
