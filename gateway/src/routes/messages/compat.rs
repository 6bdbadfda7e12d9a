//! `POST /messages`, one path with two meanings, as the Express backend had it: a body with
//! something of a message in it creates, another one lists the conversation. Does neither itself.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use contract::Id;
use contract::domain::Platform;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::create::{Created, NewMessage, create};
use super::delivery_wait::DeliveryWaits;
use super::list::{MessageList, list_messages};
use super::prefer;
use crate::api::declare::body;
use crate::api::extract::{Call, JsonBody};
use crate::api::field::Body;
use crate::api::field_reader::FieldReader;
use crate::api::idempotency_key::{self, idempotency_key};
use crate::api::page::{After, Limit, Skip, page};
use crate::api::problem::Problem;
use crate::api::refusals::{BadBody, Denied, Missing, Refused, Reused, Taken};
use crate::api::schema::{Components, component, either, without};

/// The fields of which a create has at least one, and a list none.
const OF_A_MESSAGE: &[&str] = &["role", "direction", "content", "attachments"];

body! {
    /// Which messages to list; the old backend's way, the same as `GET /messages`.
    pub struct ListBody {
        company_id: Option<Id>,
        contact_id: Id,
        platform: Option<Platform>,
        limit: Limit,
        skip: Skip,
        /// `next_cursor` of the page before; empty for the first page.
        cursor: After,
    }
    example { "contact_id": "665f1e0c9b1d4a7f3c2e8a01", "limit": 20 }
    schema |schema| without(schema, OF_A_MESSAGE)
}

/// What `POST /messages` does.
pub enum CreateOrList {
    Create(Box<NewMessage>),
    List(ListBody),
}

impl Body for CreateOrList {
    fn read(reader: &mut FieldReader<'_>) -> Option<CreateOrList> {
        let is_given = |field: &str| reader.value(field).is_some();
        let creates = OF_A_MESSAGE.iter().any(|field| is_given(field));
        match is_given("contact_id") && !creates {
            true => ListBody::read(reader).map(CreateOrList::List),
            false => NewMessage::read(reader).map(|new| CreateOrList::Create(Box::new(new))),
        }
    }
}

impl PartialSchema for CreateOrList {
    fn schema() -> RefOr<Schema> {
        either::<NewMessage, ListBody>()
    }
}

impl ToSchema for CreateOrList {
    fn schemas(into: &mut Components) {
        component::<NewMessage>(into);
        component::<ListBody>(into);
    }
}

/// The headers of a create.
pub enum CreateHeaders {}

impl IntoParams for CreateHeaders {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![
            idempotency_key::parameter("The same key with the same body gives the same answer."),
            prefer::parameter(),
        ]
    }
}

/// `POST /messages`
#[utoipa::path(
    post,
    path = "/",
    tag = "messages",
    summary = "Accept a message",
    description = "Answers once the message is on disk in the log. An operator's outbound message \
        to facebook or instagram is forwarded to the bot. With a `contact_id` and none of `role`, \
        `direction`, `content` and `attachments` it lists the conversation, as the old backend \
        did.",
    request_body = CreateOrList,
    params(CreateHeaders),
    responses(
        (status = 201, description = "It is on disk in the log.", body = Created),
        (
            status = 200,
            description = "A list: the body had a `contact_id` and nothing of a message.",
            body = MessageList,
        ),
        Refused, Denied, BadBody, Missing, Taken, Reused,
    ),
)]
pub async fn create_or_list(
    State(waits): State<Arc<DeliveryWaits>>,
    call: Call,
    headers: HeaderMap,
    body: JsonBody<CreateOrList>,
) -> Result<Response, Problem> {
    // A list has no use for the key. A bad one is refused all the same.
    let key = idempotency_key(&headers)?;
    match body.read()? {
        CreateOrList::Create(new) => create(&waits, call, &headers, key, *new, body.object()).await,
        CreateOrList::List(list) => {
            let page = page(list.limit, list.skip, list.cursor);
            let company = call.caller.company(list.company_id)?;
            let list = list_messages(&call, company, list.contact_id, list.platform, page);
            list.await.map(IntoResponse::into_response)
        }
    }
}
