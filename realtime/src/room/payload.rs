//! The frames for clients: of stored events, of typing and presence, and of what the server says
//! about itself. Pure translation: no socket, no NATS. The functions fail only as
//! [`Frame::passing`] does, which is never in practice.

use async_nats::Message;
use contract::domain::{Delivery, MessagePatch, MessageView, Platform, Provider};
use contract::event::{Envelope, Event};
use contract::{Id, Timestamp};
use contract::{header, subject};
use metrics::counter;
use runtime::log::direct_get::StoredMessage;
use serde::Serialize;
use tracing::warn;

use super::frame::{Frame, Origin};
use super::presence::User;
use super::server_event::ServerEvent;
use super::typing::Typing;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    conversation_id: Id,
    message: Document,
    seq: u64,
}

/// The message's document. Besides its own names it has those that clients of the Express backend
/// read.
#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    view: MessageView,
    id: Id,
    #[serde(rename = "contactId")]
    contact_id: Id,
    timestamp: Timestamp,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Changed<'a> {
    conversation_id: Id,
    message_id: Id,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<&'a MessagePatch>,
    seq: u64,
}

#[derive(Serialize)]
struct Status<'a> {
    #[serde(rename = "conversationId")]
    conversation_id: Id,
    #[serde(rename = "messageId", skip_serializing_if = "Option::is_none")]
    message_id: Option<Id>,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<&'a Delivery>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    seq: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Indicator {
    conversation_id: Id,
    user_id: Id,
    is_typing: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Breached {
    conversation_id: Id,
    message_id: Id,
    platform: Platform,
    target_seconds: u32,
    accepted_at: Timestamp,
    seq: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RefreshFailed<'a> {
    platform: Provider,
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_expires_at: Option<Timestamp>,
    seq: u64,
}

/// The frame of an event of the log; `None` for an event that sockets are not told of.
pub fn of_event(envelope: Envelope, origin: Origin) -> Result<Option<Frame>, serde_json::Error> {
    let seq = origin.seq;
    let frame = match envelope.event {
        Event::MessageCreated(message) => {
            let (id, contact_id, timestamp) = (message.id, message.contact_id, message.created_at);
            let message = Document {
                view: message.initial_view(Some(seq)),
                id,
                contact_id,
                timestamp,
            };
            Frame::stored(
                ServerEvent::MessageNew,
                &Created {
                    conversation_id: contact_id,
                    message,
                    seq,
                },
                origin,
            )
        }
        Event::MessageUpdated(e) => {
            let data = Changed {
                conversation_id: e.contact_id,
                message_id: e.message_id,
                patch: Some(&e.patch),
                seq,
            };
            Frame::stored(ServerEvent::MessageUpdated, &data, origin)
        }
        Event::MessageDeleted(e) => {
            let data = Changed {
                conversation_id: e.contact_id,
                message_id: e.message_id,
                patch: None,
                seq,
            };
            Frame::stored(ServerEvent::MessageDeleted, &data, origin)
        }
        Event::MessageDelivery(e) => Frame::stored(
            ServerEvent::MessageStatus,
            &Status {
                conversation_id: e.contact_id,
                message_id: Some(e.message_id),
                status: e.delivery.state.as_str(),
                delivery: Some(&e.delivery),
                read_at: None,
                platform: None,
                seq,
            },
            origin,
        ),
        Event::MessageRead(e) => Frame::stored(
            ServerEvent::MessageStatus,
            &Status {
                conversation_id: e.contact_id,
                message_id: None,
                status: "read",
                delivery: None,
                read_at: Some(envelope.occurred_at),
                platform: e.platform,
                seq,
            },
            origin,
        ),
        Event::MessageSlaBreached(e) => Frame::stored(
            ServerEvent::SlaBreached,
            &Breached {
                conversation_id: e.contact_id,
                message_id: e.message_id,
                platform: e.platform,
                target_seconds: e.target_seconds,
                accepted_at: e.accepted_at,
                seq,
            },
            origin,
        ),
        Event::IntegrationRefreshFailed(e) => {
            let data = RefreshFailed {
                platform: e.provider,
                error: &e.error,
                token_expires_at: e.token_expires_at,
                seq,
            };
            Frame::stored(ServerEvent::IntegrationRefreshFailed, &data, origin)
        }
        Event::ContactCreated(_)
        | Event::ContactUpdated(_)
        | Event::CompanyCreated(_)
        | Event::UserCreated(_)
        | Event::IntegrationUpdated(_)
        | Event::IntegrationDeleted(_)
        | Event::ContactBotResumed(_)
        | Event::CompanyUpdated(_) => return Ok(None),
    };
    frame.map(Some)
}

