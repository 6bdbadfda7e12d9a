//! The health of the Meta bot, as the bucket `bot-health` keeps it. Asks no bot.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BotStatus {
    /// The bot answered.
    Up,
    /// The bot did not answer, or said that it is not well.
    Down,
}

/// The entry `meta-bot`: the last result of the scheduler's probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BotHealth {
    /// The last result.
    pub status: BotStatus,
    /// What the bot said; `None` while it is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When the status changed last.
    pub since: Timestamp,
    /// When the bot was asked last.
    pub checked_at: Timestamp,
    /// Duration of the last probe, in ms.
    pub took_ms: u64,
    /// The instance of the scheduler that asked.
    pub by: String,
}

/// The state of a forwarder's circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Calls are made.
    Closed,
    /// No calls are made.
    Open,
    /// One call is made, as a trial.
    HalfOpen,
}

/// The entry `breaker.<instance>`: a forwarder's circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerView {
    /// The state at the last change.
    pub state: BreakerState,
    /// When the state changed last.
    pub since: Timestamp,
    /// How often the breaker has opened since the process began.
    pub opened: u64,
}
