//! `/messages` beyond creating: list, get, delivery, edit, delete, mark read.

pub mod batch;
pub mod create;
pub mod delivery_wait;
mod prefer;
pub mod store;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use contract::Id;
use contract::domain::{Content, MAX_ATTACHMENTS, MessagePatch, MessageView};
use contract::event::{Event, MessageDeleted, MessageRead, MessageUpdated};
use contract::outcome::Outcome;
use contract::query::{DeliveryHistory, GetDelivery, GetMessage, ListMessages, Page};
use contract::trace::TraceContext;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use self::create::attachment;
use crate::api::extract::{Call, JsonObject, company_in};
use crate::api::field_reader::{Fields, QueryFields, path_id, platform_name};
use crate::api::page::{page, with_page};
use crate::api::problem::Problem;
use crate::api::response::{json, raw_json};
use crate::auth::Caller;
use crate::log::Log;
use crate::routes::command::{accepted, command};
use crate::schema::{
    After, BadBody, Denied, Emptied, Later, MessageEdit, MessageId, MessageList, Missing,
    OfCompany, OnPlatform, OneMessage, PageOf, ReadBody, Refused,
};

/// What PATCH refuses by name. `company_id` says whose message it is.
const IMMUTABLE: &[&str] = &[
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

/// An edit that is applied.
#[derive(Serialize, ToSchema)]
#[schema(as = MessageUpdated)]
struct Updated {
    message: &'static str,
    #[serde(rename = "messageData")]
    message_data: MessageView,
    seq: u64,
}

/// A delete that is applied.
#[derive(Serialize, ToSchema)]
#[schema(as = MessageDeleted)]
struct Deleted {
    message: &'static str,
    _id: Id,
    seq: u64,
}

/// How many messages were marked read.
#[derive(Serialize, ToSchema)]
struct MarkedRead {
    message: &'static str,
    /// Unread ones before.
    matched: u64,
    /// Of these changed.
    modified: u64,
    seq: u64,
}

/// `GET /messages?contact_id=`
#[utoipa::path(
    get,
    path = "/",
    tag = "messages",
    summary = "List a conversation, newest first",
    params(("contact_id" = Id, Query, description = "The customer."), OnPlatform, PageOf, After, OfCompany),
    responses((status = 200, body = MessageList), Refused, Denied, Missing),
)]
pub async fn list(
    Call { log, caller, trace }: Call,
    QueryFields(query): QueryFields,
) -> Result<Response, Problem> {
    list_of(&log, &caller, trace, &query).await
}

/// A conversation's page, by body or query string.
pub async fn list_of(
    log: &Log,
    caller: &Caller,
    trace: TraceContext,
    given: &Map<String, Value>,
) -> Result<Response, Problem> {
    let mut f = Fields::of(given);
    let company = f.optional("company_id", str::parse::<Id>);
    let contact_id = f.required("contact_id", str::parse::<Id>);
    let platform = f.optional("platform", platform_name);
    let page = page(&mut f);
    f.finish()?;
    let Some(contact_id) = contact_id else {
        return Err(Problem::Internal);
    };
    let question = ListMessages {
        company_id: caller.company(company)?,
        contact_id,
        platform,
        page,
    };
    let answer = log
        .ask_raw(&question, trace)
        .await
        .map_err(Problem::missing("contact"))?;
    Ok(with_page(&answer, page))
}

/// `GET /messages/{id}`
#[utoipa::path(
    get,
    path = "/{id}",
    tag = "messages",
    summary = "Look at a message",
    params(("id" = Id, Path, description = "The message."), OfCompany),
    responses((status = 200, body = OneMessage), Refused, Denied, Missing),
)]
pub async fn get(
    Call { log, caller, trace }: Call,
    Path(id): Path<String>,
    QueryFields(query): QueryFields,
) -> Result<Response, Problem> {
    let question = GetMessage {
        company_id: company_in(&query, &caller)?,
        id: path_id(&id)?,
    };
    let answer = log
        .ask_raw(&question, trace)
        .await
        .map_err(Problem::missing("message"))?;
    Ok(raw_json(StatusCode::OK, r#"{"messageData":"#, &answer, "}"))
}

/// `GET /messages/{id}/delivery`: where delivery stands, and every attempt.
#[utoipa::path(
    get,
    path = "/{id}/delivery",
    tag = "messages",
    summary = "How its delivery went, call by call",
    params(("id" = Id, Path, description = "The message."), OfCompany),
    responses((status = 200, body = DeliveryHistory), Refused, Denied, Missing),
)]
pub async fn delivery(
    Call { log, caller, trace }: Call,
    Path(id): Path<String>,
    QueryFields(query): QueryFields,
) -> Result<Response, Problem> {
    let question = GetDelivery {
        company_id: company_in(&query, &caller)?,
        id: path_id(&id)?,
    };
    let answer = log
        .ask_raw(&question, trace)
        .await
        .map_err(Problem::missing("message"))?;
    Ok(raw_json(StatusCode::OK, "", &answer, ""))
}

