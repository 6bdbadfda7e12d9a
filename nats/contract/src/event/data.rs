//! What each event carries beyond the envelope. Where an event makes a document, the document's own
//! type of [`crate::domain`] is its data instead.

use serde::{Deserialize, Serialize};

use crate::domain::{
    Company, ContactPatch, Delivery, DeliveryState, MessagePatch, Platform, Provider, SlaTargets,
    User,
};
use crate::{Id, Timestamp};

/// `message.updated`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageUpdated {
    /// The message.
    pub message_id: Id,
    /// Its conversation.
    pub contact_id: Id,
    /// What changes.
    pub patch: MessagePatch,
}

/// `message.deleted`: it vanishes from every read, the log keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageDeleted {
    /// The message.
    pub message_id: Id,
    /// Its conversation.
    pub contact_id: Id,
}

/// `message.read`: staff have read what is inbound, and was accepted before this event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRead {
    /// The conversation.
    pub contact_id: Id,
    /// On one platform only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// `message.delivery`: one step of the forwarder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageDelivery {
    /// The message.
    pub message_id: Id,
    /// Its conversation.
    pub contact_id: Id,
    /// What the message's `delivery` now is.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// HTTP status of the call that this step ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How long that call took, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

impl MessageDelivery {
    /// Whether the bot has taken the message.
    pub fn is_delivered(&self) -> bool {
        self.delivery.state == DeliveryState::Delivered
    }

    /// `Nats-Msg-Id` of a step: told again, it is stored once. It says which delivery of the
    /// message the step belongs to.
    pub fn msg_id(message: Id, outbound_seq: u64, call: u64, state: DeliveryState) -> String {
        format!("delivery-{message}-{outbound_seq}-{call}-{state}")
    }

    /// The sequence in `OUTBOUND` of the delivery that a step of this message and `Nats-Msg-Id`
    /// belongs to.
    pub fn outbound_seq(message: Id, msg_id: &str) -> Option<u64> {
        msg_id
            .strip_prefix(&format!("delivery-{message}-"))?
            .split('-')
            .next()?
            .parse()
            .ok()
    }
}

/// `message.sla_breached`: the bot had not taken the message when its company's target passed. Once
/// a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageSlaBreached {
    /// The message.
    pub message_id: Id,
    /// Its conversation.
    pub contact_id: Id,
    /// The channel.
    pub platform: Platform,
    /// The company's target when it was missed, in seconds from accepted to delivered.
    pub target_seconds: u32,
    /// When the message was accepted.
    pub accepted_at: Timestamp,
}

/// `contact.bot_resumed`: the time for which the bot was to be silent is over. Says nothing if
/// staff have set another since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactBotResumed {
    /// The contact.
    pub contact_id: Id,
    /// The `botSuspendUntil` that has passed.
    pub until: Timestamp,
}

/// `company.updated`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompanyUpdated {
    /// New targets; `None` leaves them as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sla: Option<SlaTargets>,
}

/// `integration.refresh_failed`: a token that is about to expire could not be renewed. Staff have
/// to connect again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrationRefreshFailed {
    /// Whose token.
    #[serde(rename = "platform")]
    pub provider: Provider,
    /// Short text for staff, without tokens.
    pub error: String,
    /// When the platform stops taking the token, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires_at: Option<Timestamp>,
}

/// `company.created`: a company comes with its first manager, so that neither exists without the
/// other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompanyCreated {
    /// The tenant.
    pub company: Company,
    /// Who registered it.
    pub manager: User,
}

/// `contact.updated`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContactUpdated {
    /// The contact.
    pub contact_id: Id,
    /// What changes.
    pub patch: ContactPatch,
}

/// `integration.deleted`: the company is no longer connected with the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrationDeleted {
    /// Which.
    #[serde(rename = "platform")]
    pub provider: Provider,
}
