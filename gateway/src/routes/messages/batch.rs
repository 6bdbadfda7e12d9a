//! `POST /messages/batch`: many creates in one request, each with its own result. The messages go
//! to the log together, so that one group commit takes them. The messages of one conversation are
//! stored in the order of the list. If one of them cannot be stored for now, those after it in its
//! conversation are not stored either. Because of that, sending the failed ones again keeps the
//! order. `Prefer: wait` is not for batches.

use std::collections::HashMap;

use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use contract::domain::MessageView;
use contract::{Id, Timestamp};
use futures_util::{StreamExt, stream};
use runtime::log::ordering_key::OrderingKey;
use runtime::log::publisher::{Outgoing, PublishError, Receipt};
use serde::Serialize;
use serde_json::Value;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, SchemaType};
use utoipa::{IntoParams, ToSchema};

use super::create::{Created, Forwarding, NewMessage};
use super::store::{Create, Stored};
use crate::api::declare::body;
use crate::api::extract::{Call, JsonBody};
use crate::api::field::{Body, Described, Description, Field};
use crate::api::field_reader::FieldReader;
use crate::api::idempotency_key::{self, idempotency, idempotency_key};
use crate::api::problem::{Problem, ProblemDetails};
use crate::api::refusals::{BadBody, Denied, Refused};
use crate::api::response::json;
use crate::auth::Caller;
use crate::log::Log;

/// The most messages of one batch. A batch with more is refused.
const MAX_MESSAGES: usize = 500;
/// Messages of one batch that are looked up in the log at a time, because they were sent before.
const LOOKUPS: usize = 8;

body! {
    /// Many messages, each as in `POST /messages`.
    pub struct Batch {
        /// As in `POST /messages`; one that is wrong fails by itself.
        count as "messages": Messages,
    }
    example {
        "messages": [{
            "contact_id": "665f1e0c9b1d4a7f3c2e8a01",
            "role": "user",
            "platform": "telegram",
            "direction": "inbound",
            "content": "Are you open today?",
        }],
    }
}

/// A list of 1 to [`MAX_MESSAGES`] entries. Its value is their number, because each entry is read
/// by itself.
pub struct Messages;

impl Field for Messages {
    type Value = usize;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<usize> {
        let count = reader.value(name).and_then(Value::as_array).map(Vec::len);
        let count = count.filter(|count| (1..=MAX_MESSAGES).contains(count));
        let rule = || format!("must be a list of 1 to {MAX_MESSAGES} messages").into();
        reader.checked(name, count.ok_or_else(rule))
    }
}

impl Described for Messages {
    fn describe() -> Description {
        let any = ObjectBuilder::new().schema_type(SchemaType::AnyValue);
        let list = ArrayBuilder::new()
            .items(any)
            .min_items(Some(1))
            .max_items(Some(MAX_MESSAGES));
        Description::required(list.into())
    }
}

/// The headers of a batch.
pub enum BatchHeaders {}

impl IntoParams for BatchHeaders {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![idempotency_key::parameter(
            "Counts for each message by its place in the list.",
        )]
    }
}

/// What became of each message.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchResult)]
struct Answer {
    results: Vec<Entry>,
    created: usize,
    failed: usize,
}

/// What became of one message of a batch: what `POST /messages` answers, with its status.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = BatchEntry)]
struct Entry {
    /// 201, or the status of `error`.
    status: u16,
    /// The same message was stored by an earlier request of the same `Idempotency-Key`.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
    #[schema(ignore)]
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
    #[schema(required = false, value_type = MessageView)]
    #[serde(rename = "messageData", skip_serializing_if = "Option::is_none")]
    message_data: Option<MessageView>,
    #[schema(ignore)]
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarding: Option<Forwarding>,
    /// Null in every entry that was created, because nobody waits for a delivery.
    #[schema(ignore)]
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<Option<&'static str>>,
    #[schema(required = false, value_type = u64)]
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[schema(required = false, value_type = ProblemDetails)]
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ProblemDetails>,
}

type Published = Result<Receipt, PublishError>;

