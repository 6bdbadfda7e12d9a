//! Changes messages that are stored: edit, delete, mark read.

use axum::http::StatusCode;
use axum::response::Response;
use contract::Id;
use contract::domain::{Attachment, Content, MessagePatch, MessageView, Platform};
use contract::event::{Event, MessageDeleted, MessageRead, MessageUpdated};
use contract::outcome::Outcome;
use contract::query::{GetMessage, ListMessages, Page};
use contract::trace::TraceContext;
use serde::Serialize;
use utoipa::ToSchema;

use super::fields::{Attachments, IdOrAlias, check_free_form};
use crate::api::declare::body;
use crate::api::extract::{Call, JsonBody};
use crate::api::problem::Problem;
use crate::api::refusals::{Accepted, BadBody, Denied, Emptied, Missing, Refused};
use crate::api::response::json;
use crate::api::schema::{having_a, list, text, with_any_of};
use crate::log::Log;
use crate::routes::command::{accepted, command};

/// The fields that PATCH refuses by name. `company_id` is not among them, because it says whose
/// message is meant.
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

body! {
    /// An edit of a message; at least one of `content` and `attachments`.
    pub struct MessageEdit {
        /// `id` is taken as well.
        id as "_id": IdOrAlias,
        content: Option<Content>,
        /// In place of all.
        attachments: Attachments,
        company_id: Option<Id>,
    }
    example { "_id": "665f1e0c9b1d4a7f3c2e8a02", "content": "See you at eleven." }
    check |reader| {
        reader.refuse(IMMUTABLE);
        if let Some(attachments) = &attachments {
            check_free_form(reader, attachments);
        }
        if matches!((&content, &attachments), (Some(None), Some(None))) {
            reader.wrong("content", "is required, or attachments");
        }
    }
    schema |schema| with_any_of(schema, [
        having_a("content", text()),
        having_a("attachments", list(None)),
    ])
}

body! {
    /// Which message.
    pub struct MessageId {
        /// `id` is taken as well.
        id as "_id": IdOrAlias,
        company_id: Option<Id>,
    }
    example { "_id": "665f1e0c9b1d4a7f3c2e8a02" }
}

body! {
    /// Which messages were read: the inbound ones that were accepted before this request.
    pub struct ReadBody {
        contact_id: Id,
        /// On one platform only.
        platform: Option<Platform>,
        company_id: Option<Id>,
    }
    example { "contact_id": "665f1e0c9b1d4a7f3c2e8a01" }
}

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

/// `PATCH /messages`
#[utoipa::path(
    patch,
    path = "/",
    tag = "messages",
    summary = "Edit a message",
    request_body = MessageEdit,
    responses((status = 200, body = Updated), Refused, Denied, BadBody, Accepted, Missing, Emptied),
)]
pub async fn update(
    Call { log, caller, trace }: Call,
    body: JsonBody<MessageEdit>,
) -> Result<Response, Problem> {
    let MessageEdit {
        id,
        content,
        attachments,
        company_id,
    } = body.read()?;
    let company_id = caller.company(company_id)?;
    let before = find(&log, company_id, id, trace).await?.message;
    let attachments =
        attachments.map(|list| list.into_iter().map(Attachment::from).collect::<Vec<_>>());
    let content_after = content.as_ref().unwrap_or(&before.content);
    let attachments_after = attachments.as_ref().unwrap_or(&before.attachments);
    if content_after.as_str().is_empty() && attachments_after.is_empty() {
        // A conflict and no wrong field, because it depends on the message that is stored.
        return Err(Problem::Conflict(
            "nothing would be left of the message: it has to keep content or attachments",
        ));
    }
    let event = Event::MessageUpdated(MessageUpdated {
        message_id: before.id,
        contact_id: before.contact_id,
        patch: MessagePatch {
            content,
            attachments,
        },
    });
    let done = command(&log, &caller, company_id, event, trace).await?;
    if done.outcome.is_none() {
        return Ok(accepted(&done, &format!("/api/v1/messages/{id}")));
    }
    let updated = Updated {
        message: "Message updated successfully",
        message_data: find(&log, company_id, id, trace).await?,
        seq: done.seq,
    };
    Ok(json(StatusCode::OK, updated))
}