/// Why a client cannot be given the events that it missed, and has to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResyncReason {
    /// The client missed more events than a socket is given (`SOCKET_REPLAY_EVENTS`).
    TooMany,
    /// The log does not keep the events any more.
    TooOld,
    /// The log has no such sequence as the client's cursor.
    Unknown,
    /// An event was found only after newer events were delivered.
    Late,
}

impl ResyncReason {
    /// The value of the label `reason` of the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            ResyncReason::TooMany => "too_many",
            ResyncReason::TooOld => "too_old",
            ResyncReason::Unknown => "unknown",
            ResyncReason::Late => "late",
        }
    }
}

#[derive(Serialize)]
struct Presence<'a> {
    /// Whether `users` are all users who are online, or only those that have changed.
    snapshot: bool,
    users: &'a [User],
}

/// The frame of users who are online or have gone, and of the conversations that they have joined.
pub fn of_presence(users: &[User], snapshot: bool) -> Result<Frame, serde_json::Error> {
    Frame::passing(ServerEvent::PresenceUpdate, &Presence { snapshot, users })
}

#[derive(Serialize)]
struct Ready {
    seq: u64,
}

#[derive(Serialize)]
struct Resync {
    seq: u64,
    reason: ResyncReason,
}

/// The frame for a new socket, which gets every event after `seq`.
pub fn of_ready(seq: u64) -> Result<Frame, serde_json::Error> {
    Frame::passing(ServerEvent::Ready, &Ready { seq })
}

/// The frame for a socket whose client has to fetch the events up to `seq`. The socket gets every
/// event after `seq`.
pub fn of_resync(seq: u64, reason: ResyncReason) -> Result<Frame, serde_json::Error> {
    Frame::passing(ServerEvent::Resync, &Resync { seq, reason })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Expiring {
    expires_at: Timestamp,
}

#[derive(Serialize)]
struct Closing {
    reconnect_after_ms: u64,
}

/// The frame for a socket whose token is about to expire.
pub fn of_expiry(expires_at: Timestamp) -> Result<Frame, serde_json::Error> {
    Frame::passing(ServerEvent::TokenExpiring, &Expiring { expires_at })
}

/// The frame for a socket whose node stops. It says when to connect again.
pub fn of_closing(reconnect_after_ms: u64) -> Result<Frame, serde_json::Error> {
    Frame::passing(ServerEvent::ServerClosing, &Closing { reconnect_after_ms })
}

/// The frame of a message that the NATS server has republished. Returns `None` as
/// [`of_stored`] does.
pub fn of_live(message: &Message) -> Option<Frame> {
    let headers = message.headers.as_ref();
    let header = |name: &str| {
        headers
            .and_then(|headers| headers.get(name))
            .map(|value| value.as_str())
    };
    let seq = header(header::SEQUENCE)?.parse().ok()?;
    let stored_at = header(header::TIME_STAMP).and_then(|text| text.parse().ok());
    of_payload(
        subject::from_live(&message.subject)?,
        &message.payload,
        seq,
        stored_at,
    )
}

/// The frame of a message that was read from the log. Returns `None` for an event that sockets are
/// not told of, and for one that cannot be read. The persister makes a dead letter of an unreadable
/// event, with the reason. The reason is not logged here, because it could show a message's text.
pub fn of_stored(stored: &StoredMessage) -> Option<Frame> {
    of_payload(
        &stored.subject,
        &stored.payload,
        stored.seq,
        Some(stored.stored_at),
    )
}

fn of_payload(
    subject: &str,
    payload: &[u8],
    seq: u64,
    stored_at: Option<Timestamp>,
) -> Option<Frame> {
    let skip = |reason: &'static str| {
        counter!("realtime_skipped_total", "reason" => reason).increment(1);
        warn!(seq, reason, "an event is not told");
        None
    };
    let Ok(envelope) = Envelope::from_message(subject, payload) else {
        return skip("unreadable");
    };
    let stored_at = stored_at.unwrap_or(envelope.occurred_at);
    of_event(envelope, Origin { seq, stored_at }).unwrap_or_else(|_| skip("unwritable"))
}

