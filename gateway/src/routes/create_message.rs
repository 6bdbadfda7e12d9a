//! `POST /messages`: accept a message. 201 once the log has it on disk. The same path with a `contact_id` and nothing of a
//! message lists a conversation, as the old backend's did.

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use nats::domain::{Attachment, Content, ExternalId, MAX_ATTACHMENTS, Message, ShortText, Url};
use nats::event::{Envelope, Event, Idempotency};
use nats::query::{KeyOf, UniqueKey};
use nats::runtime::publish::PublishError;
use nats::trace::TraceContext;
use nats::{Id, Timestamp};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{Call, messages};
use crate::auth::Caller;
use crate::http::{JsonObject, json};
use crate::log::Log;
use crate::problem::Problem;
use crate::validate::{Fields, non_empty};

/// Longest `Idempotency-Key`.
const KEY_CHARS: usize = 255;
/// Of the digest of a body so much is kept.
const FINGERPRINT_BYTES: usize = 16;

/// `POST /messages`
pub async fn create_or_list(call: Call, headers: HeaderMap, JsonObject(body): JsonObject) -> Result<Response, Problem> {
    let is_list = body.contains_key("contact_id") && !["role", "direction", "content", "attachments"].iter().any(|f| body.contains_key(*f));
    match is_list {
        true => messages::list_of(&call.log, &call.caller, call.trace, &body).await,
        false => create(call, &headers, &body).await,
    }
}

async fn create(Call { log, caller, trace }: Call, headers: &HeaderMap, body: &Map<String, Value>) -> Result<Response, Problem> {
    let now = Timestamp::now();
    let message = read(body, &caller, now)?;
    let request = idempotency(headers, &caller, body)?;
    let stored = store(&log, &caller, message, request, now, trace).await?;
    let mut response = created(stored.message, stored.seq);
    if stored.replayed {
        response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// A message that the log has.
struct Stored {
    message: Message,
    seq: u64,
    /// An earlier request with the same `Idempotency-Key` stored it.
    replayed: bool,
}

/// Stores a message, or finds that this request has stored it before.
async fn store(
    log: &Log,
    caller: &Caller,
    message: Message,
    request: Option<Idempotency>,
    now: Timestamp,
    trace: TraceContext,
) -> Result<Stored, Problem> {
    let (id, company_id, platform) = (message.id, message.company_id, message.platform);
    // The platform's own id is the stronger key: a bot that tries again may well have lost its own.
    let key = match (&message.external_message_id, &request) {
        (Some(id), _) => Some(KeyOf::External { platform, id: id.clone() }),
        (None, Some(request)) => Some(KeyOf::Request(request.key.clone())),
        (None, None) => None,
    };
    let msg_id = match &key {
        Some(KeyOf::External { platform, id }) => format!("ext:{company_id}:{platform}:{id}"),
        Some(KeyOf::Request(key)) => format!("key:{company_id}:{key}"),
        None => id.to_string(),
    };
    let unique = key.map(|key| UniqueKey { company_id, key });
    let mut envelope = Log::envelope(caller, company_id, Event::MessageCreated(message), now);
    envelope.idempotency = request;
    let (first_at, taken) = match log.publish(&envelope, msg_id, unique, trace).await {
        Ok(receipt) if !receipt.duplicate => return stored(envelope, receipt.seq, false),
        // In the log's duplicate window the log knows of it, …
        Ok(receipt) => (receipt.seq, None),
        // … later the database does.
        Err(PublishError::Taken(holder)) => (holder.seq, Some(holder)),
        Err(e) => return Err(e.into()),
    };
    let first = match (log.stored(first_at).await, taken) {
        (Ok(first), _) => first,
        // It is older than what the log keeps.
        (Err(PublishError::Refused(_)), Some(holder)) => return Err(PublishError::Taken(holder).into()),
        (Err(e), _) => return Err(e.into()),
    };
    let Event::MessageCreated(first_message) = &first.event else { return Err(Problem::Internal) };
    // Our own message: an answer of the log was lost on the way, and the repetition found it.
    if first_message.id == id {
        return stored(first, first_at, false);
    }
    match (&envelope.idempotency, &first.idempotency) {
        (Some(ours), Some(theirs)) if ours == theirs => stored(first, first_at, true),
        (Some(ours), Some(theirs)) if ours.key == theirs.key => Err(Problem::KeyReused),
        _ => Err(Problem::Duplicate { key: "external_message_id", holder: Some(first_message.id) }),
    }
}

fn stored(envelope: Envelope, seq: u64, replayed: bool) -> Result<Stored, Problem> {
    let Event::MessageCreated(message) = envelope.event else { return Err(Problem::Internal) };
    Ok(Stored { message, seq, replayed })
}

fn created(message: Message, seq: u64) -> Response {
    let forwarding = match message.is_forwardable() {
        true => json!({"queued": true}),
        false => json!({"skipped": true, "reason": "only operator messages to facebook and instagram are forwarded"}),
    };
    let body = json!({
        "message": "Message created successfully",
        "messageData": message.initial_view(Some(seq)),
        "forwarding": forwarding,
        "warning": null,
        "seq": seq,
    });
    json(StatusCode::CREATED, body)
}

/// Two callers of a company may choose the same key without meaning the same request.
fn caller_name(caller: &Caller) -> String {
    match caller {
        Caller::Staff { user, .. } => user.to_string(),
        Caller::Service => "service".into(),
    }
}

/// The request's key and a digest of its body, where the caller gave a key.
fn idempotency(headers: &HeaderMap, caller: &Caller, body: &Map<String, Value>) -> Result<Option<Idempotency>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str().map(str::trim) {
        Ok(key) if !key.is_empty() && key.len() <= KEY_CHARS => {
            // `serde_json` keeps the names of an object sorted, so their order in the request makes no difference.
            let digest = Sha256::digest(serde_json::to_vec(body).map_err(|_| Problem::Internal)?);
            let fingerprint = digest.iter().take(FINGERPRINT_BYTES).map(|byte| format!("{byte:02x}")).collect();
            Ok(Some(Idempotency { key: format!("{}:{key}", caller_name(caller)), fingerprint }))
        }
        _ => Err(Problem::field("Idempotency-Key", format!("must have 1 to {KEY_CHARS} visible ASCII characters"))),
    }
}

fn read(body: &Map<String, Value>, caller: &Caller, now: Timestamp) -> Result<Message, Problem> {
    let mut f = Fields::of(body);
    let named_company = f.optional("company_id", str::parse::<Id>);
    let contact_id = f.required("contact_id", str::parse::<Id>);
    let role = f.required("role", str::parse);
    let platform = f.required("platform", |p| p.trim().to_lowercase().parse());
    let direction = f.required("direction", str::parse);
    let content = f.optional("content", Content::new);
    let attachments = f.list("attachments", MAX_ATTACHMENTS, attachment).unwrap_or_default();
    let external_message_id = f.optional("external_message_id", non_empty(ExternalId::new)).flatten();
    let created_at = f.optional("created_at", str::parse::<Timestamp>);
    if content.as_ref().is_none_or(|c| c.as_str().is_empty()) && !f.has("attachments") && (!f.has("content") || content.is_some()) {
        f.wrong("content", "is required where there are no attachments");
    }
    f.finish()?;
    let (Some(contact_id), Some(role), Some(platform), Some(direction)) = (contact_id, role, platform, direction) else {
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
        attachments,
        external_message_id,
        // Whose clock is ahead has written it now. Refused, the message would be lost; believed, it would stay on top for long.
        created_at: created_at.map_or(now, |at| at.min(now)),
        extra: Map::new(),
    })
}

