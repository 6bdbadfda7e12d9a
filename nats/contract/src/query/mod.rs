//! Queries that the persister answers from MongoDB over NATS request/reply. Types only; see
//! `runtime::rpc::query` for asking.

mod audit;
mod integration;
mod resumable;
mod sla;

use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::{
    Contact, Delivery, DeliveryState, ExternalId, MessageView, Platform, ShortText, User,
};
#[cfg(doc)]
use crate::event::Idempotency;
use crate::{Id, Timestamp};

pub use audit::{AuditLine, AuditMessages, AuditPage, MAX_AUDIT, WalkMessages};
pub use integration::{
    ExpiringPage, GetIntegration, IntegrationKey, IntegrationView, ListExpiring, ListIntegrations,
    ListRefreshable, MAX_EXPIRING, RefreshError,
};
pub use resumable::{ListResumable, MAX_RESUMABLE, Resumable, ResumablePage};
pub use sla::{
    Backlog, DeliveryCounts, FirstResponse, GetCompany, ListOverdue, MAX_OVERDUE, MAX_REPORT_DAYS,
    MAX_REPORT_MESSAGES, Overdue, OverdueAfter, OverduePage, Percentiles, ReportSla, SlaReport,
};

/// Documents in one page. A larger limit counts as this one.
pub const MAX_PAGE: u32 = 200;
/// Documents in one page if the caller names no limit.
pub const DEFAULT_PAGE: u32 = 50;

/// A query, with its subject and the type of its answer.
pub trait Query: Serialize + DeserializeOwned + Send + Sync {
    /// The subject: `query.<entity>.<question>`.
    const SUBJECT: &'static str;
    /// The type of a good answer. An error is a header of the answer instead.
    type Answer: Serialize + DeserializeOwned + Send;
    /// Which slots of the answering replica the query takes.
    const PRIORITY: Priority = Priority::Read;
}

/// The group of slots that a query is answered in. Each group has its own limit, so that no
/// number of [`Priority::Read`] queries delays a [`Priority::Write`] one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A client waits for the answer.
    Read,
    /// A group of events waits for the answer before it is written into the log.
    Write,
}

/// One message of a company, by id.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GetMessage {
    /// The tenant.
    pub company_id: Id,
    /// The id of the message.
    pub id: Id,
}

impl Query for GetMessage {
    const SUBJECT: &'static str = "query.message.get";
    type Answer = MessageView;
}

/// The end of a page, after which the next page begins. The text is opaque to clients.
///
/// ```
/// use contract::Id;
/// use contract::query::Cursor;
///
/// let cursor = Cursor { key: 1_764_000_000_000, id: Id::from_bytes([7; 12]) };
/// let text = cursor.to_string();
/// assert_eq!(text.len(), 40);
/// assert_eq!(text.parse(), Ok(cursor));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The value that the list is sorted by: milliseconds since 1970 or a sequence of the log.
    pub key: i64,
    /// The id of the page's last document, because two documents may have the same key. In a list of
    /// messages it holds the message's sequence, see [`Cursor::of_seq`].
    pub id: Id,
}

impl Cursor {
    /// The end of a page of messages, which are sorted by time and, where that is the same, by their
    /// sequence in the log.
    pub fn of_seq(key: i64, seq: u64) -> Cursor {
        let mut id = [0; 12];
        id[4..].copy_from_slice(&seq.to_be_bytes());
        let id = Id::from_bytes(id);
        Cursor { key, id }
    }

    /// The sequence of [`Cursor::of_seq`].
    pub fn seq(&self) -> u64 {
        let [_, _, _, _, seq @ ..] = self.id.bytes();
        u64::from_be_bytes(seq)
    }
}

/// The text is not a cursor: 40 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a next_cursor of an earlier answer")]
pub struct BadCursor;

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for Cursor {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::*;
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("opaque"))
            .pattern(Some("^[0-9a-f]{40}$"))
            .into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for Cursor {}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{}", self.key, self.id)
    }
}

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Cursor, BadCursor> {
        let (key, id) = text.split_at_checked(16).ok_or(BadCursor)?;
        if !key.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(BadCursor);
        }
        let key = u64::from_str_radix(key, 16).map_err(|_| BadCursor)?;
        Ok(Cursor {
            key: key.cast_signed(),
            id: id.parse().map_err(|_| BadCursor)?,
        })
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cursor, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A part of a list.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Page {
    /// Entries of the page, 1 to [`MAX_PAGE`].
    pub limit: u32,
    /// Entries to pass over. Because an entry that comes or goes meanwhile shifts such a page,
    /// `after` is the better choice.
    #[serde(default)]
    pub skip: u64,
    /// The end of the page before; `None` for the first page.
    #[serde(default)]
    pub after: Option<Cursor>,
}

