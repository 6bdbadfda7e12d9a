//! `POST /messages`: accept a message. 201 once the log has it on disk; with `Prefer: wait=N` once
//! the bot has it, or will not. The same path with a `contact_id` and nothing of a message lists a
//! conversation, as the old backend's did.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use contract::domain::{
    Attachment, Content, Delivery, DeliveryState, ExternalId, MAX_ATTACHMENTS, Message,
    MessageView, ShortText, Url,
};
use contract::{Id, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::delivery_wait::DeliveryWaits;
use super::prefer;
use super::store::{Create, Stored, idempotency, request_key, say_replayed};
use crate::api::extract::{Call, JsonObject};
use crate::api::field_reader::{Fields, platform_name};
use crate::api::problem::Problem;
use crate::api::response::json;
use crate::auth::Caller;
use crate::schema::{BadBody, CreateOrList, Denied, MessageList, Missing, Refused, Reused, Taken};

/// `POST /messages`
#[utoipa::path(
    post,
    path = "/",
    tag = "messages",
    summary = "Accept a message",
    description = "Answers once the message is on disk in the log. An operator's outbound message to facebook or instagram is forwarded to the bot. With a `contact_id` and none of `role`, `direction`, `content` and `attachments` it lists the conversation, as the old backend did.",
    request_body = CreateOrList,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key with the same body gives the same answer.", min_length = 1, max_length = 255, pattern = "^[!-~]+$"), ("Prefer" = Option<String>, Header, description = "`wait=N`: answer once the bot has taken the message, or after N seconds, at most 30.")),
    responses((status = 201, description = "It is on disk in the log.", body = Created), (status = 200, description = "A list: the body had a `contact_id` and nothing of a message.", body = MessageList), Refused, Denied, BadBody, Missing, Taken, Reused),
)]
pub async fn create_or_list(
    State(waits): State<Arc<DeliveryWaits>>,
    call: Call,
    headers: HeaderMap,
    JsonObject(body): JsonObject,
) -> Result<Response, Problem> {
    let is_list = body.contains_key("contact_id")
        && !["role", "direction", "content", "attachments"]
            .iter()
            .any(|f| body.contains_key(*f));
    // A list has no use for it; a bad one is refused all the same.
    let key = request_key(&headers)?;
    match is_list {
        true => super::list_of(&call.log, &call.caller, call.trace, &body).await,
        false => create(&waits, call, &headers, key, &body).await,
    }
}

async fn create(
    waits: &DeliveryWaits,
    Call { log, caller, trace }: Call,
    headers: &HeaderMap,
    key: Option<&str>,
    body: &Map<String, Value>,
) -> Result<Response, Problem> {
    let now = Timestamp::now();
    let message = read(body, &caller, now)?;
    let request = key.map(|key| idempotency(&caller, key, body)).transpose()?;
    let within = prefer::wait(headers).filter(|_| message.is_forwardable());
    let (id, company, contact) = (message.id, message.company_id, message.contact_id);
    let create = Create::new(&caller, message, request, now);
    // Listen first: the bot may be quicker than the log's answer.
    let wait = match within {
        Some(within) => waits
            .open(company, contact)
            .await
            .map(|wait| (wait, within)),
        None => None,
    };
    let published = log.publish(create.outgoing(trace)?).await;
    let stored = create.settle(&log, published).await?;
    let replayed = stored.replayed;
    let Some((wait, within)) = wait else {
        return Ok(answer(Created::new(stored), replayed, None));
    };
    let is_old = stored.message.id != id;
    let delivery = wait
        .settled(&log, &stored.message, is_old, within, trace)
        .await;
    Ok(answer(
        Created::new(stored).delivered(delivery),
        replayed,
        Some(within),
    ))
}

fn answer(created: Created, replayed: bool, waited: Option<Duration>) -> Response {
    let mut response = json(StatusCode::CREATED, created);
    let headers = response.headers_mut();
    if replayed {
        say_replayed(headers);
    }
    if let Some(applied) =
        waited.and_then(|w| HeaderValue::from_str(&format!("wait={}", w.as_secs())).ok())
    {
        headers.insert("preference-applied", applied);
    }
    response
}

/// The body of a 201.
#[derive(Serialize, ToSchema)]
#[schema(as = MessageCreated)]
pub struct Created {
    message: &'static str,
    #[serde(rename = "messageData")]
    message_data: MessageView,
    forwarding: Forwarding,
    warning: Option<&'static str>,
    seq: u64,
}

/// What becomes of a message on the way to its platform.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Forwarding {
    /// It is not forwarded.
    Skipped { skipped: bool, reason: &'static str },
    /// It is, and nobody has waited.
    Queued { queued: bool },
    /// The bot has it.
    Delivered {
        success: bool,
        state: DeliveryState,
        attempts: u32,
        delivered_at: Option<Timestamp>,
    },
    /// The bot does not get it as things stand.
    Failed {
        success: bool,
        failed: bool,
        state: DeliveryState,
        attempts: u32,
        error: Option<String>,
    },
    /// It was waited for in vain.
    Pending {
        queued: bool,
        state: DeliveryState,
        attempts: u32,
        error: Option<String>,
    },
}

impl Created {
    /// Of a message that nobody waits for.
    pub fn new(Stored { message, seq, .. }: Stored) -> Created {
        let forwarding = match message.is_forwardable() {
            true => Forwarding::Queued { queued: true },
            false => Forwarding::Skipped {
                skipped: true,
                reason: "only operator messages to facebook and instagram are forwarded",
            },
        };
        let message_data = message.initial_view(Some(seq));
        Created {
            message: "Message created successfully",
            message_data,
            forwarding,
            warning: None,
            seq,
        }
    }

