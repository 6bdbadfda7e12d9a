//! What the persister answers at `Outcome-Inbox` once an event is applied. Sends nothing.

use serde::{Deserialize, Serialize};

/// The result of applying one event to the view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The event is applied, now or earlier.
    Applied {
        /// Documents that the event addressed.
        matched: u64,
        /// Documents that it changed.
        modified: u64,
    },
    /// The document that the event addresses does not exist.
    NotFound,
    /// The event contradicts a unique key, such as a user's email.
    Conflict {
        /// The name of the key, for the caller's error.
        key: String,
    },
}
