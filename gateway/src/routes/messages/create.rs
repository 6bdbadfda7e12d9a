//! Accepts one message. 201 once the log has the message on disk; with `Prefer: wait=N` once the
//! bot has taken the message, or will not. The path is shared with a list, see `compat`.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use contract::domain::{
    Attachment, Content, DELIVERY_WINDOW, Delivery, DeliveryState, Direction, ExternalId, Message,
    MessageView, Platform, Role,
};
use contract::{Id, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::openapi::schema::AnyOfBuilder;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::delivery_wait::DeliveryWaits;
use super::echo;
use super::fields::{Attachments, check_free_form};
use super::prefer;
use super::store::{Create, Stored};
use crate::api::declare::body;
use crate::api::extract::Call;
use crate::api::field::Flag;
use crate::api::free_form::Extra;
use crate::api::idempotency_key::{idempotency, say_replayed};
use crate::api::problem::Problem;
use crate::api::response::json;
use crate::api::schema::{Components, component, having_a, list, text, with_any_of};
use crate::auth::Caller;

/// Matches a text that has something left after cleaning and trimming.
const VISIBLE: &str = r"[^\s\x00-\x1f\x7f-\x9f]";

body! {
    /// A message to store, and to forward where it is an operator's to facebook or instagram.
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
        attachments: Attachments,
        /// The platform's own id of the message, unique within the conversation; a repetition is
        /// refused with 409.
        external_message_id: Option<ExternalId>,
        /// Whether the customer has it already: an echo of the platform's own app, or history. It is
        /// stored and never sent. So is one that was written more than 24 hours ago.
        sent_elsewhere: Flag,
        /// When it was written; a time in the future counts as now.
        created_at: Option<Timestamp>,
        /// Fields that are not named here, at most 16 KiB; they are kept as they are.
        extra: Extra,
    }
    example {
        "contact_id": "665f1e0c9b1d4a7f3c2e8a01",
        "role": "operator",
        "platform": "facebook",
        "direction": "outbound",
        "content": "See you at ten.",
    }
    check |reader| {
        if let Some(attachments) = &attachments {
            check_free_form(reader, attachments);
        }
        // A field that is wrong is not called absent too.
        let is_blank = content.as_ref().is_some_and(|content| {
            content.as_ref().is_none_or(|content| content.as_str().is_empty())
        });
        let has_none = attachments.as_ref().is_some_and(|attachments| {
            attachments.as_ref().is_none_or(Vec::is_empty)
        });
        if is_blank && has_none {
            reader.wrong("content", "is required where there are no attachments");
        }
    }
    schema |schema| with_any_of(schema, [
        having_a("content", text().pattern(Some(VISIBLE))),
        having_a("attachments", list(Some(1))),
    ])
}

impl NewMessage {
    /// The message as it is accepted now.
    ///
    /// # Errors
    /// The company is not the caller's.
    pub fn accept(self, caller: &Caller, now: Timestamp) -> Result<Message, Problem> {
        let attachments = self.attachments.unwrap_or_default();
        // A caller whose clock is ahead has written the message now. Refused, the message would be
        // lost; believed, it would stay on top of every list for long.
        let created_at = self.created_at.map_or(now, |at| at.min(now));
        let is_history =
            self.direction == Direction::Outbound && now.since(created_at) >= DELIVERY_WINDOW;
        Ok(Message {
            id: Id::generate(now),
            company_id: caller.company(self.company_id)?,
            contact_id: self.contact_id,
            role: self.role,
            platform: self.platform,
            direction: self.direction,
            content: self.content.unwrap_or_else(Content::empty),
            attachments: attachments.into_iter().map(Attachment::from).collect(),
            external_message_id: self.external_message_id,
            sent_elsewhere: self.sent_elsewhere.unwrap_or_default() || is_history,
            created_at,
            of_channel: self.extra,
            extra: Map::new(),
        })
    }
}

