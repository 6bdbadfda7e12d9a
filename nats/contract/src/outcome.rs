//! What the persister answers at `Outcome-Inbox` once an event is applied.

use serde::{Deserialize, Serialize};

/// The result of one event, as the view sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Applied, or had been applied before.
    Applied {
        /// Documents that the event addressed.
        matched: u64,
        /// Documents that it changed.
        modified: u64,
    },
    /// What it addresses does not exist.
    NotFound,
    /// It contradicts a unique key, such as a user's email.
    Conflict {
        /// The key, for the caller's error.
        key: String,
    },
}
