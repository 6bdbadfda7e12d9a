//! Questions that the persister answers from MongoDB over NATS request/reply. Types only; see `runtime::query` for asking.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Id;
use crate::domain::{Contact, ExternalId, MessageView, Platform, User};

/// Most documents in one page.
pub const MAX_PAGE: u32 = 200;
/// Documents in a page where the caller does not say.
pub const DEFAULT_PAGE: u32 = 50;

/// A question, its subject and the type of its answer.
pub trait Query: Serialize + DeserializeOwned + Send + Sync {
    /// `query.<entity>.<question>`.
    const SUBJECT: &'static str;
    /// What a good answer holds.
    type Answer: Serialize + DeserializeOwned + Send;
}

/// One message of a company, by id.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GetMessage {
    /// The tenant.
    pub company_id: Id,
    /// The message.
    pub id: Id,
}

impl Query for GetMessage {
    const SUBJECT: &'static str = "query.message.get";
    type Answer = MessageView;
}

/// A conversation's messages, newest first.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ListMessages {
    /// The tenant.
    pub company_id: Id,
    /// The conversation.
    pub contact_id: Id,
    /// On one platform only.
    pub platform: Option<Platform>,
    /// 1 to [`MAX_PAGE`].
    pub limit: u32,
    /// Messages to pass over.
    pub skip: u64,
}

/// The answer to [`ListMessages`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessagePage {
    /// Newest first.
    pub messages: Vec<MessageView>,
    /// In the whole conversation.
    pub total_messages: u64,
}

impl Query for ListMessages {
    const SUBJECT: &'static str = "query.message.list";
    type Answer = MessagePage;
}

/// A company's conversations on a platform, latest first.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ListConversations {
    /// The tenant.
    pub company_id: Id,
    /// The channel.
    pub platform: Platform,
    /// 1 to [`MAX_PAGE`].
    pub limit: u32,
    /// Conversations to pass over.
    pub skip: u64,
}

/// One line of [`ConversationPage`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Conversation {
    /// The customer.
    pub contact_id: Id,
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
pub struct ConversationPage {
    /// Latest first.
    pub contacts: Vec<Conversation>,
}

impl Query for ListConversations {
    const SUBJECT: &'static str = "query.message.conversations";
    type Answer = ConversationPage;
}

/// Which of these external ids are taken, for a whole commit group at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FindExternal {
    /// At most [`crate::query::MAX_EXTERNAL`].
    pub keys: Vec<ExternalKey>,
}

/// Most keys in one [`FindExternal`].
pub const MAX_EXTERNAL: usize = 1_000;

/// What is unique about a platform's own message id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExternalKey {
    /// The tenant.
    pub company_id: Id,
    /// The channel.
    pub platform: Platform,
    /// The platform's id.
    pub external_message_id: ExternalId,
}

/// A taken key and the message that holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExternalHolder {
    /// The key.
    #[serde(flatten)]
    pub key: ExternalKey,
    /// The message.
    pub message_id: Id,
}

impl Query for FindExternal {
    const SUBJECT: &'static str = "query.message.external";
    type Answer = Vec<ExternalHolder>;
}

/// One contact of a company, by id.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GetContact {
    /// The tenant.
    pub company_id: Id,
    /// The contact.
    pub id: Id,
}

impl Query for GetContact {
    const SUBJECT: &'static str = "query.contact.get";
    type Answer = Contact;
}

/// A member of staff by email, for the login.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserByEmail {
    /// In lower case.
    pub email: crate::domain::Email,
}

impl Query for UserByEmail {
    const SUBJECT: &'static str = "query.user.by_email";
    type Answer = User;
}
