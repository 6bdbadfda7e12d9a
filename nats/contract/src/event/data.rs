//! What each event carries beyond the envelope. Where an event makes a document, the document's own
//! type of [`crate::domain`] is its data instead.

use serde::{Deserialize, Serialize};

use crate::domain::{
    Company, ContactPatch, Delivery, DeliveryState, MessagePatch, Platform, Provider, SlaTargets,
    User,
};
use crate::{Id, Timestamp};

/// `message.updated`: an edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageUpdated {
    /// The id of the message.
    pub message_id: Id,
    /// The conversation: the id of its contact.
    pub contact_id: Id,
    /// The fields that change.
    pub patch: MessagePatch,
}

/// `message.deleted`: the message vanishes from every read. The log keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageDeleted {
    /// The id of the message.
    pub message_id: Id,
    /// The conversation: the id of its contact.
    pub contact_id: Id,
}

/// `message.read`: staff have read the inbound messages that were accepted before this event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRead {
    /// The conversation.
    pub contact_id: Id,
    /// Limits the event to messages of one platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// `message.delivery`: one step of the forwarder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageDelivery {
    /// The id of the message.
    pub message_id: Id,
    /// The conversation: the id of its contact.
    pub contact_id: Id,
    /// The log position of the message. `None` for a replay, which is delivered out of order, and on
    /// steps of older builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_seq: Option<u64>,
    /// The message's `delivery` after this step.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// HTTP status of the call that this step ends; `None` if there was no call or no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Duration of the call that this step ends, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

impl MessageDelivery {
    /// Whether the bot has taken the message.
    pub fn is_delivered(&self) -> bool {
        self.delivery.state == DeliveryState::Delivered
    }

    /// `Nats-Msg-Id` of a step. Because the id is the same whenever the step is published, the log
    /// stores the step once. `outbound_seq` is the sequence in `OUTBOUND` of the message, and
    /// `call` counts the calls to the bot, from 1.
    pub fn msg_id(message: Id, outbound_seq: u64, call: u64, state: DeliveryState) -> String {
        format!("delivery-{message}-{outbound_seq}-{call}-{state}")
    }

    /// Reads `outbound_seq` back from the [`MessageDelivery::msg_id`] of a step of this message.
    pub fn outbound_seq(message: Id, msg_id: &str) -> Option<u64> {
        msg_id
            .strip_prefix(&format!("delivery-{message}-"))?
            .split('-')
            .next()?
            .parse()
            .ok()
    }
}

/// `message.sla_breached`: the bot had not taken the message when its company's target passed. A
/// message has at most one such event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageSlaBreached {
    /// The id of the message.
    pub message_id: Id,
    /// The conversation: the id of its contact.
    pub contact_id: Id,
    /// The channel.
    pub platform: Platform,
    /// The company's target at that time, in seconds from accepted to delivered.
    pub target_seconds: u32,
    /// When the message was accepted.
    pub accepted_at: Timestamp,
}

/// `contact.bot_resumed`: the time for which the bot was to be silent is over. Without effect if
/// staff have set another time since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactBotResumed {
    /// The contact.
    pub contact_id: Id,
    /// The `botSuspendUntil` that has passed.
    pub until: Timestamp,
}

/// `company.updated`: new settings of a company.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompanyUpdated {
    /// New targets; `None` leaves the targets as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sla: Option<SlaTargets>,
}

/// `integration.refresh_failed`: a token that is about to expire could not be renewed. Staff have
/// to connect the platform again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrationRefreshFailed {
    /// The platform that the token is for.
    #[serde(rename = "platform")]
    pub provider: Provider,
    /// The reason, a short text for staff. It holds no token.
    pub error: String,
    /// When the platform stops taking the token; `None` if the platform does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires_at: Option<Timestamp>,
}

/// `company.created`: a company comes with its first manager, so that neither exists without the
/// other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompanyCreated {
    /// The tenant.
    pub company: Company,
    /// The member of staff who registered the company.
    pub manager: User,
}

/// `contact.updated`: an edit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContactUpdated {
    /// The contact.
    pub contact_id: Id,
    /// The fields that change.
    pub patch: ContactPatch,
}

/// `integration.deleted`: the company is no longer connected with the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrationDeleted {
    /// The platform.
    #[serde(rename = "platform")]
    pub provider: Provider,
}
