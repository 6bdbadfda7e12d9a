//! A conversation whose next message waits for more than its turn, as the bucket `lanes` keeps it.

use serde::{Deserialize, Serialize};

use super::message::DeliveryState;
use crate::{Id, Timestamp};

/// The entry `<partition>.<company>.<contact>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneEntry {
    /// `retrying` or `held`.
    pub state: DeliveryState,
    /// The conversation's first message that is not delivered; those behind it wait for it.
    pub message_id: Id,
    /// Its sequence in `OUTBOUND`.
    pub seq: u64,
    /// Calls made for it so far.
    pub attempts: u32,
    /// What went wrong.
    pub error: Option<String>,
    /// Since when it has waited for this.
    pub since: Timestamp,
    /// When it is tried again; `None` while held.
    pub next_attempt_at: Option<Timestamp>,
}