/// Stores a message, and answers. `body` is what the message was read from.
pub async fn create(
    waits: &DeliveryWaits,
    Call { log, caller, trace }: Call,
    headers: &HeaderMap,
    key: Option<&str>,
    new: NewMessage,
    body: &Map<String, Value>,
) -> Result<Response, Problem> {
    let now = Timestamp::now();
    let message = new.accept(&caller, now)?;
    let request = key.map(|key| idempotency(&caller, key, body));
    echo::await_call(&log, &message, trace).await;
    let within = prefer::wait(headers).filter(|_| message.is_forwardable());
    // Listens first, because the bot may be quicker than the log's answer.
    let wait = match within {
        Some(within) => waits
            .open(message.company_id, message.contact_id)
            .await
            .map(|wait| (wait, within)),
        None => None,
    };
    let id = message.id;
    let create = Create::new(&caller, message, request, now);
    let published = log.publish(create.outgoing(trace)?).await;
    let stored = create.resolve(&log, published).await?;
    let replayed = stored.replayed;
    let Some((wait, within)) = wait else {
        return Ok(answer(Created::new(stored), replayed, None));
    };
    let is_old = stored.message.id != id;
    let delivery = wait
        .outcome(&log, &stored.message, is_old, within, trace)
        .await;
    let created = Created::new(stored).delivered(delivery);
    Ok(answer(created, replayed, Some(within)))
}

fn answer(created: Created, replayed: bool, waited: Option<Duration>) -> Response {
    let mut response = json(StatusCode::CREATED, created);
    let headers = response.headers_mut();
    if replayed {
        say_replayed(headers);
    }
    let applied = waited.map(|waited| format!("wait={}", waited.as_secs()));
    if let Some(applied) = applied.and_then(|applied| HeaderValue::from_str(&applied).ok()) {
        headers.insert("preference-applied", applied);
    }
    response
}

/// The body of a 201.
#[derive(Serialize, ToSchema)]
#[schema(as = MessageCreated)]
pub struct Created {
    pub message: &'static str,
    #[serde(rename = "messageData")]
    pub message_data: MessageView,
    pub forwarding: Forwarding,
    pub warning: Option<&'static str>,
    pub seq: u64,
}

/// What becomes of a message on the way to its platform.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Forwarding {
    Skipped(Skipped),
    Queued(Queued),
    Delivered(Delivered),
    Failed(Failed),
    Pending(Pending),
}

/// It is not forwarded.
#[derive(Serialize, ToSchema)]
pub struct Skipped {
    skipped: bool,
    reason: &'static str,
}

/// It is, and nobody has waited.
#[derive(Serialize, ToSchema)]
pub struct Queued {
    queued: bool,
}

/// The bot has it.
#[derive(Serialize, ToSchema)]
pub struct Delivered {
    success: bool,
    state: DeliveryState,
    attempts: u32,
    delivered_at: Option<Timestamp>,
}

/// The bot does not get it as things stand.
#[derive(Serialize, ToSchema)]
pub struct Failed {
    success: bool,
    failed: bool,
    state: DeliveryState,
    attempts: u32,
    error: Option<String>,
}

/// It was waited for in vain.
#[derive(Serialize, ToSchema)]
pub struct Pending {
    queued: bool,
    state: DeliveryState,
    attempts: u32,
    error: Option<String>,
}

/// `anyOf`, because what fits one of these may fit another too: the fields that are there decide.
impl PartialSchema for Forwarding {
    fn schema() -> RefOr<Schema> {
        AnyOfBuilder::new()
            .item(Skipped::schema())
            .item(Queued::schema())
            .item(Delivered::schema())
            .item(Failed::schema())
            .item(Pending::schema())
            .into()
    }
}

impl ToSchema for Forwarding {
    fn schemas(into: &mut Components) {
        component::<DeliveryState>(into);
        component::<Timestamp>(into);
    }
}

impl Created {
    /// The answer about a message for whose delivery nobody waits.
    pub fn new(Stored { message, seq, .. }: Stored) -> Created {
        let forwarding = match message.is_forwardable() {
            true => Forwarding::Queued(Queued { queued: true }),
            false => Forwarding::Skipped(Skipped {
                skipped: true,
                reason: match message.sent_elsewhere {
                    true => "the customer has it from elsewhere, or it is older than 24 hours",
                    false => "only operator messages to facebook and instagram are forwarded",
                },
            }),
        };
        Created {
            message: "Message created successfully",
            message_data: message.initial_view(Some(seq)),
            forwarding,
            warning: None,
            seq,
        }
    }

