//! Why a message cannot be processed. Publishing the dead letter is the runtime's.

use std::fmt;

/// The reasons that `Dead-Reason` can name. An operator filters by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The payload is not an envelope of the contract, or contradicts its subject.
    Malformed,
    /// An event type or version that this build does not know.
    UnknownVersion,
    /// Another message of the platform holds this `external_message_id`.
    DuplicateKey,
    /// The message's contact or another thing it needs does not exist.
    MissingData,
    /// The other side refused it for good (4xx).
    Refused,
    /// Retried until its deadline.
    Expired,
    /// Failed in a way that no retry mends.
    Failed,
}

impl Reason {
    /// The header's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::UnknownVersion => "unknown_version",
            Reason::DuplicateKey => "duplicate_key",
            Reason::MissingData => "missing_data",
            Reason::Refused => "refused",
            Reason::Expired => "expired",
            Reason::Failed => "failed",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