/// A conversation's messages, newest first. The answer is "not found" if neither the contact nor a
/// message of the contact exists.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ListMessages {
    /// The tenant.
    pub company_id: Id,
    /// The conversation.
    pub contact_id: Id,
    /// Limits the list to messages of one platform.
    pub platform: Option<Platform>,
    /// The part of the list.
    #[serde(flatten)]
    pub page: Page,
}

/// The answer to [`ListMessages`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct MessagePage {
    /// Newest first.
    pub messages: Vec<MessageView>,
    /// In the whole conversation.
    #[serde(rename = "totalMessages")]
    pub total_messages: u64,
    /// Where the next page begins; `None` on the last.
    pub next_cursor: Option<Cursor>,
    /// Every event of the log up to this sequence is in it; perhaps later ones too. A socket's
    /// `last_seq`.
    pub as_of_seq: u64,
}

impl Query for ListMessages {
    const SUBJECT: &'static str = "query.message.list";
    type Answer = MessagePage;
}

/// The history of one message's delivery, call by call.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GetDelivery {
    /// The tenant.
    pub company_id: Id,
    /// The id of the message.
    pub id: Id,
}

/// Attempts in one answer. Of more, the answer has the newest. In 24 h there are about 300.
pub const MAX_ATTEMPTS: i64 = 1_000;

/// The answer to [`GetDelivery`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DeliveryHistory {
    /// Where it stands; `None` where the message is not forwarded.
    pub delivery: Option<Delivery>,
    /// Oldest first, at most [`MAX_ATTEMPTS`].
    pub attempts: Vec<Attempt>,
}

/// One call to the bot, or one decision not to call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Attempt {
    /// When it ended.
    pub at: Timestamp,
    /// Which call, from 1.
    pub attempt: u32,
    /// What it led to.
    pub state: DeliveryState,
    /// HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// How long it took, in ms.
    pub duration_ms: Option<u64>,
    /// What went wrong.
    pub error: Option<String>,
    /// When the next call was due.
    pub next_attempt_at: Option<Timestamp>,
}

impl Query for GetDelivery {
    const SUBJECT: &'static str = "query.message.delivery";
    type Answer = DeliveryHistory;
}

/// A company's conversations on a platform, latest first.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ListConversations {
    /// The tenant.
    pub company_id: Id,
    /// The platform; `None` for all.
    pub platform: Option<Platform>,
    /// The part of the list.
    #[serde(flatten)]
    pub page: Page,
}

/// One line of [`ConversationPage`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Conversation {
    /// The customer.
    pub contact_id: Id,
    /// The channel.
    pub platform: Platform,
    /// Their name, where the contact is known.
    #[serde(rename = "fullName")]
    pub full_name: Option<String>,
    /// Their name on the network.
    #[serde(rename = "socialNetworkName")]
    pub social_network_name: Option<String>,
    /// The newest message.
    #[serde(rename = "latestMessage")]
    pub latest_message: MessageView,
    /// Inbound messages that nobody has read.
    pub unread: u64,
}

/// The answer to [`ListConversations`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ConversationPage {
    /// Latest first.
    pub contacts: Vec<Conversation>,
    /// Where the next page begins; `None` on the last. A conversation that gets a message meanwhile
    /// moves to the first page.
    pub next_cursor: Option<Cursor>,
    /// Every event of the log up to this sequence is in it; perhaps later ones too. A socket's
    /// `last_seq`.
    pub as_of_seq: u64,
}

impl Query for ListConversations {
    const SUBJECT: &'static str = "query.message.conversations";
    type Answer = ConversationPage;
}

/// The owners of keys, for a whole group of events at once. A key without an owner is free, and
/// absent from the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FindKeyOwners {
    /// The keys, at most [`MAX_KEYS`].
    pub keys: Vec<UniqueKey>,
}

/// Keys in one [`FindKeyOwners`]. The persister refuses a query for more.
pub const MAX_KEYS: usize = 1_000;

