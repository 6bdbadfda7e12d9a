//! `/contacts`: enter one, look at one, look through them, edit one.

mod fields;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use contract::domain::{Contact, ContactPatch};
use contract::event::{ContactUpdated, Event};
use contract::outcome::Outcome;
use contract::query::{GetContact, ListContacts};
use contract::trace::TraceContext;
use contract::{Id, Timestamp};
use runtime::log::publisher::Outgoing;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::extract::{Call, JsonObject, company_in};
use crate::api::field_reader::{Fields, QueryFields, path_id};
use crate::api::page::{page, with_page};
use crate::api::problem::Problem;
use crate::api::response::{json, raw_json};
use crate::log::Log;
use crate::routes::command::{accepted, command};
use crate::routes::messages::store::{idempotency, request_key, say_replayed};
use crate::schema::{
    After, BadBody, ContactEdit, ContactList, Denied, Later, Missing, NewContact, OfCompany,
    OneContact, PageOf, Refused, Reused,
};

/// Longest search, in characters.
const SEARCH_CHARS: usize = 100;
/// What PATCH refuses by name. `company_id` says whose contact it is.
const IMMUTABLE: &[&str] = &["_id", "id", "created_at", "updated_at"];

/// A contact as it now is.
#[derive(Serialize, ToSchema)]
#[schema(as = ContactEntered)]
struct Entered {
    message: &'static str,
    contact: Contact,
    seq: u64,
}

/// `POST /contacts`
#[utoipa::path(
    post,
    path = "/",
    tag = "contacts",
    summary = "Enter a contact",
    request_body = NewContact,
    params(("Idempotency-Key" = Option<String>, Header, description = "For two minutes the same key with the same body gives the same answer.", min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    responses((status = 201, body = Entered), Refused, Denied, BadBody, Reused),
)]
pub async fn create(
    Call { log, caller, trace }: Call,
    headers: HeaderMap,
    JsonObject(body): JsonObject,
) -> Result<Response, Problem> {
    let now = Timestamp::now();
    let mut f = Fields::of(&body);
    let company = f.optional("company_id", str::parse::<Id>);
    if !f.has("fullName") {
        f.wrong("fullName", "is required");
    }
    let fields = fields::read(&mut f);
    f.finish()?;
    let contact = fields::contact(fields, caller.company(company)?, now)?;
    let (id, company) = (contact.id, contact.company_id);
    let request = request_key(&headers)?
        .map(|key| idempotency(&caller, key, &body))
        .transpose()?;
    // A contact has no unique key in the view, so a repetition is known for as long as the log
    // knows its id.
    let msg_id = request.as_ref().map_or_else(
        || id.to_string(),
        |request| format!("contact:{company}:{}", request.key),
    );
    let mut envelope = Log::envelope(
        &caller,
        company,
        Event::ContactCreated(Box::new(contact)),
        now,
    );
    envelope.idempotency = request;
    let receipt = log
        .publish(Outgoing::event(&envelope, msg_id, trace)?)
        .await?;
    let first = if receipt.duplicate {
        Some(log.stored(receipt.seq).await?)
    } else {
        None
    };
    // Our own event: an answer of the log was lost on the way, and the repetition found it.
    let first = first.filter(|first| first.id != envelope.id);
    if first
        .as_ref()
        .is_some_and(|first| first.idempotency != envelope.idempotency)
    {
        return Err(Problem::KeyReused);
    }
    let replayed = first.is_some();
    let Event::ContactCreated(contact) = first.unwrap_or(envelope).event else {
        return Err(Problem::Internal);
    };
    let entered = Entered {
        message: "Contact created successfully",
        contact: *contact,
        seq: receipt.seq,
    };
    let mut response = json(StatusCode::CREATED, entered);
    if replayed {
        say_replayed(response.headers_mut());
    }
    Ok(response)
}

