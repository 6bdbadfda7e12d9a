//! Queries about what companies promise their customers: targets, the report, and the messages that
//! have missed a target. Types only; `docs/adr/0011-sla.md` says how things are counted.

use serde::{Deserialize, Serialize};

use super::Query;
use crate::domain::{Company, Platform, SlaTargets};
use crate::{Id, Timestamp};

/// One company, by id.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GetCompany {
    /// The tenant.
    pub company_id: Id,
}

impl Query for GetCompany {
    const SUBJECT: &'static str = "query.company.get";
    type Answer = Company;
}

/// Days in the range of one report, a little more than the log keeps. The persister refuses a
/// longer range.
pub const MAX_REPORT_DAYS: u64 = 31;
/// Messages that one report looks at. Of a range with more, the report covers the newest.
pub const MAX_REPORT_MESSAGES: u32 = 50_000;

/// How a company kept its promises for the messages that were accepted in a range.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ReportSla {
    /// The tenant.
    pub company_id: Id,
    /// Limits the report to messages of one platform.
    pub platform: Option<Platform>,
    /// The first moment of the range.
    pub from: Timestamp,
    /// The first moment after the range, at most [`MAX_REPORT_DAYS`] later than `from`.
    pub to: Timestamp,
}

impl Query for ReportSla {
    const SUBJECT: &'static str = "query.sla.report";
    type Answer = SlaReport;
}

/// How long something took, by nearest rank; `None` where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Percentiles {
    /// How many were measured.
    pub count: u64,
    /// Half of them took at most so long, in ms.
    pub p50_ms: Option<u64>,
    /// 95 of 100.
    pub p95_ms: Option<u64>,
    /// 99 of 100.
    pub p99_ms: Option<u64>,
}

/// What became of the messages for the bot that were accepted in the range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DeliveryCounts {
    /// All of them.
    pub forwardable: u64,
    /// The bot took them, in time or late.
    pub delivered: u64,
    /// Of those, within the target that held when they were accepted.
    pub within_target: u64,
    /// Not within the target: delivered later, failed, or still waiting past it.
    pub late: u64,
    /// Waiting, and their target has not passed yet.
    pub pending: u64,
    /// Given up; each is a dead letter.
    pub failed: u64,
    /// A breach was reported for them.
    pub breached: u64,
    /// `within_target` of `within_target` + `late`, 0 to 1; `None` where there is neither.
    pub within_target_ratio: Option<f64>,
}

/// How soon operators answered. A wait begins with a customer's first unanswered message in a
/// conversation, and ends with the next outbound one; it counts if an operator wrote that. Both
/// must lie in the range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FirstResponse {
    /// How long the answered ones waited.
    pub times: Percentiles,
    /// Answered within the target that held when the wait began.
    pub within_target: u64,
    /// Answered later, or still waiting past it.
    pub late: u64,
    /// Conversations that still wait at the end of the range.
    pub waiting: u64,
    /// How long the longest of those has waited, in ms.
    pub oldest_waiting_ms: Option<u64>,
    /// `within_target` of `within_target` + `late`, 0 to 1; `None` where there is neither.
    pub within_target_ratio: Option<f64>,
}

/// What awaits delivery now, whenever it was accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Backlog {
    /// All of it.
    pub total: u64,
    /// Waits for a forwarder.
    pub queued: u64,
    /// A call is under way.
    pub sending: u64,
    /// A call failed, another follows.
    pub retrying: u64,
    /// Waits for something that staff must mend.
    pub held: u64,
    /// How long ago the oldest of it was accepted, in ms.
    pub oldest_age_ms: Option<u64>,
}

/// The answer to [`ReportSla`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SlaReport {
    /// The first moment of the range.
    pub from: Timestamp,
    /// The first moment after it.
    pub to: Timestamp,
    /// The platform it is about; `None` for all.
    pub platform: Option<Platform>,
    /// What holds for messages accepted now.
    pub targets: SlaTargets,
    /// Messages looked at: all of the range, or the newest of it.
    pub messages: u64,
    /// There were more than 50,000: what is counted begins at `counted_from`.
    pub truncated: bool,
    /// Where what is counted begins.
    pub counted_from: Timestamp,
    /// Everything up to this sequence of the log is counted.
    pub as_of_seq: u64,
    /// Events of the log that are not in the database yet. While there are many, what is newest is
    /// not counted.
    pub behind: u64,
    /// From accepted to found by reads, by the minute in which messages were accepted; each at most
    /// one step of a scale too long.
    pub persisted: Percentiles,
    /// From accepted to taken by the bot.
    pub delivered: Percentiles,
    /// What became of messages for the bot.
    pub delivery: DeliveryCounts,
    /// How soon operators answered.
    pub first_response: FirstResponse,
    /// What awaits delivery now.
    pub backlog: Backlog,
}

/// Messages in one [`OverduePage`]. A larger limit counts as this one.
pub const MAX_OVERDUE: u32 = 500;

/// Messages for the bot, of all companies, whose target passed within a range of time, and that
/// were not delivered by then. Messages with a known breach are left out. The persister answers
/// once the view has every event that the log had when the query came.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ListOverdue {
    /// The range in which targets passed begins after this moment.
    pub from: Timestamp,
    /// The last moment of the range.
    pub to: Timestamp,
    /// Entries of the page, 1 to [`MAX_OVERDUE`].
    pub limit: u32,
    /// The point after which the page begins; `None` for the first page.
    pub after: Option<OverdueAfter>,
}

/// A point in the list of overdue messages. The list is ordered by the fields in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverdueAfter {
    /// The target, in seconds.
    pub target_seconds: u32,
    /// When the message was accepted.
    pub accepted_at: Timestamp,
    /// The id of the message.
    pub message_id: Id,
}

/// A message that was not delivered within its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overdue {
    /// The tenant.
    pub company_id: Id,
    /// The conversation.
    pub contact_id: Id,
    /// The message.
    pub message_id: Id,
    /// The channel.
    pub platform: Platform,
    /// When the message was accepted.
    pub accepted_at: Timestamp,
    /// The target that held at that time, in seconds.
    pub target_seconds: u32,
}

/// The answer to [`ListOverdue`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OverduePage {
    /// The messages, by target and age.
    pub overdue: Vec<Overdue>,
    /// The `after` of the next page; `None` on the last.
    pub next: Option<OverdueAfter>,
}

impl Query for ListOverdue {
    const SUBJECT: &'static str = "query.sla.overdue";
    type Answer = OverduePage;
}
