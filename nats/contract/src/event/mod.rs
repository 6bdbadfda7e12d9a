//! Events: the changes that the log holds, in one versioned envelope. Pure data; publishing is the
//! runtime's.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::{
    Company, Contact, ContactPatch, Delivery, DeliveryState, Integration, Message, MessagePatch,
    Platform, Provider, SlaTargets, User,
};
use crate::subject::{EventSubject, Facets};
use crate::{Id, Timestamp};

/// The envelope version that this build writes, and the only one that it reads.
pub const VERSION: u32 = 1;

/// Who caused an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Actor {
    /// A member of staff.
    User {
        /// Their id.
        id: Id,
    },
    /// An internal service, such as a channel bot.
    Service,
    /// This system itself.
    System,
}

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

/// Which request of a caller caused an event, so that its repetition is known for as long as the
/// database keeps the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// The caller and the `Idempotency-Key` that they chose.
    pub key: String,
    /// A digest of the request's body: the same key with another body is a mistake of the caller's.
    pub fingerprint: String,
}

/// Everything that can happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A message was accepted.
    MessageCreated(Message),
    /// A message was edited.
    MessageUpdated(MessageUpdated),
    /// A message was deleted.
    MessageDeleted(MessageDeleted),
    /// A conversation was read.
    MessageRead(MessageRead),
    /// Delivery of a message came a step further.
    MessageDelivery(MessageDelivery),
    /// A message missed its company's target.
    MessageSlaBreached(MessageSlaBreached),
    /// A contact was entered.
    ContactCreated(Box<Contact>),
    /// A contact was edited.
    ContactUpdated(Box<ContactUpdated>),
    /// The bot speaks to a contact again.
    ContactBotResumed(ContactBotResumed),
    /// A company registered.
    CompanyCreated(CompanyCreated),
    /// A company changed its settings.
    CompanyUpdated(CompanyUpdated),
    /// A member of staff joined a company.
    UserCreated(User),
    /// A company's access to a platform was entered or replaced.
    IntegrationUpdated(Integration),
    /// It was removed.
    IntegrationDeleted(IntegrationDeleted),
    /// Its token could not be renewed.
    IntegrationRefreshFailed(IntegrationRefreshFailed),
}

impl Event {
    /// `<entity>.<event>`: the envelope's `type`, and the first two tokens of the subject.
    pub const fn kind(&self) -> &'static str {
        match self {
            Event::MessageCreated(_) => "message.created",
            Event::MessageUpdated(_) => "message.updated",
            Event::MessageDeleted(_) => "message.deleted",
            Event::MessageRead(_) => "message.read",
            Event::MessageDelivery(_) => "message.delivery",
            Event::MessageSlaBreached(_) => "message.sla_breached",
            Event::ContactCreated(_) => "contact.created",
            Event::ContactUpdated(_) => "contact.updated",
            Event::ContactBotResumed(_) => "contact.bot_resumed",
            Event::CompanyCreated(_) => "company.created",
            Event::CompanyUpdated(_) => "company.updated",
            Event::UserCreated(_) => "user.created",
            Event::IntegrationUpdated(_) => "integration.updated",
            Event::IntegrationDeleted(_) => "integration.deleted",
            Event::IntegrationRefreshFailed(_) => "integration.refresh_failed",
        }
    }
}

/// One event with what all of them carry.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// The event's own id.
    pub id: Id,
    /// When it was accepted.
    pub occurred_at: Timestamp,
    /// Who caused it.
    pub actor: Actor,
    /// The tenant.
    pub company_id: Id,
    /// Which request caused it, where the caller gave it a key.
    pub idempotency: Option<Idempotency>,
    /// What happened.
    pub event: Event,
}

/// Why a payload is not an event.
#[derive(Debug, thiserror::Error)]
pub enum BadEvent {
    /// Not JSON, or fields are missing or wrong.
    #[error("malformed event: {0}")]
    Malformed(String),
    /// A type or version of another build.
    #[error("unknown event {kind} version {version}")]
    Unknown {
        /// The envelope's `type`.
        kind: String,
        /// The envelope's `version`.
        version: u32,
    },
}

