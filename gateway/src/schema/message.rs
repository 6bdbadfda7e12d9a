//! Messages and conversations.

use contract::domain::{
    Content, Direction, ExternalId, MessageView, Platform, Role, ShortText, Url,
};
use contract::query::{ConversationPage, MessagePage};
use contract::{Id, Timestamp};
use utoipa::ToSchema;

use super::text::MaybeText;
use crate::api::refusals::ProblemDetails;

/// A message to store, and to forward where it is an operator's to facebook or instagram.
#[derive(ToSchema)]
#[schema(example = json!({
    "contact_id": "665f1e0c9b1d4a7f3c2e8a01", "role": "operator", "platform": "facebook", "direction": "outbound", "content": "See you at ten.",
}))]
pub struct NewMessage {
    /// An internal service must name it; a member of staff need not.
    company_id: Option<Id>,
    /// The customer, and so the conversation.
    contact_id: Id,
    role: Role,
    /// Upper and lower case are the same.
    platform: Platform,
    direction: Direction,
    /// Required where there are no attachments; it is trimmed.
    content: Option<Content>,
    #[schema(max_items = 20)]
    attachments: Option<Vec<NewAttachment>>,
    /// The platform's own id of the message; a repetition is refused with 409.
    external_message_id: Option<ExternalId>,
    /// When it was written; a time in the future counts as now.
    created_at: Option<Timestamp>,
}

/// A file that goes with a message; only its address is kept.
#[derive(ToSchema)]
pub struct NewAttachment {
    /// What it is: `image`, `video`, `file`, …
    r#type: ShortText,
    url: Url,
    file_description: Option<MaybeText>,
}

/// Which messages to list; the old backend's way, the same as `GET /messages`.
#[derive(ToSchema)]
#[schema(example = json!({"contact_id": "665f1e0c9b1d4a7f3c2e8a01", "limit": 20}))]
pub struct ListBody {
    company_id: Option<Id>,
    contact_id: Id,
    platform: Option<Platform>,
    #[schema(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    #[schema(minimum = 0, maximum = 100_000, default = 0)]
    skip: Option<u32>,
    /// `next_cursor` of the page before; empty for the first page.
    #[schema(pattern = "^([0-9a-f]{40})?$")]
    cursor: Option<String>,
}

/// What `POST /messages` does: with one of `role`, `direction`, `content` and `attachments` it
/// creates, else it lists.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum CreateOrList {
    Create(NewMessage),
    List(ListBody),
}

/// Many messages, each as in `POST /messages`.
#[derive(ToSchema)]
#[schema(example = json!({"messages": [
    {"contact_id": "665f1e0c9b1d4a7f3c2e8a01", "role": "user", "platform": "telegram", "direction": "inbound", "content": "Are you open today?"},
]}))]
pub struct Batch {
    /// As in `POST /messages`; one that is wrong fails by itself.
    #[schema(min_items = 1, max_items = 500)]
    messages: Vec<serde_json::Value>,
}

/// An edit of a message; at least one of `content` and `attachments`.
#[derive(ToSchema)]
#[schema(example = json!({"_id": "665f1e0c9b1d4a7f3c2e8a02", "content": "See you at eleven."}))]
pub struct MessageEdit {
    company_id: Option<Id>,
    /// `id` is taken as well.
    _id: Id,
    content: Option<Content>,
    /// In place of all.
    #[schema(max_items = 20)]
    attachments: Option<Vec<NewAttachment>>,
}

/// Which message.
#[derive(ToSchema)]
#[schema(example = json!({"_id": "665f1e0c9b1d4a7f3c2e8a02"}))]
pub struct MessageId {
    company_id: Option<Id>,
    /// `id` is taken as well.
    _id: Id,
}

/// Which messages were read: the inbound ones that were accepted before this request.
#[derive(ToSchema)]
#[schema(example = json!({"contact_id": "665f1e0c9b1d4a7f3c2e8a01"}))]
pub struct ReadBody {
    company_id: Option<Id>,
    contact_id: Id,
    /// On one platform only.
    platform: Option<Platform>,
}

/// Which conversations to list; the old backend's way, the same as `GET /conversations`.
#[derive(ToSchema)]
#[schema(example = json!({"limit": 20, "skip": 0}))]
pub struct ConversationsBody {
    company_id: Option<Id>,
    /// `instagram` where it is not given.
    platform: Option<Platform>,
    #[schema(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    #[schema(minimum = 0, maximum = 100_000, default = 0)]
    skip: Option<u32>,
    /// `next_cursor` of the page before; empty for the first page.
    #[schema(pattern = "^([0-9a-f]{40})?$")]
    cursor: Option<String>,
}

/// What became of one message of a batch: what `POST /messages` answers, with its status.
#[derive(ToSchema)]
pub struct BatchEntry {
    /// 201, or the status of `error`.
    status: u16,
    /// The same message was stored by an earlier request of the same `Idempotency-Key`.
    #[schema(required = false)]
    replayed: bool,
    #[serde(rename = "messageData")]
    #[schema(required = false)]
    message_data: MessageView,
    #[schema(required = false)]
    seq: u64,
    #[schema(required = false)]
    error: ProblemDetails,
}

/// One message.
#[derive(ToSchema)]
pub struct OneMessage {
    #[serde(rename = "messageData")]
    message_data: MessageView,
}

/// A page of messages.
#[derive(ToSchema)]
pub struct MessageList {
    #[serde(flatten)]
    page: MessagePage,
    limit: u32,
    skip: u32,
}

/// A page of conversations.
#[derive(ToSchema)]
pub struct ConversationList {
    #[serde(flatten)]
    page: ConversationPage,
    limit: u32,
    skip: u32,
}