/// `GET /contacts?search=`: newest first.
#[utoipa::path(
    get,
    path = "/",
    tag = "contacts",
    summary = "List contacts, newest first",
    params(("search" = Option<String>, Query, max_length = 100, description = "Each word must begin a word of names, email, phone or ids on the networks."), PageOf, After, OfCompany),
    responses((status = 200, body = ContactList), Refused, Denied),
)]
pub async fn list(
    Call { log, caller, trace }: Call,
    QueryFields(query): QueryFields,
) -> Result<Response, Problem> {
    let mut f = Fields::of(&query);
    let company = f.optional("company_id", str::parse::<Id>);
    let search = f.non_empty("search", search_text);
    let page = page(&mut f);
    f.finish()?;
    let question = ListContacts {
        company_id: caller.company(company)?,
        search,
        page,
    };
    let answer = log.ask_raw(&question, trace).await?;
    Ok(with_page(&answer, page))
}

/// `GET /contacts/{id}`
#[utoipa::path(
    get,
    path = "/{id}",
    tag = "contacts",
    summary = "Look at a contact",
    params(("id" = Id, Path, description = "The contact."), OfCompany),
    responses((status = 200, body = OneContact), Refused, Denied, Missing),
)]
pub async fn get(
    Call { log, caller, trace }: Call,
    Path(id): Path<String>,
    QueryFields(query): QueryFields,
) -> Result<Response, Problem> {
    let question = GetContact {
        company_id: company_in(&query, &caller)?,
        id: path_id(&id)?,
    };
    let answer = log
        .ask_raw(&question, trace)
        .await
        .map_err(Problem::missing("contact"))?;
    Ok(raw_json(StatusCode::OK, r#"{"contact":"#, &answer, "}"))
}

/// `PATCH /contacts/{id}`: what is absent stays, null removes.
#[utoipa::path(
    patch,
    path = "/{id}",
    tag = "contacts",
    summary = "Edit a contact",
    description = "What is not given stays, null removes.",
    request_body = ContactEdit,
    params(("id" = Id, Path, description = "The contact.")),
    responses((status = 200, body = Entered), Refused, Denied, BadBody, Later, Missing),
)]
pub async fn update(
    Call { log, caller, trace }: Call,
    Path(id): Path<String>,
    JsonObject(body): JsonObject,
) -> Result<Response, Problem> {
    let id = path_id(&id)?;
    let mut f = Fields::of(&body);
    let company = f.optional("company_id", str::parse::<Id>);
    f.refuse(IMMUTABLE);
    if f.is_null("fullName") {
        f.wrong("fullName", "cannot be removed");
    }
    let patch = fields::read(&mut f);
    f.finish()?;
    let company_id = caller.company(company)?;
    if patch == ContactPatch::default() {
        return Err(Problem::field(
            "fullName",
            "is required, or another field to change",
        ));
    }
    // Nothing is stored about a contact that does not exist.
    find(&log, company_id, id, trace).await?;
    let event = Event::ContactUpdated(Box::new(ContactUpdated {
        contact_id: id,
        patch,
    }));
    let settled = command(&log, &caller, company_id, event, trace).await?;
    match settled.outcome {
        None => Ok(accepted(&settled, &format!("/api/v1/contacts/{id}"))),
        Some(Outcome::NotFound) => Err(Problem::NotFound("contact")),
        Some(_) => {
            let contact = find(&log, company_id, id, trace).await?;
            Ok(json(
                StatusCode::OK,
                Entered {
                    message: "Contact updated successfully",
                    contact,
                    seq: settled.seq,
                },
            ))
        }
    }
}

async fn find(log: &Log, company_id: Id, id: Id, trace: TraceContext) -> Result<Contact, Problem> {
    log.ask(&GetContact { company_id, id }, trace)
        .await
        .map_err(Problem::missing("contact"))
}

fn search_text(text: &str) -> Result<String, String> {
    match text.chars().count() {
        0..=SEARCH_CHARS => Ok(text.to_owned()),
        has => Err(format!(
            "must have at most {SEARCH_CHARS} characters, has {has}"
        )),
    }
}