    /// With what the wait for its delivery has come to.
    fn delivered(mut self, delivery: Delivery) -> Created {
        let Delivery {
            state,
            attempts,
            last_error: error,
            delivered_at,
            ..
        } = delivery.clone();
        (self.forwarding, self.warning) = match state {
            DeliveryState::Delivered => (
                Forwarding::Delivered {
                    success: true,
                    state,
                    attempts,
                    delivered_at,
                },
                None,
            ),
            DeliveryState::Failed | DeliveryState::Held => (
                Forwarding::Failed {
                    success: false,
                    failed: true,
                    state,
                    attempts,
                    error,
                },
                Some("Message saved, but forwarding to the platform failed"),
            ),
            DeliveryState::Queued | DeliveryState::Sending | DeliveryState::Retrying => (
                Forwarding::Pending {
                    queued: true,
                    state,
                    attempts,
                    error,
                },
                Some(
                    "Message saved, but not forwarded to the platform yet; it will be tried again",
                ),
            ),
        };
        self.message_data.delivered = state == DeliveryState::Delivered;
        self.message_data.delivery = Some(delivery);
        self
    }
}

pub(super) fn read(
    body: &Map<String, Value>,
    caller: &Caller,
    now: Timestamp,
) -> Result<Message, Problem> {
    let mut f = Fields::of(body);
    let named_company = f.optional("company_id", str::parse::<Id>);
    let contact_id = f.required("contact_id", str::parse::<Id>);
    let role = f.required("role", str::parse);
    let platform = f.required("platform", platform_name);
    let direction = f.required("direction", str::parse);
    let content = f.optional("content", Content::new);
    let attachments = f.list("attachments", MAX_ATTACHMENTS, attachment);
    let external_message_id = f.optional("external_message_id", ExternalId::new);
    let created_at = f.optional("created_at", str::parse::<Timestamp>);
    // What is wrong already is not called absent too.
    let is_blank = content.as_ref().is_some_and(|c| c.as_str().is_empty()) || !f.has("content");
    let has_none = attachments.as_ref().is_some_and(Vec::is_empty) || !f.has("attachments");
    if is_blank && has_none {
        f.wrong("content", "is required where there are no attachments");
    }
    f.finish()?;
    let (Some(contact_id), Some(role), Some(platform), Some(direction)) =
        (contact_id, role, platform, direction)
    else {
        return Err(Problem::Internal); // finish() has refused what is absent
    };
    Ok(Message {
        id: Id::generate(now),
        company_id: caller.company(named_company)?,
        contact_id,
        role,
        platform,
        direction,
        content: content.unwrap_or_else(Content::empty),
        attachments: attachments.unwrap_or_default(),
        external_message_id,
        // Whose clock is ahead has written it now. Refused, the message would be lost; believed, it
        // would stay on top for long.
        created_at: created_at.map_or(now, |at| at.min(now)),
        extra: Map::new(),
    })
}

pub(super) fn attachment(f: &mut Fields<'_>) -> Option<Attachment> {
    let kind = f.required("type", ShortText::new);
    let url = f.required("url", Url::new);
    let file_description = f.non_empty("file_description", ShortText::new);
    Some(Attachment {
        kind: kind?,
        url: url?,
        file_description,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn staff() -> Caller {
        let (user, company) = (
            "d".repeat(24).parse().unwrap(),
            "a".repeat(24).parse().unwrap(),
        );
        Caller::Staff {
            user,
            company,
            role: contract::domain::StaffRole::Receptionist,
            session: None,
        }
    }

    fn try_read(changes: Value) -> Result<Message, Problem> {
        let mut body = json!({"contact_id": "b".repeat(24), "role": "user", "platform": "Facebook", "direction": "inbound", "content": " hi "});
        for (k, v) in changes.as_object().unwrap() {
            body[k] = v.clone();
        }
        read(body.as_object().unwrap(), &staff(), Timestamp::now())
    }

    #[test]
    fn a_good_body_becomes_a_message_of_the_callers_company() {
        let m = try_read(json!({})).unwrap();
        assert_eq!(
            (
                m.content.as_str(),
                m.platform.as_str(),
                m.company_id.to_string()
            ),
            ("hi", "facebook", "a".repeat(24))
        );
        assert_eq!(
            try_read(json!({"content": null, "attachments": [{"type": "image", "url": "https://x.example/a"}]})).unwrap().attachments.len(),
            1
        );
    }

    #[test]
    fn every_wrong_field_is_named() {
        let Err(Problem::Validation(errors)) = try_read(json!({
            "role": "boss", "platform": 5, "content": "x".repeat(5_001), "attachments": [{"type": "a", "url": "https://a.example"}, {"type": "b"}, 7],
            "created_at": {"$gt": ""},
        })) else {
            panic!("accepted")
        };
        let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "role",
                "platform",
                "content",
                "attachments[1].url",
                "attachments[2]",
                "created_at"
            ]
        );
    }

    #[test]
    fn ids_companies_and_emptiness_have_their_own_answers() {
        assert_eq!(
            try_read(json!({"contact_id": "x"})),
            Err(Problem::BadId("contact_id"))
        );
        assert!(matches!(
            try_read(json!({"company_id": "c".repeat(24)})),
            Err(Problem::Forbidden(_))
        ));
        for empty in [
            json!({"content": "  "}),
            json!({"content": null}),
            json!({"content": "", "attachments": []}),
        ] {
            assert!(matches!(try_read(empty), Err(Problem::Validation(_))));
        }
        assert!(
            try_read(json!({"created_at": "2999-01-01T00:00:00Z"}))
                .unwrap()
                .created_at
                <= Timestamp::now()
        );
    }
}
