//! The queries of `petbuddy audit`: which messages the view has, of all companies. For operators;
//! the gateway asks none of these.

use serde::{Deserialize, Serialize};

use super::Query;
use crate::Id;
use crate::domain::DeliveryState;

/// Messages in one query or answer of an audit. The persister refuses a query for more ids.
pub const MAX_AUDIT: u32 = 1_000;

/// What the view has of these messages. The query is by id and not by sequence, because an index on
/// the sequence would cost every insert.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditMessages {
    /// The ids of the messages, at most [`MAX_AUDIT`].
    pub ids: Vec<Id>,
}

/// What the view has of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// The id of the message.
    pub id: Id,
    /// The tenant.
    pub company_id: Id,
    /// The sequence of the message's `message.created` in the log, as the view says.
    pub seq: u64,
    /// The state of the delivery; `None` for a message that is not forwarded.
    pub state: Option<DeliveryState>,
    /// Whether the message was deleted: no read finds it any more.
    pub deleted: bool,
}

impl Query for AuditMessages {
    const SUBJECT: &'static str = "query.audit.messages";
    type Answer = Vec<AuditLine>;
}

/// Every message of the view, in the order of ids, a page at a time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct WalkMessages {
    /// The message after which the page begins; `None` for the first page.
    pub after: Option<Id>,
    /// Limits the page to messages of one company.
    pub company_id: Option<Id>,
    /// Messages to look at, 1 to [`MAX_AUDIT`]. Messages of other companies count.
    pub limit: u32,
}

/// The answer to [`WalkMessages`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditPage {
    /// The messages by id. A page can be empty although others follow.
    pub lines: Vec<AuditLine>,
    /// The `after` of the next page; `None` on the last.
    pub next: Option<Id>,
}

impl Query for WalkMessages {
    const SUBJECT: &'static str = "query.audit.walk";
    type Answer = AuditPage;
}
