//! A conversation whose next message waits for a retry or a token, as the bucket `lanes` keeps it.
//! Decides nothing about the wait.

use serde::{Deserialize, Serialize};

use super::message::DeliveryState;
use crate::{Id, Timestamp};

/// The entry `<partition>.<company>.<contact>`: the state of the conversation's first message that
/// is not delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneEntry {
    /// [`DeliveryState::Retrying`] or [`DeliveryState::Held`].
    pub state: DeliveryState,
    /// The first message that is not delivered. The messages behind it wait for it.
    pub message_id: Id,
    /// The sequence of the message in `OUTBOUND`.
    pub seq: u64,
    /// Calls to the bot for the message so far.
    pub attempts: u32,
    /// Why the last call failed, or why the message is held.
    pub error: Option<String>,
    /// When the wait began.
    pub since: Timestamp,
    /// When the next call is due; `None` while held.
    pub next_attempt_at: Option<Timestamp>,
}
