//! The envelope that every event of the log is in, and its JSON. Publishes nothing.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::data::*;
use crate::domain::{Contact, Integration, Message, Provider, User};
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
        /// The id of the user.
        id: Id,
    },
    /// An internal service, such as a channel bot.
    Service,
    /// This system itself.
    System,
}

/// The request of a caller that caused an event. With it a repetition of the request is recognised
/// for as long as the database keeps the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// The caller and the `Idempotency-Key` that the caller chose, as `<caller>:<key>`.
    pub key: String,
    /// A digest of the request's body. The same key with another digest is a mistake of the caller.
    pub fingerprint: String,
}

/// One event with the fields that all events have.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// The id of the event itself, not of a thing that the event is about.
    pub id: Id,
    /// When the service accepted the change.
    pub occurred_at: Timestamp,
    /// Who caused the event.
    pub actor: Actor,
    /// The tenant.
    pub company_id: Id,
    /// The request that caused the event, if the caller gave the request a key.
    pub idempotency: Option<Idempotency>,
    /// The kind of change, with its data.
    pub event: Event,
}

/// Why a payload is not an event.
#[derive(Debug, thiserror::Error)]
pub enum BadEvent {
    /// The payload is not JSON, or fields are missing or wrong.
    #[error("malformed event: {0}")]
    Malformed(String),
    /// The event has a type or version of another build.
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

/// The fields that tell an event of another build from a malformed one.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    version: u32,
}

#[derive(Deserialize)]
struct Read<'a> {
    id: Id,
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    version: u32,
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
        let unknown = |kind: &str, version| BadEvent::Unknown {
            kind: kind.to_owned(),
            version,
        };
        let read: Read<'_> = match serde_json::from_slice(payload) {
            Ok(read) => read,
            // Another version may have other fields: its `version` is looked at before the error.
            Err(error) => {
                let head: Head<'_> = serde_json::from_slice(payload).map_err(malformed)?;
                return Err(match head.version {
                    VERSION => malformed(error),
                    other => unknown(&head.r#type, other),
                });
            }
        };
        let Read {
            id,
            r#type: kind,
            version,
            occurred_at,
            actor,
            company_id,
            idempotency,
            data,
        } = read;
        if version != VERSION {
            return Err(unknown(&kind, version));
        }
        let event = Event::parse(&kind, data).ok_or_else(|| unknown(&kind, version))??;
        Ok(Envelope {
            id,
            occurred_at,
            actor,
            company_id,
            idempotency,
            event,
        })
    }

    /// Reads a message of the log and compares it with the subject that the message came on.
    /// Without that comparison a payload could claim to be of another tenant.
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

macro_rules! events {
    ($(
        $(#[$doc:meta])*
        $variant:ident($data:ty): $kind:literal { $($token:ident: $type:ty = $of:expr),* };
    )+) => {
        /// Everything that can happen.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Event {
            $($(#[$doc])* $variant($data),)+
        }

        impl Event {
            /// The [`Event::kind`] of every event that this build knows.
            pub const KINDS: &'static [&'static str] = &[$($kind),+];

            /// `<entity>.<event>`: the envelope's `type`, and the first two tokens of the subject.
            pub const fn kind(&self) -> &'static str {
                match self {
                    $(Event::$variant(_) => $kind,)+
                }
            }

            /// Returns `None` for a kind that is not in [`Event::KINDS`].
            fn parse(kind: &str, data: &RawValue) -> Option<Result<Event, BadEvent>> {
                match kind {
                    $($kind => Some(read(data).map(Event::$variant)),)+
                    _ => None,
                }
            }
        }

        impl Envelope {
            /// The JSON payload.
            ///
            /// # Errors
            /// None in practice: every type here serialises. The error is passed on all the same.
            pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
                match &self.event {
                    $(Event::$variant(data) => self.write(data),)+
                }
            }

            /// The subject that the event is stored under.
            pub fn subject(&self) -> EventSubject {
                let company = self.company_id;
                match &self.event {
                    $(Event::$variant(_data) => EventSubject::$variant {
                        company,
                        $($token: token::<_, $type>(_data, $of),)*
                    },)+
                }
            }
        }
    };
}
for_each_event!(events);

fn read<T: DeserializeOwned>(data: &RawValue) -> Result<T, BadEvent> {
    serde_json::from_str(data.get()).map_err(|e| BadEvent::Malformed(format!("data: {e}")))
}

fn token<D, T>(data: &D, of: fn(&D) -> T) -> T {
    of(data)
}