/// `POST /messages/batch`
#[utoipa::path(
    post,
    path = "/batch",
    tag = "messages",
    summary = "Accept many messages",
    description = "The messages of one conversation stand in the log in the order of the list.",
    request_body = Batch,
    params(BatchHeaders),
    responses(
        (
            status = 200,
            description = "Each message has its own result, in the order of the list.",
            body = Answer,
        ),
        Refused, Denied, BadBody,
    ),
)]
pub async fn create(
    Call { log, caller, trace }: Call,
    headers: HeaderMap,
    body: JsonBody<Batch>,
) -> Result<Response, Problem> {
    let count = body.read()?.count;
    let messages = body.object().get("messages").and_then(Value::as_array);
    let key = idempotency_key(&headers)?;
    let now = Timestamp::now();
    let mut ordering_keys: HashMap<(Id, Id), OrderingKey> = HashMap::new();
    let mut events = Vec::with_capacity(count);
    let mut creates = Vec::with_capacity(count);
    for (index, message) in messages.into_iter().flatten().enumerate() {
        let key = key.map(|key| format!("{key}#{index}"));
        let prepared = prepare(message, &caller, key, now).and_then(|(create, conversation)| {
            let ordering_key = ordering_keys.entry(conversation).or_default().clone();
            events.push(Outgoing {
                ordering_key: Some(ordering_key),
                ..create.outgoing(trace)?
            });
            Ok(create)
        });
        creates.push(prepared);
    }
    let mut published = log.publish_all(events).await.into_iter();
    let pairs: Vec<_> = creates
        .into_iter()
        .map(|create| create.map(|create| (create, published.next())))
        .collect();
    let resolved = stream::iter(pairs)
        .map(|pair| resolve(&log, pair))
        .buffered(LOOKUPS);
    let results: Vec<Entry> = resolved.map(Entry::from).collect().await;
    let failed = results.iter().filter(|entry| entry.error.is_some()).count();
    let answer = Answer {
        created: results.len() - failed,
        failed,
        results,
    };
    Ok(json(StatusCode::OK, answer))
}

/// Reads one entry of the list. Returns its conversation too: company and contact.
fn prepare(
    message: &Value,
    caller: &Caller,
    key: Option<String>,
    now: Timestamp,
) -> Result<(Create, (Id, Id)), Problem> {
    let Value::Object(body) = message else {
        return Err(Problem::field("message", "must be an object"));
    };
    let message = NewMessage::from_object(body)?.accept(caller, now)?;
    let conversation = (message.company_id, message.contact_id);
    let request = key.map(|key| idempotency(caller, &key, body));
    Ok((Create::new(caller, message, request, now), conversation))
}

async fn resolve(
    log: &Log,
    pair: Result<(Create, Option<Published>), Problem>,
) -> Result<Stored, Problem> {
    let (create, published) = pair?;
    let published = published.ok_or(Problem::Internal)?;
    create.resolve(log, published).await
}

impl From<Result<Stored, Problem>> for Entry {
    fn from(result: Result<Stored, Problem>) -> Entry {
        match result {
            Ok(stored) => {
                let replayed = stored.replayed;
                let created = Created::new(stored);
                Entry {
                    status: StatusCode::CREATED.as_u16(),
                    replayed,
                    message: Some(created.message),
                    message_data: Some(created.message_data),
                    forwarding: Some(created.forwarding),
                    warning: Some(created.warning),
                    seq: Some(created.seq),
                    error: None,
                }
            }
            Err(problem) => {
                let (status, error) = problem.document();
                Entry {
                    status: status.as_u16(),
                    error: Some(error),
                    ..Entry::default()
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_batch_has_at_least_one_message_and_not_too_many() {
        let count = |messages: Value| {
            let body = json!({ "messages": messages });
            Batch::from_object(body.as_object().unwrap()).map(|batch| batch.count)
        };
        assert_eq!(count(json!([1, {}])), Ok(2));
        assert_eq!(count(json!(vec![0; MAX_MESSAGES])), Ok(MAX_MESSAGES));
        for bad in [
            json!([]),
            json!(vec![0; MAX_MESSAGES + 1]),
            json!({}),
            json!(null),
        ] {
            assert!(matches!(count(bad), Err(Problem::Validation(_))));
        }
    }

    #[test]
    fn an_entry_that_failed_has_its_status_and_its_problem_only() {
        let entry = Entry::from(Err(Problem::KeyReused));
        let entry = serde_json::to_value(entry).unwrap();
        assert_eq!(entry["status"], json!(422));
        assert_eq!(entry["error"]["code"], json!("IDEMPOTENCY_KEY_REUSED"));
        assert_eq!(entry.as_object().unwrap().len(), 2);
    }
}
