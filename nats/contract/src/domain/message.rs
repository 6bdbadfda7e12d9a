//! Messages and their delivery. Knows no event and no bot.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::integration::Provider;
use super::text::{Content, ExternalId, ShortText, Url};
use crate::{Id, Timestamp};

/// How long after it was written an operator's message may be sent: Meta's messaging window. An older
/// message counts as sent elsewhere.
pub const DELIVERY_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// Attachments that one message can have. The gateway refuses a message with more.
pub const MAX_ATTACHMENTS: usize = 20;

string_enum!(
    /// Who wrote a message.
    Role, "user, operator, assistant",
    /// The customer.
    User = "user",
    /// A member of staff.
    Operator = "operator",
    /// The company's bot.
    Assistant = "assistant"
);
string_enum!(
    /// The channel that carries a message.
    Platform, "instagram, facebook, telegram, whatsapp, web, other",
    /// Instagram direct messages.
    Instagram = "instagram",
    /// Facebook Messenger.
    Facebook = "facebook",
    /// Telegram.
    Telegram = "telegram",
    /// WhatsApp.
    Whatsapp = "whatsapp",
    /// The widget on the company's own page.
    Web = "web",
    /// Anything else.
    Other = "other"
);
string_enum!(
    /// From the customer, or to them.
    Direction, "inbound, outbound",
    /// Customer to company.
    Inbound = "inbound",
    /// Company to customer.
    Outbound = "outbound"
);
string_enum!(
    /// How far a forwardable message has come.
    DeliveryState, "queued, sending, retrying, held, delivered, failed, cancelled",
    /// The message is in the log and waits for the forwarder. Every forwardable message starts in
    /// this state, without an event.
    Queued = "queued",
    /// A call to the bot is under way.
    Sending = "sending",
    /// The last call failed, and another follows.
    Retrying = "retrying",
    /// The message waits for something that staff must mend.
    Held = "held",
    /// The bot took the message.
    Delivered = "delivered",
    /// The message was given up. It is a dead letter.
    Failed = "failed",
    /// Staff deleted the message before the bot was called.
    Cancelled = "cancelled"
);

impl Platform {
    /// Whether the Meta bot carries operator messages of this platform.
    pub const fn is_forwardable(self) -> bool {
        matches!(self, Platform::Facebook | Platform::Instagram)
    }

    /// The provider whose access token is needed to deliver messages of this platform; `None` if
    /// none is.
    pub const fn provider(self) -> Option<Provider> {
        match self {
            Platform::Instagram => Some(Provider::Instagram),
            Platform::Facebook => Some(Provider::Facebook),
            Platform::Telegram => Some(Provider::Telegram),
            Platform::Whatsapp => Some(Provider::Whatsapp),
            Platform::Web | Platform::Other => None,
        }
    }
}

/// Something that goes with a message: a file, which stays where it is, because only its address is
/// kept; or a location, a contact card, a sticker and whatever else a channel has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Attachment {
    /// What it is: `image`, `video`, `file`, `location`, …
    #[serde(rename = "type")]
    pub kind: ShortText,
    /// Where it is. What is no file has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Url>,
    /// What staff or bot say of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_description: Option<ShortText>,
    /// What the channel says of it, as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(required = false, value_type = Value))]
    pub payload: Option<Value>,
    /// Fields that the API does not know, as they came.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[cfg_attr(feature = "schema", schema(required = false, value_type = Object))]
    pub extra: Map<String, Value>,
}

/// A message as it was accepted. This is the data of `message.created`; it never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Message {
    /// Made by the gateway.
    #[serde(rename = "_id")]
    pub id: Id,
    /// The tenant.
    pub company_id: Id,
    /// The customer, and so the conversation.
    pub contact_id: Id,
    /// Who wrote it.
    pub role: Role,
    /// The channel.
    pub platform: Platform,
    /// Which way it goes.
    pub direction: Direction,
    /// The text.
    pub content: Content,
    /// At most 20.
    #[serde(default)]
    pub attachments: Vec<Attachment>,
    /// The platform's own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_message_id: Option<ExternalId>,
    /// Whether the customer has the message already, from elsewhere: somebody has typed it in the
    /// platform's own app, or it is history. The message is stored and shown, and never sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sent_elsewhere: bool,
    /// When it was written: the caller's word, else when it was accepted.
    pub created_at: Timestamp,
    /// Fields of the channel that the API does not know, as they came.
    #[serde(rename = "extra", default, skip_serializing_if = "Map::is_empty")]
    #[cfg_attr(feature = "schema", schema(required = false, value_type = Object))]
    pub of_channel: Map<String, Value>,
    /// Fields that a newer build has added: kept, not understood.
    #[serde(flatten)]
    #[cfg_attr(feature = "schema", schema(ignore))]
    pub extra: Map<String, Value>,
}

/// Whether the forwarder takes a message with these properties to the bot.
pub(crate) const fn is_forwardable(platform: Platform, direction: Direction, role: Role) -> bool {
    matches!((role, direction), (Role::Operator, Direction::Outbound)) && platform.is_forwardable()
}

impl Message {
    /// Whether the forwarder takes the message to the bot. `subject::forwardable` says the same in
    /// subjects.
    pub fn is_forwardable(&self) -> bool {
        !self.sent_elsewhere && is_forwardable(self.platform, self.direction, self.role)
    }

    /// The message as clients see it right after the log has accepted it at `seq`.
    pub fn initial_view(self, seq: Option<u64>) -> MessageView {
        let delivery = self.is_forwardable().then(Delivery::queued);
        MessageView {
            read: false,
            delivered: self.sent_elsewhere,
            read_at: None,
            updated_at: self.created_at,
            delivery,
            sla: None,
            seq,
            message: self,
        }
    }
}

/// A message as clients see it: what was accepted, and what has become of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct MessageView {
    /// What was accepted, with later edits.
    #[serde(flatten)]
    pub message: Message,
    /// Staff have read it.
    pub read: bool,
    /// The bot took it, or the customer had it from elsewhere.
    pub delivered: bool,
    /// When it was marked read.
    pub read_at: Option<Timestamp>,
    /// When it was last edited, or its delivery last changed; reading has `read_at`.
    pub updated_at: Timestamp,
    /// On forwardable messages only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// On messages that missed their company's target only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sla: Option<SlaBreach>,
    /// The sequence of its `message.created` in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// The field `sla` of a message that missed its company's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SlaBreach {
    /// When that was found.
    pub breached_at: Timestamp,
    /// The target, in seconds from accepted to delivered.
    pub target_seconds: u32,
}

/// The field `delivery` of a forwardable message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Delivery {
    /// How far it has come.
    pub state: DeliveryState,
    /// Calls made so far.
    pub attempts: u32,
    /// What the last failed call said.
    pub last_error: Option<String>,
    /// When the next call is due, while retrying.
    pub next_attempt_at: Option<Timestamp>,
    /// When the bot took it.
    pub delivered_at: Option<Timestamp>,
    /// The id that the platform gave it, as the bot's answer says. An echo names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_message_id: Option<ExternalId>,
}

impl Delivery {
    /// The delivery of a forwardable message that no forwarder has seen yet.
    pub fn queued() -> Delivery {
        Delivery {
            state: DeliveryState::Queued,
            attempts: 0,
            last_error: None,
            next_attempt_at: None,
            delivered_at: None,
            external_message_id: None,
        }
    }
}

/// The fields of a message that can be edited. `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessagePatch {
    /// A new text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// New attachments, in place of all attachments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments: Option<Vec<Attachment>>,
}