    /// The answer with what the wait for the delivery has come to.
    fn delivered(mut self, delivery: Delivery) -> Created {
        let Delivery {
            state,
            attempts,
            last_error: error,
            delivered_at,
            ..
        } = delivery.clone();
        (self.forwarding, self.warning) = match state {
            DeliveryState::Delivered => {
                let delivered = Delivered {
                    success: true,
                    state,
                    attempts,
                    delivered_at,
                };
                (Forwarding::Delivered(delivered), None)
            }
            DeliveryState::Failed | DeliveryState::Held | DeliveryState::Cancelled => {
                let failed = Failed {
                    success: false,
                    failed: true,
                    state,
                    attempts,
                    error,
                };
                let warning = "Message saved, but forwarding to the platform failed";
                (Forwarding::Failed(failed), Some(warning))
            }
            DeliveryState::Queued | DeliveryState::Sending | DeliveryState::Retrying => {
                let pending = Pending {
                    queued: true,
                    state,
                    attempts,
                    error,
                };
                let warning =
                    "Message saved, but not forwarded to the platform yet; it will be tried again";
                (Forwarding::Pending(pending), Some(warning))
            }
        };
        self.message_data.delivered = state == DeliveryState::Delivered;
        self.message_data.delivery = Some(delivery);
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::field::Body;

    fn staff() -> Caller {
        Caller::Staff {
            user: Id::from_bytes([0xdd; 12]),
            company: Id::from_bytes([0xaa; 12]),
            role: contract::domain::StaffRole::Receptionist,
            session: None,
        }
    }

    fn accepted(changes: Value) -> Result<Message, Problem> {
        let mut body = json!({
            "contact_id": "b".repeat(24), "role": "user", "platform": "Facebook",
            "direction": "inbound", "content": " hi ",
        });
        for (name, value) in changes.as_object().unwrap() {
            body[name] = value.clone();
        }
        let new = NewMessage::from_object(body.as_object().unwrap())?;
        new.accept(&staff(), Timestamp::now())
    }

    fn wrong_fields(changes: Value) -> Vec<String> {
        match accepted(changes) {
            Err(Problem::Validation(errors)) => errors.into_iter().map(|e| e.field).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_good_body_becomes_a_message_of_the_callers_company() {
        let message = accepted(json!({})).unwrap();
        assert_eq!(
            (message.content.as_str(), message.platform.as_str()),
            ("hi", "facebook")
        );
        assert_eq!(message.company_id.to_string(), "a".repeat(24));
        let attachment = json!({"type": "image", "url": "https://x.example/a"});
        let message = accepted(json!({"content": null, "attachments": [attachment]})).unwrap();
        assert_eq!(message.attachments.len(), 1);
    }

    #[test]
    fn every_wrong_field_is_named_by_its_path() {
        let fields = wrong_fields(json!({
            "role": "boss", "platform": 5, "content": "x".repeat(5_001),
            "attachments": [{"type": "a", "url": "https://a.example"}, {"type": "Image"}, 7],
            "created_at": {"$gt": ""},
        }));
        let named = [
            "role",
            "platform",
            "content",
            "attachments[1].url",
            "attachments[2]",
            "created_at",
        ];
        assert_eq!(fields, named);
    }

    #[test]
    fn a_field_that_is_wrong_is_not_called_absent_too() {
        assert_eq!(wrong_fields(json!({"content": [5]})), ["content"]);
        assert_eq!(
            wrong_fields(json!({"content": null, "attachments": "none"})),
            ["attachments"]
        );
    }

    #[test]
    fn a_bad_id_another_company_and_an_empty_message_have_their_own_answers() {
        assert_eq!(
            accepted(json!({"contact_id": "x"})),
            Err(Problem::BadId("contact_id"))
        );
        assert!(matches!(
            accepted(json!({"company_id": "c".repeat(24)})),
            Err(Problem::Forbidden(_))
        ));
        for empty in [
            json!({"content": "  "}),
            json!({"content": null}),
            json!({"content": "", "attachments": []}),
        ] {
            assert_eq!(wrong_fields(empty), ["content"]);
        }
    }

    #[test]
    fn a_message_is_taken_as_a_channel_writes_it() {
        let created = |at: &Message| at.created_at.to_string();
        for time in [
            json!("2021-09-08T06:34:04+0000"),
            json!("1631082844"),
            json!(1631082844),
            json!(1631082844000_i64),
        ] {
            let message = accepted(json!({ "created_at": time })).unwrap();
            assert_eq!(created(&message), "2021-09-08T06:34:04.000Z", "{time}");
        }
        let message = accepted(json!({
            "role": "User", "direction": "INBOUND", "platform": " WhatsApp ",
            "external_message_id": 6137, "content": 42, "company_id": "", "created_at": "",
        }))
        .unwrap();
        let names = (message.role, message.direction, message.platform);
        assert_eq!(names, (Role::User, Direction::Inbound, Platform::Whatsapp));
        assert_eq!(message.external_message_id.unwrap().as_str(), "6137");
        assert_eq!(message.content.as_str(), "42");
        let message =
            accepted(json!({"content": "a\0b\u{7}", "external_message_id": " "})).unwrap();
        assert_eq!(message.content.as_str(), "ab");
        assert_eq!(message.external_message_id, None);
        let long = accepted(json!({"external_message_id": "m".repeat(1_024)}));
        assert!(long.is_ok());
        assert_eq!(
            wrong_fields(json!({"external_message_id": "m".repeat(1_025), "role": ""})),
            ["role", "external_message_id"]
        );
    }

    #[test]
    fn an_attachment_of_any_kind_is_kept_as_it_came() {
        let signed = format!("https://a.example/{}", "x".repeat(8_000));
        for (given, kept) in [
            (
                json!({"type": "image", "payload": {"url": "HTTPS://a.example/1", "sticker_id": 7}}),
                json!({
                    "type": "image", "url": "https://a.example/1",
                    "payload": {"url": "HTTPS://a.example/1", "sticker_id": 7},
                }),
            ),
            (
                json!({"type": "location", "latitude": 48.1, "longitude": 11.5, "name": "us"}),
                json!({"type": "location", "extra": {"latitude": 48.1, "longitude": 11.5, "name": "us"}}),
            ),
            (
                json!({"type": "image", "id": "1003383421387256", "mime_type": "image/jpeg"}),
                json!({"type": "image", "extra": {"id": "1003383421387256", "mime_type": "image/jpeg"}}),
            ),
            (
                json!({"type": "contacts", "payload": [{"name": {"formatted_name": "Ada"}}]}),
                json!({"type": "contacts", "payload": [{"name": {"formatted_name": "Ada"}}]}),
            ),
            (
                json!({"type": "image", "url": signed}),
                json!({"type": "image", "url": signed}),
            ),
            (
                json!({"type": "like_heart", "url": null}),
                json!({"type": "like_heart"}),
            ),
            (
                json!({"type": "unsupported_type"}),
                json!({"type": "unsupported_type"}),
            ),
            (
                json!({"type": "file", "payload": {"url": "mid:5"}, "extra": {"size": 5}}),
                json!({"type": "file", "payload": {"url": "mid:5"}, "extra": {"size": 5}}),
            ),
        ] {
            let message = accepted(json!({"content": "", "attachments": [given]})).unwrap();
            assert_eq!(serde_json::to_value(&message.attachments[0]).unwrap(), kept);
        }
        let part = "x".repeat(16_000);
        for (bad, field) in [
            (json!([{"url": "https://a.example"}]), "attachments[0].type"),
            (
                json!([{"type": "image", "file_description": "a cat"}]),
                "attachments[0].url",
            ),
            (
                json!([{"type": "image", "url": "/a.jpg", "id": 5}]),
                "attachments[0].url",
            ),
            (
                json!([{"type": "image", "url": format!("{signed}{}", "x".repeat(200))}]),
                "attachments[0].url",
            ),
            (
                json!([{"type": "card", "payload": [part, part]}]),
                "attachments[0].payload",
            ),
            (
                json!([{"type": "card", "vcard": [part, part]}]),
                "attachments[0].vcard",
            ),
            (
                json!(vec![json!({"type": "card", "payload": part}); 5]),
                "attachments",
            ),
        ] {
            assert_eq!(wrong_fields(json!({ "attachments": bad })), [field]);
        }
    }

    #[test]
    fn what_the_api_does_not_know_is_kept_with_the_message() {
        let message = accepted(json!({"reply_to": {"mid": "m_1"}, "referral": null})).unwrap();
        let written = serde_json::to_value(&message).unwrap();
        assert_eq!(
            written["extra"],
            json!({"reply_to": {"mid": "m_1"}, "referral": null})
        );
        assert_eq!(serde_json::from_value::<Message>(written).unwrap(), message);
        assert!(accepted(json!({})).unwrap().of_channel.is_empty());
        let much = "x".repeat(20_000);
        assert_eq!(wrong_fields(json!({ "metadata": much })), ["metadata"]);
    }

    #[test]
    fn a_time_in_the_future_counts_as_now() {
        let message = accepted(json!({"created_at": "2999-01-01T00:00:00Z"})).unwrap();
        assert!(message.created_at <= Timestamp::now());
    }
}
