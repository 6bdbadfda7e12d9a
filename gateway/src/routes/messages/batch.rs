//! `POST /messages/batch`: many creates in one request, each with its own result. They go to the
//! log together, so that one group commit takes them; the messages of one conversation stand there
//! in the order of the list. If one of them cannot be stored for now, those after it in its
//! conversation are not stored either, so that sending the failed ones again keeps the order too.
//! `Prefer: wait` is not for batches.

use std::collections::HashMap;

use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use contract::{Id, Timestamp};
use futures_util::{StreamExt, stream};
use runtime::log::ordering_key::OrderingKey;
use runtime::log::publisher::{Outgoing, PublishError, Receipt};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::create::{Created, read};
use super::store::{Create, Stored, idempotency, request_key};
use crate::api::extract::{Call, JsonObject};
use crate::api::problem::Problem;
use crate::api::response::json;
use crate::auth::Caller;
use crate::log::Log;
use crate::schema::{BadBody, Batch, BatchEntry, Denied, Refused};

/// Most messages in one batch.
const MAX_MESSAGES: usize = 500;
/// Messages of one batch that are looked up in the log at a time, because they were sent before.
const LOOKUPS: usize = 8;

type Published = Result<Receipt, PublishError>;

/// What became of each message.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchResult)]
struct Answer {
    #[schema(value_type = Vec<BatchEntry>)]
    results: Vec<Entry>,
    created: usize,
    failed: usize,
}

/// What became of one message; like the answer to `POST /messages`.
#[derive(Serialize)]
struct Entry {
    status: u16,
    /// The same message was stored by an earlier request of the same `Idempotency-Key`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
    #[serde(flatten)]
    created: Option<Created>,
    /// The problem document.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Value>,
}

/// `POST /messages/batch`
#[utoipa::path(
    post,
    path = "/batch",
    tag = "messages",
    summary = "Accept many messages",
    description = "The messages of one conversation stand in the log in the order of the list.",
    request_body = Batch,
    params(("Idempotency-Key" = Option<String>, Header, description = "Counts for each message by its place in the list.", min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    responses((status = 200, description = "Each message has its own result, in the order of the list.", body = Answer), Refused, Denied, BadBody),
)]
pub async fn create(
    Call { log, caller, trace }: Call,
    headers: HeaderMap,
    JsonObject(body): JsonObject,
) -> Result<Response, Problem> {
    let messages = match body.get("messages") {
        Some(Value::Array(messages)) if (1..=MAX_MESSAGES).contains(&messages.len()) => messages,
        _ => {
            return Err(Problem::field(
                "messages",
                format!("must be a list of 1 to {MAX_MESSAGES} messages"),
            ));
        }
    };
    let key = request_key(&headers)?;
    let now = Timestamp::now();
    let mut orders: HashMap<(Id, Id), OrderingKey> = HashMap::new();
    let mut events = Vec::with_capacity(messages.len());
    let mut creates = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let request = key.map(|key| format!("{key}#{index}"));
        creates.push(
            prepare(message, &caller, request, now).and_then(|(create, conversation)| {
                let order = orders.entry(conversation).or_default().clone();
                events.push(Outgoing {
                    ordering_key: Some(order),
                    ..create.outgoing(trace)?
                });
                Ok(create)
            }),
        );
    }
    let mut published = log.publish_all(events).await.into_iter();
    let pairs: Vec<_> = creates
        .into_iter()
        .map(|create| create.map(|create| (create, published.next())))
        .collect();
    let settled = stream::iter(pairs)
        .map(|pair| settle(&log, pair))
        .buffered(LOOKUPS);
    let results: Vec<Entry> = settled.map(Entry::of).collect().await;
    let created = results
        .iter()
        .filter(|entry| entry.created.is_some())
        .count();
    let failed = results.len() - created;
    Ok(json(
        StatusCode::OK,
        Answer {
            results,
            created,
            failed,
        },
    ))
}

/// A message of the list, and its conversation: company and contact.
fn prepare(
    message: &Value,
    caller: &Caller,
    request: Option<String>,
    now: Timestamp,
) -> Result<(Create, (Id, Id)), Problem> {
    let Value::Object(body) = message else {
        return Err(Problem::field("message", "must be an object"));
    };
    let message = read(body, caller, now)?;
    let conversation = (message.company_id, message.contact_id);
    let request = request
        .map(|key| idempotency(caller, &key, body))
        .transpose()?;
    Ok((Create::new(caller, message, request, now), conversation))
}

async fn settle(
    log: &Log,
    pair: Result<(Create, Option<Published>), Problem>,
) -> Result<Stored, Problem> {
    let (create, published) = pair?;
    create
        .settle(log, published.ok_or(Problem::Internal)?)
        .await
}

impl Entry {
    fn of(result: Result<Stored, Problem>) -> Entry {
        match result {
            Ok(stored) => {
                let replayed = stored.replayed;
                Entry {
                    status: StatusCode::CREATED.as_u16(),
                    replayed,
                    created: Some(Created::new(stored)),
                    error: None,
                }
            }
            Err(problem) => {
                let (status, document) = problem.document();
                Entry {
                    status: status.as_u16(),
                    replayed: false,
                    created: None,
                    error: Some(document),
                }
            }
        }
    }
}
