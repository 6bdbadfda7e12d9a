//! The question which contacts the bot may speak to again.

use serde::{Deserialize, Serialize};

use super::Query;
use crate::{Id, Timestamp};

/// Most contacts in one [`ResumablePage`].
pub const MAX_RESUMABLE: u32 = 500;

/// Contacts of all companies whose `botSuspendUntil` has passed and was not lifted yet. The answer
/// waits until the view has what the log had when this was asked.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ListResumable {
    /// It passed at this moment or before it.
    pub passed: Timestamp,
    /// 1 to [`MAX_RESUMABLE`].
    pub limit: u32,
    /// Go on after this one.
    pub after: Option<Resumable>,
}

/// A contact whom the bot may speak to again. Also where a page ends: the list is ordered by
/// `until`, then by `contact_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumable {
    /// The tenant.
    pub company_id: Id,
    /// The contact.
    pub contact_id: Id,
    /// The `botSuspendUntil` that has passed.
    pub until: Timestamp,
}

/// The answer to [`ListResumable`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResumablePage {
    /// Those that passed first, first.
    pub resumable: Vec<Resumable>,
    /// Where to go on; `None` at the end.
    pub next: Option<Resumable>,
}

impl Query for ListResumable {
    const SUBJECT: &'static str = "query.contact.resumable";
    type Answer = ResumablePage;
}