/// The frame of typing in a conversation.
pub fn of_typing(conversation_id: Id, typing: Typing) -> Result<Frame, serde_json::Error> {
    Frame::passing(
        ServerEvent::TypingIndicator,
        &Indicator {
            conversation_id,
            user_id: typing.user_id,
            is_typing: typing.is_typing,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// The frame of a golden event of the contract.
    macro_rules! golden {
        ($name:literal) => {
            of_event(
                Envelope::from_json(include_bytes!(concat!(
                    "../../../nats/golden/",
                    $name,
                    ".v1.json"
                )))
                .unwrap(),
                ORIGIN,
            )
            .unwrap()
            .map(|frame| value(&frame))
        };
    }

    const ORIGIN: Origin = Origin {
        seq: 42,
        stored_at: Timestamp::from_millis(0),
    };

    fn value(frame: &Frame) -> Value {
        let data: Value = serde_json::from_str(frame.data().get()).unwrap();
        json!({"event": frame.event().as_str(), "data": data})
    }

    fn ids() -> (String, String) {
        ("b".repeat(24), "c".repeat(24))
    }

    #[test]
    fn a_new_message_is_the_whole_document_with_the_names_of_the_express_backend() {
        let frame = golden!("message.created").unwrap();
        let (contact, message) = ids();
        assert_eq!(frame["event"], "message:new");
        assert_eq!(
            (&frame["data"]["conversationId"], &frame["data"]["seq"]),
            (&json!(contact), &json!(42))
        );
        let document = &frame["data"]["message"];
        for (name, value) in [
            ("_id", json!(message)),
            ("id", json!(message)),
            ("contact_id", json!(contact)),
            ("contactId", json!(contact)),
            ("created_at", json!("2025-11-24T16:00:00.000Z")),
            ("timestamp", json!("2025-11-24T16:00:00.000Z")),
            ("content", json!("See you at ten.")),
            ("read", json!(false)),
            ("seq", json!(42)),
        ] {
            assert_eq!(document[name], value, "{name}");
        }
        assert_eq!(document["delivery"]["state"], "queued");
    }

    #[test]
    fn edits_and_deletions_name_the_message() {
        let (contact, message) = ids();
        let patch = json!({"content": "See you at eleven."});
        let data =
            json!({"conversationId": contact, "messageId": message, "patch": patch, "seq": 42});
        assert_eq!(
            golden!("message.updated"),
            Some(json!({"event": "message:updated", "data": data}))
        );
        let data = json!({"conversationId": contact, "messageId": message, "seq": 42});
        assert_eq!(
            golden!("message.deleted"),
            Some(json!({"event": "message:deleted", "data": data}))
        );
    }

    #[test]
    fn delivery_and_reading_are_events_message_status() {
        let (contact, message) = ids();
        let delivery = json!({
            "state": "retrying",
            "attempts": 2,
            "last_error": "HTTP 503",
            "next_attempt_at": "2025-11-24T16:00:04.000Z",
            "delivered_at": null,
        });
        let data = json!({
            "conversationId": contact,
            "messageId": message,
            "status": "retrying",
            "delivery": delivery,
            "seq": 42,
        });
        assert_eq!(
            golden!("message.delivery"),
            Some(json!({"event": "message:status", "data": data}))
        );
        let data = json!({
            "conversationId": contact,
            "status": "read",
            "read_at": "2025-11-24T16:00:00.005Z",
            "platform": "facebook",
            "seq": 42,
        });
        assert_eq!(
            golden!("message.read"),
            Some(json!({"event": "message:status", "data": data}))
        );
    }

    #[test]
    fn a_missed_target_is_the_event_sla_breached() {
        let (contact, message) = ids();
        let data = json!({
            "conversationId": contact,
            "messageId": message,
            "platform": "facebook",
            "targetSeconds": 60,
            "acceptedAt": "2025-11-24T16:00:00.000Z",
            "seq": 42,
        });
        assert_eq!(
            golden!("message.sla_breached"),
            Some(json!({"event": "sla:breached", "data": data}))
        );
    }

    #[test]
    fn a_token_that_could_not_be_renewed_is_the_event_refresh_failed() {
        let data = json!({
            "platform": "facebook",
            "error": "HTTP 400 (code 190)",
            "tokenExpiresAt": "2026-01-23T16:00:00.000Z",
            "seq": 42,
        });
        assert_eq!(
            golden!("integration.refresh_failed"),
            Some(json!({"event": "integration:refresh_failed", "data": data}))
        );
    }

    #[test]
    fn sockets_are_not_told_of_contacts_and_companies() {
        assert_eq!(golden!("contact.created"), None);
        assert_eq!(golden!("company.created"), None);
    }

    #[test]
    fn a_typing_indicator_does_not_show_the_socket() {
        let typing = Typing {
            user_id: Id::from_bytes([0xdd; 12]),
            is_typing: true,
            socket: Id::from_bytes([1; 12]),
        };
        let frame = value(&of_typing(Id::from_bytes([0xbb; 12]), typing).unwrap());
        let data =
            json!({"conversationId": "b".repeat(24), "userId": "d".repeat(24), "isTyping": true});
        assert_eq!(frame, json!({"event": "typing:indicator", "data": data}));
    }
}