/// A key that no two messages of a company share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UniqueKey {
    /// The tenant.
    pub company_id: Id,
    /// The key within the company.
    #[serde(flatten)]
    pub key: DedupKey,
}

/// A key by which a repeated message is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DedupKey {
    /// The id that the platform gave the message.
    External {
        /// The conversation. Two conversations may both have a message 42.
        contact_id: Id,
        /// The channel.
        platform: Platform,
        /// The platform's id of the message.
        id: ExternalId,
    },
    /// The `key` of the request's [`Idempotency`].
    Request(String),
}

/// A key and the message that owns it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyOwner {
    /// The key.
    pub key: UniqueKey,
    /// The id of the message.
    pub message_id: Id,
    /// The sequence of the message's `message.created` in the log.
    pub seq: u64,
}

impl Query for FindKeyOwners {
    const SUBJECT: &'static str = "query.message.holders";
    type Answer = Vec<KeyOwner>;
    const PRIORITY: Priority = Priority::Write;
}

/// One contact of a company, by id.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GetContact {
    /// The tenant.
    pub company_id: Id,
    /// The id of the contact.
    pub id: Id,
}

impl Query for GetContact {
    const SUBJECT: &'static str = "query.contact.get";
    type Answer = Contact;
}

/// A company's contacts, newest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListContacts {
    /// The tenant.
    pub company_id: Id,
    /// Words, each of which must begin a word of the contact's names, email, phone or ids on the
    /// networks; `None` lists all contacts.
    pub search: Option<String>,
    /// Keys that the contact must have, each exactly.
    #[serde(default)]
    pub with: Vec<ContactKey>,
    /// The part of the list.
    #[serde(flatten)]
    pub page: Page,
}

/// Something by which a contact is looked up exactly.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContactKey {
    /// The person's id on a platform.
    Platform(Platform, ShortText),
    /// The email address, in any case.
    Email(String),
    /// The digits of the phone number, whatever stands between them.
    Phone(String),
}

/// The contacts with one of these ids on a platform, or with one of these ids of our own. Each id on
/// a platform belongs to one contact of a company.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FindContacts {
    /// The tenant.
    pub company_id: Id,
    /// Ids on platforms, at most [`MAX_CONTACT_KEYS`].
    pub on_platforms: Vec<(Platform, ShortText)>,
    /// Ids of contacts, at most [`MAX_CONTACT_KEYS`].
    pub ids: Vec<Id>,
}

/// Ids of each kind in one [`FindContacts`]. The persister refuses a query for more.
pub const MAX_CONTACT_KEYS: usize = 16;

/// A contact and where the log has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KnownContact {
    /// The contact as it is now.
    pub contact: Contact,
    /// The sequence of its `contact.created`.
    pub seq: u64,
}

impl Query for FindContacts {
    const SUBJECT: &'static str = "query.contact.find";
    type Answer = Vec<KnownContact>;
}

/// The answer to [`ListContacts`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ContactPage {
    /// Newest first.
    pub contacts: Vec<Contact>,
    /// Where the next page begins; `None` on the last.
    pub next_cursor: Option<Cursor>,
}

impl Query for ListContacts {
    const SUBJECT: &'static str = "query.contact.list";
    type Answer = ContactPage;
}

/// A member of staff, by id.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GetUser {
    /// The tenant.
    pub company_id: Id,
    /// The id of the user.
    pub id: Id,
}

impl Query for GetUser {
    const SUBJECT: &'static str = "query.user.get";
    type Answer = User;
}

/// A member of staff by email, for the login.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserByEmail {
    /// The login name, in lower case.
    pub email: crate::domain::Email,
}

impl Query for UserByEmail {
    const SUBJECT: &'static str = "query.user.by_email";
    type Answer = User;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_parses_as_it_prints(key in any::<i64>(), id in any::<[u8; 12]>()) {
            let cursor = Cursor { key, id: Id::from_bytes(id) };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn a_cursor_of_messages_keeps_their_sequence(key in any::<i64>(), seq in any::<u64>()) {
            let cursor: Cursor = Cursor::of_seq(key, seq).to_string().parse().unwrap();
            prop_assert_eq!((cursor.key, cursor.seq()), (key, seq));
        }

        #[test]
        fn no_text_makes_the_cursor_panic(text in ".{0,60}") {
            let _ = text.parse::<Cursor>();
        }
    }
}
