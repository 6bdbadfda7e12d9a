//! `/messages` beyond creating: list, get, edit, delete, mark read, and the conversations of a platform.

use axum::extract::{Path, Query};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use nats::domain::{Content, MAX_ATTACHMENTS, MessagePatch, MessageView, Platform};
use nats::event::{Event, MessageDeleted, MessageRead, MessageUpdated};
use nats::outcome::Outcome;
use nats::query::{DEFAULT_PAGE, GetMessage, ListConversations, ListMessages, MAX_PAGE, Page};
use nats::runtime::query::QueryError;
use nats::trace::TraceContext;
use nats::{Id, Timestamp};
use serde_json::{Map, Value, json};

use super::Call;
use super::create_message::attachment;
use crate::auth::Caller;
use crate::http::{JsonObject, json, raw_json};
use crate::log::{Log, Settled};
use crate::problem::Problem;
use crate::validate::{Fields, path_id};

/// Furthest that `skip` reaches; a cursor goes further.
const MAX_SKIP: u64 = 100_000;
/// What PATCH refuses by name.
const IMMUTABLE: &[&str] = &[
    "company_id",
    "contact_id",
    "role",
    "platform",
    "direction",
    "external_message_id",
    "created_at",
    "updated_at",
    "read",
    "read_at",
    "delivered",
    "delivery",
    "seq",
];

/// `GET /messages?contact_id=`
pub async fn list(Call { log, caller, trace }: Call, Query(query): Query<Vec<(String, String)>>) -> Result<Response, Problem> {
    let query: Map<String, Value> = query.into_iter().map(|(k, v)| (k, Value::String(v))).collect();
    list_of(&log, &caller, trace, &query).await
}

/// A conversation's page, by body or query string.
pub async fn list_of(log: &Log, caller: &Caller, trace: TraceContext, given: &Map<String, Value>) -> Result<Response, Problem> {
    let mut f = Fields::of(given);
    let company = f.optional("company_id", str::parse::<Id>);
    let contact_id = f.required("contact_id", str::parse::<Id>);
    let platform = f.optional("platform", platform_name);
    let page = page(&mut f);
    f.finish()?;
    let Some(contact_id) = contact_id else { return Err(Problem::Internal) };
    let question = ListMessages { company_id: caller.company(company)?, contact_id, platform, page };
    let answer = log.ask_raw(&question, trace).await.map_err(|e| match e {
        QueryError::NotFound => Problem::NotFound("contact"),
        other => other.into(),
    })?;
    Ok(with_page(&answer, page))
}

/// `POST /messages/instagram`
pub async fn conversations(Call { log, caller, trace }: Call, JsonObject(body): JsonObject) -> Result<Response, Problem> {
    let mut f = Fields::of(&body);
    let company = f.optional("company_id", str::parse::<Id>);
    let platform = f.optional("platform", platform_name).unwrap_or(Platform::Instagram);
    let page = page(&mut f);
    f.finish()?;
    let question = ListConversations { company_id: caller.company(company)?, platform: Some(platform), page };
    let answer = log.ask_raw(&question, trace).await?;
    Ok(with_page(&answer, page))
}

