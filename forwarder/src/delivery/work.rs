//! The work that a partition hands to the delivery, and what comes back. Plain data.

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use contract::domain::Provider;
use contract::{Id, Timestamp};
use tokio::time::Instant;

use crate::delivery::report::FinalStep;

/// A conversation: company and contact.
pub type LaneId = (Id, Id);
/// What is held as one: a company's access to a platform.
pub type Scope = (Id, Provider);

/// A message's content, while it is in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    /// The subject in `OUTBOUND`.
    pub subject: Subject,
    pub headers: HeaderMap,
    pub payload: Bytes,
    /// When `OUTBOUND` stored the message.
    pub stored_at: Timestamp,
}

/// A message that awaits delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneItem {
    /// The message's sequence in `OUTBOUND`.
    pub seq: u64,
    /// The sequence in `EVENTS`, which orders the lane: a replayed message goes before newer ones. A
    /// message whose log position is not known goes to the end.
    pub log_position: Option<u64>,
    /// The subject on which the message is settled.
    pub ack: Subject,
    /// Calls made for the message so far, as far as is known.
    pub calls: u32,
    /// Whether an earlier owner of the partition may have called.
    pub repeated: bool,
    /// The message is not called for before this time.
    pub not_before: Option<Instant>,
    /// The message's last step, if nothing is left but to store this step.
    pub final_step: Option<Box<FinalStep>>,
    /// `None` if the content must be read from the stream.
    pub content: Option<Content>,
}

/// The first message of a lane, to be worked on.
#[derive(Clone, Debug)]
pub struct Work {
    pub partition: u32,
    pub lane: LaneId,
    pub item: LaneItem,
    /// Whether the lane has an entry in the bucket `lanes`.
    pub has_entry: bool,
}

/// The result of work on a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub after: After,
    /// Whether the lane has an entry in the bucket `lanes` now.
    pub has_entry: bool,
}

/// What becomes of a lane after work on its first message.
#[derive(Clone, Debug, PartialEq)]
pub enum After {
    /// The message is done with and only to be settled, and the next one has its turn.
    Next,
    /// The same message has its turn again, not before a time.
    Wait {
        until: Instant,
        /// Calls made so far.
        calls: u32,
    },
    /// The same message has its turn again once the scope is released, or at its deadline.
    Hold {
        scope: Scope,
        /// The message's deadline.
        until: Instant,
        /// Calls made so far.
        calls: u32,
    },
    /// The same message has its turn again, not before a time, to store its last step.
    Finish {
        until: Instant,
        final_step: Box<FinalStep>,
    },
}
