//! What `petbuddy audit` asks: which messages the view has, of all companies. For operators; the
//! gateway asks none of this.

use serde::{Deserialize, Serialize};

use super::Query;
use crate::Id;
use crate::domain::DeliveryState;

/// Most messages in one question or answer of an audit.
pub const MAX_AUDIT: u32 = 1_000;

/// What the view has of these messages. Asked by id, not by sequence: an index on the sequence
/// would cost every insert.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditMessages {
    /// At most [`MAX_AUDIT`].
    pub ids: Vec<Id>,
}

/// What the view has of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// The message.
    pub id: Id,
    /// Its tenant.
    pub company_id: Id,
    /// Where the log has its `message.created`, as the view says.
    pub seq: u64,
    /// How far its delivery has come, where it is for the bot.
    pub state: Option<DeliveryState>,
    /// Whether it was deleted: no read finds it any more.
    pub deleted: bool,
}

impl Query for AuditMessages {
    const SUBJECT: &'static str = "query.audit.messages";
    type Answer = Vec<AuditLine>;
}

/// Every message of the view, in the order of ids, a page at a time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct WalkMessages {
    /// Go on after this message.
    pub after: Option<Id>,
    /// Of one company only.
    pub company_id: Option<Id>,
    /// Messages to look at, 1 to [`MAX_AUDIT`]; those of other companies count.
    pub limit: u32,
}

/// The answer to [`WalkMessages`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditPage {
    /// By id. A page can be empty although others follow.
    pub lines: Vec<AuditLine>,
    /// Where to go on; `None` at the end.
    pub next: Option<Id>,
}

impl Query for WalkMessages {
    const SUBJECT: &'static str = "query.audit.walk";
    type Answer = AuditPage;
}