/// `GET /messages/{id}`
pub async fn get(
    Call { log, caller, trace }: Call,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    let question = GetMessage { company_id: caller.company(company_in(&query)?)?, id: path_id(&id)? };
    let answer = log.ask_raw(&question, trace).await.map_err(message_not_found)?;
    Ok(raw_json(StatusCode::OK, r#"{"messageData":"#, &answer, "}"))
}

/// `PATCH /messages`
pub async fn update(Call { log, caller, trace }: Call, JsonObject(body): JsonObject) -> Result<Response, Problem> {
    let mut f = Fields::of(&body);
    let id = f.required("_id", str::parse::<Id>);
    for field in IMMUTABLE.iter().filter(|field| body.contains_key(**field) && **field != "company_id") {
        f.wrong(field, "cannot be changed");
    }
    let content = f.optional("content", Content::new);
    let attachments = f.list("attachments", MAX_ATTACHMENTS, attachment);
    if content.is_none() && attachments.is_none() && !f.has("content") && !f.has("attachments") {
        f.wrong("content", "is required, or attachments");
    }
    let company = f.optional("company_id", str::parse::<Id>);
    f.finish()?;
    let company_id = caller.company(company)?;
    let before = find(&log, company_id, id, trace).await?;
    let patch = MessagePatch { content, attachments };
    let event = MessageUpdated { message_id: before.message.id, contact_id: before.message.contact_id, patch };
    let settled = command(&log, &caller, company_id, Event::MessageUpdated(event), trace).await?;
    if settled.outcome.is_none() {
        return Ok(accepted(&settled, &format!("/api/v1/messages/{}", before.message.id)));
    }
    let after = find(&log, company_id, id, trace).await?;
    Ok(json(StatusCode::OK, json!({"message": "Message updated successfully", "messageData": after, "seq": settled.seq})))
}

/// `DELETE /messages`
pub async fn delete(Call { log, caller, trace }: Call, JsonObject(body): JsonObject) -> Result<Response, Problem> {
    let mut f = Fields::of(&body);
    let id = f.required("_id", str::parse::<Id>);
    let company = f.optional("company_id", str::parse::<Id>);
    f.finish()?;
    let company_id = caller.company(company)?;
    let before = find(&log, company_id, id, trace).await?;
    let event = MessageDeleted { message_id: before.message.id, contact_id: before.message.contact_id };
    let settled = command(&log, &caller, company_id, Event::MessageDeleted(event), trace).await?;
    match settled.outcome {
        None => Ok(accepted(&settled, &format!("/api/v1/messages/{}", before.message.id))),
        Some(Outcome::NotFound) => Err(Problem::NotFound("message")),
        Some(_) => {
            Ok(json(StatusCode::OK, json!({"message": "Message deleted successfully", "_id": before.message.id, "seq": settled.seq})))
        }
    }
}

/// `PUT /messages/mark-read`
pub async fn mark_read(Call { log, caller, trace }: Call, JsonObject(body): JsonObject) -> Result<Response, Problem> {
    let mut f = Fields::of(&body);
    let contact_id = f.required("contact_id", str::parse::<Id>);
    let platform = f.optional("platform", platform_name);
    let company = f.optional("company_id", str::parse::<Id>);
    f.finish()?;
    let Some(contact_id) = contact_id else { return Err(Problem::Internal) };
    let event = Event::MessageRead(MessageRead { contact_id, platform });
    let settled = command(&log, &caller, caller.company(company)?, event, trace).await?;
    match settled.outcome {
        Some(Outcome::Applied { matched, modified }) => Ok(json(
            StatusCode::OK,
            json!({"message": "Messages marked as read", "matched": matched, "modified": modified, "seq": settled.seq}),
        )),
        _ => Ok(accepted(&settled, &format!("/api/v1/messages?contact_id={contact_id}"))),
    }
}

/// 202: durable, and not applied yet.
fn accepted(settled: &Settled, location: &str) -> Response {
    let mut response = json(StatusCode::ACCEPTED, json!({"message": "Accepted; it will be applied", "seq": settled.seq}));
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

async fn command(log: &Log, caller: &Caller, company_id: Id, event: Event, trace: TraceContext) -> Result<Settled, Problem> {
    let envelope = Log::envelope(caller, company_id, event, Timestamp::now());
    let msg_id = envelope.id.to_string();
    Ok(log.command(&envelope, msg_id, trace).await?.0)
}

async fn find(log: &Log, company_id: Id, id: Option<Id>, trace: TraceContext) -> Result<MessageView, Problem> {
    let id = id.ok_or(Problem::Internal)?; // finish() has refused its absence
    log.ask(&GetMessage { company_id, id }, trace).await.map_err(message_not_found)
}

fn message_not_found(error: QueryError) -> Problem {
    match error {
        QueryError::NotFound => Problem::NotFound("message"),
        other => other.into(),
    }
}

/// The `company_id` of a query string, which an internal service must give.
pub(super) fn company_in(query: &[(String, String)]) -> Result<Option<Id>, Problem> {
    let named = query.iter().find(|(name, _)| name == "company_id");
    named.map(|(_, id)| id.parse().map_err(|_| Problem::BadId("company_id"))).transpose()
}

fn platform_name(text: &str) -> Result<Platform, nats::domain::UnknownName> {
    text.trim().to_lowercase().parse()
}

/// `limit`, and `skip` or `cursor`.
pub(super) fn page(f: &mut Fields<'_>) -> Page {
    let limit = f.number("limit", u64::from(DEFAULT_PAGE), 1..=u64::from(MAX_PAGE)) as u32;
    let skip = f.number("skip", 0, 0..=MAX_SKIP);
    let after = f.optional("cursor", str::parse);
    if after.is_some() && skip > 0 {
        f.wrong("skip", "does not go with cursor");
    }
    Page { limit, skip, after }
}

/// The persister's answer, and the page that was asked for, in one object.
pub(super) fn with_page(answer: &[u8], Page { limit, skip, .. }: Page) -> Response {
    let inner = answer.strip_suffix(b"}").unwrap_or(answer);
    raw_json(StatusCode::OK, "", inner, &format!(r#","limit":{limit},"skip":{skip}}}"#))
}