#[derive(Serialize)]
struct Written<'a, D> {
    id: Id,
    r#type: &'a str,
    version: u32,
    occurred_at: Timestamp,
    actor: Actor,
    company_id: Id,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency: Option<&'a Idempotency>,
    data: &'a D,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    r#type: std::borrow::Cow<'a, str>,
    version: u32,
}

#[derive(Deserialize)]
struct Read<'a> {
    id: Id,
    occurred_at: Timestamp,
    actor: Actor,
    company_id: Id,
    #[serde(default)]
    idempotency: Option<Idempotency>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Envelope {
    /// An event of this moment, with an id of its own.
    pub fn new(now: Timestamp, actor: Actor, company_id: Id, event: Event) -> Envelope {
        Envelope {
            id: Id::generate(now),
            occurred_at: now,
            actor,
            company_id,
            idempotency: None,
            event,
        }
    }

    /// The JSON payload.
    ///
    /// # Errors
    /// None in practice: every type here serialises. The error is passed on all the same.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        match &self.event {
            Event::MessageCreated(data) => self.write(data),
            Event::MessageUpdated(data) => self.write(data),
            Event::MessageDeleted(data) => self.write(data),
            Event::MessageRead(data) => self.write(data),
            Event::MessageDelivery(data) => self.write(data),
            Event::MessageSlaBreached(data) => self.write(data),
            Event::ContactCreated(data) => self.write(data),
            Event::ContactUpdated(data) => self.write(data),
            Event::ContactBotResumed(data) => self.write(data),
            Event::CompanyCreated(data) => self.write(data),
            Event::CompanyUpdated(data) => self.write(data),
            Event::UserCreated(data) => self.write(data),
            Event::IntegrationUpdated(data) => self.write(data),
            Event::IntegrationDeleted(data) => self.write(data),
            Event::IntegrationRefreshFailed(data) => self.write(data),
        }
    }

    fn write<D: Serialize>(&self, data: &D) -> Result<Vec<u8>, serde_json::Error> {
        let Envelope {
            id,
            occurred_at,
            actor,
            company_id,
            ..
        } = *self;
        let (r#type, idempotency) = (self.event.kind(), self.idempotency.as_ref());
        serde_json::to_vec(&Written {
            id,
            r#type,
            version: VERSION,
            occurred_at,
            actor,
            company_id,
            idempotency,
            data,
        })
    }

    /// Reads a payload of the log.
    ///
    /// # Errors
    /// [`BadEvent::Unknown`] for another build's type or version, else [`BadEvent::Malformed`].
    pub fn from_json(payload: &[u8]) -> Result<Envelope, BadEvent> {
        let malformed = |e: serde_json::Error| BadEvent::Malformed(e.to_string());
        let head: Head<'_> = serde_json::from_slice(payload).map_err(malformed)?;
        let unknown = || BadEvent::Unknown {
            kind: head.r#type.to_string(),
            version: head.version,
        };
        if head.version != VERSION {
            return Err(unknown());
        }
        let read: Read<'_> = serde_json::from_slice(payload).map_err(malformed)?;
        let data = read.data;
        let event = match head.r#type.as_ref() {
            "message.created" => Event::MessageCreated(parse(data)?),
            "message.updated" => Event::MessageUpdated(parse(data)?),
            "message.deleted" => Event::MessageDeleted(parse(data)?),
            "message.read" => Event::MessageRead(parse(data)?),
            "message.delivery" => Event::MessageDelivery(parse(data)?),
            "message.sla_breached" => Event::MessageSlaBreached(parse(data)?),
            "contact.created" => Event::ContactCreated(Box::new(parse(data)?)),
            "contact.updated" => Event::ContactUpdated(Box::new(parse(data)?)),
            "contact.bot_resumed" => Event::ContactBotResumed(parse(data)?),
            "company.updated" => Event::CompanyUpdated(parse(data)?),
            "company.created" => Event::CompanyCreated(parse(data)?),
            "user.created" => Event::UserCreated(parse(data)?),
            "integration.updated" => Event::IntegrationUpdated(parse(data)?),
            "integration.deleted" => Event::IntegrationDeleted(parse(data)?),
            "integration.refresh_failed" => Event::IntegrationRefreshFailed(parse(data)?),
            _ => return Err(unknown()),
        };
        let Read {
            id,
            occurred_at,
            actor,
            company_id,
            idempotency,
            ..
        } = read;
        Ok(Envelope {
            id,
            occurred_at,
            actor,
            company_id,
            idempotency,
            event,
        })
    }

    /// Where it belongs in the log.
    pub fn subject(&self) -> EventSubject {
        let company = self.company_id;
        match &self.event {
            Event::MessageCreated(m) => EventSubject::MessageCreated {
                company,
                contact: m.contact_id,
                facets: Facets {
                    platform: m.platform,
                    direction: m.direction,
                    role: m.role,
                },
            },
            Event::MessageUpdated(e) => EventSubject::MessageUpdated {
                company,
                contact: e.contact_id,
            },
            Event::MessageDeleted(e) => EventSubject::MessageDeleted {
                company,
                contact: e.contact_id,
            },
            Event::MessageRead(e) => EventSubject::MessageRead {
                company,
                contact: e.contact_id,
            },
            Event::MessageDelivery(e) => EventSubject::MessageDelivery {
                company,
                contact: e.contact_id,
            },
            Event::MessageSlaBreached(e) => EventSubject::MessageSlaBreached {
                company,
                contact: e.contact_id,
            },
            Event::ContactCreated(c) => EventSubject::ContactCreated {
                company,
                contact: c.id,
            },
            Event::ContactUpdated(e) => EventSubject::ContactUpdated {
                company,
                contact: e.contact_id,
            },
            Event::ContactBotResumed(e) => EventSubject::ContactBotResumed {
                company,
                contact: e.contact_id,
            },
            Event::CompanyCreated(_) => EventSubject::CompanyCreated { company },
            Event::CompanyUpdated(_) => EventSubject::CompanyUpdated { company },
            Event::UserCreated(u) => EventSubject::UserCreated {
                company,
                user: u.id,
            },
            Event::IntegrationUpdated(i) => EventSubject::IntegrationUpdated {
                company,
                provider: i.provider,
            },
            Event::IntegrationDeleted(e) => EventSubject::IntegrationDeleted {
                company,
                provider: e.provider,
            },
            Event::IntegrationRefreshFailed(e) => EventSubject::IntegrationRefreshFailed {
                company,
                provider: e.provider,
            },
        }
    }

    /// Reads a message of the log and checks it against the subject it came on, which is what
    /// isolates tenants.
    ///
    /// # Errors
    /// As [`Envelope::from_json`], and [`BadEvent::Malformed`] where payload and subject differ.
    pub fn from_message(subject: &str, payload: &[u8]) -> Result<Envelope, BadEvent> {
        let envelope = Envelope::from_json(payload)?;
        let inner = match &envelope.event {
            Event::MessageCreated(m) => m.company_id,
            Event::ContactCreated(c) => c.company_id,
            Event::UserCreated(u) => u.company_id,
            Event::IntegrationUpdated(i) => i.company_id,
            Event::CompanyCreated(c) if c.company.id == c.manager.company_id => c.company.id,
            Event::CompanyCreated(_) => {
                return Err(BadEvent::Malformed(
                    "the manager is of another company".into(),
                ));
            }
            _ => envelope.company_id,
        };
        if inner != envelope.company_id || envelope.subject().to_string() != subject {
            return Err(BadEvent::Malformed(format!(
                "the payload does not belong to the subject {subject}"
            )));
        }
        Ok(envelope)
    }
}

fn parse<T: DeserializeOwned>(data: &RawValue) -> Result<T, BadEvent> {
    serde_json::from_str(data.get()).map_err(|e| BadEvent::Malformed(format!("data: {e}")))
}

#[cfg(test)]
mod tests;