pub(super) fn attachment(f: &mut Fields<'_>) -> Option<Attachment> {
    let kind = f.required("type", ShortText::new);
    let url = f.required("url", Url::new);
    let file_description = f.optional("file_description", non_empty(ShortText::new)).flatten();
    Some(Attachment { kind: kind?, url: url?, file_description })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staff() -> Caller {
        let (user, company) = ("d".repeat(24).parse().unwrap(), "a".repeat(24).parse().unwrap());
        Caller::Staff { user, company, role: nats::domain::StaffRole::Manager, session: None }
    }

    fn try_read(changes: Value) -> Result<Message, Problem> {
        let mut body =
            json!({"contact_id": "b".repeat(24), "role": "user", "platform": "Facebook", "direction": "inbound", "content": " hi "});
        for (k, v) in changes.as_object().unwrap() {
            body[k] = v.clone();
        }
        read(body.as_object().unwrap(), &staff(), Timestamp::now())
    }

    #[test]
    fn a_good_body_becomes_a_message_of_the_callers_company() {
        let m = try_read(json!({})).unwrap();
        assert_eq!((m.content.as_str(), m.platform.as_str(), m.company_id.to_string()), ("hi", "facebook", "a".repeat(24)));
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
        assert_eq!(fields, ["role", "platform", "content", "attachments[1].url", "attachments[2]", "created_at"]);
    }

    #[test]
    fn ids_companies_and_emptiness_have_their_own_answers() {
        assert_eq!(try_read(json!({"contact_id": "x"})), Err(Problem::BadId("contact_id")));
        assert!(matches!(try_read(json!({"company_id": "c".repeat(24)})), Err(Problem::Forbidden(_))));
        assert!(matches!(try_read(json!({"content": "  "})), Err(Problem::Validation(_))));
        assert!(try_read(json!({"created_at": "2999-01-01T00:00:00Z"})).unwrap().created_at <= Timestamp::now());
    }
}
