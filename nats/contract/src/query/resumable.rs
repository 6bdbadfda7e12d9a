//! The query which contacts the bot may speak to again. Types only.

use serde::{Deserialize, Serialize};

use super::Query;
use crate::{Id, Timestamp};

/// Contacts in one [`ResumablePage`]. A larger limit counts as this one.
pub const MAX_RESUMABLE: u32 = 500;

/// Contacts of all companies whose `botSuspendUntil` has passed and was not lifted yet. The
/// persister answers once the view has every event that the log had when the query came.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ListResumable {
    /// The latest `botSuspendUntil` that counts as passed.
    pub passed: Timestamp,
    /// Entries of the page, 1 to [`MAX_RESUMABLE`].
    pub limit: u32,
    /// The contact after which the page begins; `None` for the first page.
    pub after: Option<Resumable>,
}

/// A contact to whom the bot may speak again. The list is ordered by `until`, then by `contact_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumable {
    /// The tenant.
    pub company_id: Id,
    /// The id of the contact.
    pub contact_id: Id,
    /// The `botSuspendUntil` that has passed.
    pub until: Timestamp,
}

/// The answer to [`ListResumable`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResumablePage {
    /// The contacts, those whose time passed first first.
    pub resumable: Vec<Resumable>,
    /// The `after` of the next page; `None` on the last.
    pub next: Option<Resumable>,
}

impl Query for ListResumable {
    const SUBJECT: &'static str = "query.contact.resumable";
    type Answer = ResumablePage;
}