/// `DELETE /messages`
#[utoipa::path(
    delete,
    path = "/",
    tag = "messages",
    summary = "Delete a message",
    description = "It vanishes from every read; the log keeps it.",
    request_body = MessageId,
    responses((status = 200, body = Deleted), Refused, Denied, BadBody, Accepted, Missing),
)]
pub async fn delete(
    Call { log, caller, trace }: Call,
    body: JsonBody<MessageId>,
) -> Result<Response, Problem> {
    let MessageId { id, company_id } = body.read()?;
    let company_id = caller.company(company_id)?;
    let before = find(&log, company_id, id, trace).await?.message;
    let event = Event::MessageDeleted(MessageDeleted {
        message_id: before.id,
        contact_id: before.contact_id,
    });
    let done = command(&log, &caller, company_id, event, trace).await?;
    match done.outcome {
        None => Ok(accepted(&done, &format!("/api/v1/messages/{id}"))),
        Some(Outcome::NotFound) => Err(Problem::NotFound("message")),
        Some(_) => {
            let deleted = Deleted {
                message: "Message deleted successfully",
                _id: before.id,
                seq: done.seq,
            };
            Ok(json(StatusCode::OK, deleted))
        }
    }
}

/// `PUT /messages/mark-read`
#[utoipa::path(
    put,
    path = "/mark-read",
    tag = "messages",
    summary = "Mark a conversation read",
    request_body = ReadBody,
    responses((status = 200, body = MarkedRead), Refused, Denied, BadBody, Accepted, Missing),
)]
pub async fn mark_read(
    Call { log, caller, trace }: Call,
    body: JsonBody<ReadBody>,
) -> Result<Response, Problem> {
    let ReadBody {
        contact_id,
        platform,
        company_id,
    } = body.read()?;
    let company_id = caller.company(company_id)?;
    // Nothing is stored about a conversation that does not exist: its list tells.
    let any = ListMessages {
        company_id,
        contact_id,
        platform: None,
        page: Page {
            limit: 1,
            skip: 0,
            after: None,
        },
    };
    log.ask_raw(&any, trace)
        .await
        .map_err(Problem::missing("contact"))?;
    let event = Event::MessageRead(MessageRead {
        contact_id,
        platform,
    });
    let done = command(&log, &caller, company_id, event, trace).await?;
    let Some(Outcome::Applied { matched, modified }) = done.outcome else {
        let location = format!("/api/v1/messages?contact_id={contact_id}");
        return Ok(accepted(&done, &location));
    };
    let marked = MarkedRead {
        message: "Messages marked as read",
        matched,
        modified,
        seq: done.seq,
    };
    Ok(json(StatusCode::OK, marked))
}

async fn find(
    log: &Log,
    company_id: Id,
    id: Id,
    trace: TraceContext,
) -> Result<MessageView, Problem> {
    log.ask(&GetMessage { company_id, id }, trace)
        .await
        .map_err(Problem::missing("message"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::field::Body;

    const ID: &str = "665f1e0c9b1d4a7f3c2e8a02";

    fn wrong_fields(body: serde_json::Value) -> Vec<String> {
        match MessageEdit::from_object(body.as_object().unwrap()) {
            Err(Problem::Validation(errors)) => errors.into_iter().map(|e| e.field).collect(),
            Err(other) => panic!("{other:?}"),
            Ok(_) => Vec::new(),
        }
    }

    #[test]
    fn an_edit_names_its_message_by_either_name_and_changes_something() {
        for good in [
            json!({"_id": ID, "content": "x"}),
            json!({"id": ID, "attachments": []}),
            json!({"id": ID, "_id": ID, "content": ""}),
        ] {
            assert_eq!(wrong_fields(good.clone()), [""; 0], "{good}");
        }
        let other = "a".repeat(24);
        for (bad, fields) in [
            (json!({"content": "x"}), &["_id"][..]),
            (json!({"_id": ID}), &["content"]),
            (json!({"_id": ID, "content": null}), &["content"]),
            (json!({"_id": ID, "id": other, "content": "x"}), &["id"]),
            (json!({"_id": ID, "content": "x", "role": null}), &["role"]),
        ] {
            assert_eq!(wrong_fields(bad.clone()), fields, "{bad}");
        }
    }

    #[test]
    fn a_bad_id_is_a_cast_error_by_either_name() {
        for name in ["_id", "id"] {
            let body = json!({name: "x", "content": "y"});
            let read = MessageEdit::from_object(body.as_object().unwrap());
            assert_eq!(read.err(), Some(Problem::BadId("_id")));
        }
    }
}