/// `PATCH /messages`
#[utoipa::path(
    patch,
    path = "/",
    tag = "messages",
    summary = "Edit a message",
    request_body = MessageEdit,
    responses((status = 200, body = Updated), Refused, Denied, BadBody, Later, Missing, Emptied),
)]
pub async fn update(
    Call { log, caller, trace }: Call,
    JsonObject(body): JsonObject,
) -> Result<Response, Problem> {
    let mut f = Fields::of(&body);
    let id = message_id(&mut f);
    f.refuse(IMMUTABLE);
    let content = f.optional("content", Content::new);
    let attachments = f.list("attachments", MAX_ATTACHMENTS, attachment);
    if content.is_none() && attachments.is_none() && !f.has("content") && !f.has("attachments") {
        f.wrong("content", "is required, or attachments");
    }
    let company = f.optional("company_id", str::parse::<Id>);
    f.finish()?;
    let company_id = caller.company(company)?;
    let before = find(&log, company_id, id, trace).await?;
    let patch = MessagePatch {
        content,
        attachments,
    };
    let (content, attachments) = (patch.content.as_ref(), patch.attachments.as_ref());
    if content
        .unwrap_or(&before.message.content)
        .as_str()
        .is_empty()
        && attachments
            .unwrap_or(&before.message.attachments)
            .is_empty()
    {
        // Of the message as it stands, so it is no wrong field.
        return Err(Problem::Conflict(
            "nothing would be left of the message: it has to keep content or attachments",
        ));
    }
    let event = MessageUpdated {
        message_id: before.message.id,
        contact_id: before.message.contact_id,
        patch,
    };
    let settled = command(
        &log,
        &caller,
        company_id,
        Event::MessageUpdated(event),
        trace,
    )
    .await?;
    if settled.outcome.is_none() {
        return Ok(accepted(
            &settled,
            &format!("/api/v1/messages/{}", before.message.id),
        ));
    }
    let after = find(&log, company_id, id, trace).await?;
    Ok(json(
        StatusCode::OK,
        Updated {
            message: "Message updated successfully",
            message_data: after,
            seq: settled.seq,
        },
    ))
}

/// `DELETE /messages`
#[utoipa::path(
    delete,
    path = "/",
    tag = "messages",
    summary = "Delete a message",
    description = "It vanishes from every read; the log keeps it.",
    request_body = MessageId,
    responses((status = 200, body = Deleted), Refused, Denied, BadBody, Later, Missing),
)]
pub async fn delete(
    Call { log, caller, trace }: Call,
    JsonObject(body): JsonObject,
) -> Result<Response, Problem> {
    let mut f = Fields::of(&body);
    let id = message_id(&mut f);
    let company = f.optional("company_id", str::parse::<Id>);
    f.finish()?;
    let company_id = caller.company(company)?;
    let before = find(&log, company_id, id, trace).await?;
    let event = MessageDeleted {
        message_id: before.message.id,
        contact_id: before.message.contact_id,
    };
    let settled = command(
        &log,
        &caller,
        company_id,
        Event::MessageDeleted(event),
        trace,
    )
    .await?;
    match settled.outcome {
        None => Ok(accepted(
            &settled,
            &format!("/api/v1/messages/{}", before.message.id),
        )),
        Some(Outcome::NotFound) => Err(Problem::NotFound("message")),
        Some(_) => Ok(json(
            StatusCode::OK,
            Deleted {
                message: "Message deleted successfully",
                _id: before.message.id,
                seq: settled.seq,
            },
        )),
    }
}

/// `PUT /messages/mark-read`
#[utoipa::path(
    put,
    path = "/mark-read",
    tag = "messages",
    summary = "Mark a conversation read",
    request_body = ReadBody,
    responses((status = 200, body = MarkedRead), Refused, Denied, BadBody, Later, Missing),
)]
pub async fn mark_read(
    Call { log, caller, trace }: Call,
    JsonObject(body): JsonObject,
) -> Result<Response, Problem> {
    let mut f = Fields::of(&body);
    let contact_id = f.required("contact_id", str::parse::<Id>);
    let platform = f.optional("platform", platform_name);
    let company = f.optional("company_id", str::parse::<Id>);
    f.finish()?;
    let Some(contact_id) = contact_id else {
        return Err(Problem::Internal);
    };
    let company_id = caller.company(company)?;
    // Nothing is stored about a conversation that does not exist: its list tells.
    let page = Page {
        limit: 1,
        skip: 0,
        after: None,
    };
    log.ask_raw(
        &ListMessages {
            company_id,
            contact_id,
            platform: None,
            page,
        },
        trace,
    )
    .await
    .map_err(Problem::missing("contact"))?;
    let event = Event::MessageRead(MessageRead {
        contact_id,
        platform,
    });
    let settled = command(&log, &caller, company_id, event, trace).await?;
    let Some(Outcome::Applied { matched, modified }) = settled.outcome else {
        return Ok(accepted(
            &settled,
            &format!("/api/v1/messages?contact_id={contact_id}"),
        ));
    };
    Ok(json(
        StatusCode::OK,
        MarkedRead {
            message: "Messages marked as read",
            matched,
            modified,
            seq: settled.seq,
        },
    ))
}

/// `_id`, or `id` as some of the old clients have it.
fn message_id(f: &mut Fields<'_>) -> Option<Id> {
    if !f.has("id") {
        return f.required("_id", str::parse::<Id>);
    }
    let (id, alias) = (
        f.optional("_id", str::parse::<Id>),
        f.optional("id", str::parse::<Id>),
    );
    if id.is_some() && alias.is_some() && id != alias {
        f.wrong("id", "differs from _id");
    }
    id.or(alias)
}

async fn find(
    log: &Log,
    company_id: Id,
    id: Option<Id>,
    trace: TraceContext,
) -> Result<MessageView, Problem> {
    let id = id.ok_or(Problem::Internal)?; // finish() has refused its absence
    log.ask(&GetMessage { company_id, id }, trace)
        .await
        .map_err(Problem::missing("message"))
}
