//! `/contacts`: enter a contact, look at one, list them, edit one. Stores nothing itself: a change
//! becomes an event, and a read becomes a query to the persister.

mod fields;
mod identity;

use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use contract::domain::{Contact, ContactPatch, Platform, ShortText};
use contract::event::{ContactUpdated, Event};
use contract::outcome::Outcome;
use contract::query::{ContactKey, ContactPage, GetContact, ListContacts};
use contract::trace::TraceContext;
use contract::{Id, Timestamp};
use serde::Serialize;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, ToSchema};

use self::fields::ContactFields;
use self::identity::{Entry, Found, IfUnknown, enter};
use super::command::{accepted, command};
use super::queries::OfCompany;
use crate::api::declare::{body, path_parameter, query};
use crate::api::extract::{Call, InPath, JsonBody, QueryString};
use crate::api::field::{Flatten, FlattenQuery, MaybeEmpty, NonEmpty, NotNull, Scalar};
use crate::api::field_error::FieldErrorKind;
use crate::api::idempotency_key::{self, idempotency, idempotency_key, say_replayed};
use crate::api::page::{PageQuery, page_answer};
use crate::api::problem::Problem;
use crate::api::refusals::{Accepted, BadBody, Denied, Missing, Refused, Reused, Taken};
use crate::api::response::{json, named_answer};
use crate::api::schema::{having, having_a, text, with_any_of};
use crate::log::Log;

/// The most characters of a search. A longer one is refused.
const SEARCH_CHARS: usize = 100;
/// The fields that PATCH refuses by name. `company_id` is not among them, because it says whose
/// contact is meant.
const IMMUTABLE: &[&str] = &["_id", "id", "created_at", "updated_at"];

/// Why a contact of which nothing is known is refused.
const NAME_NEEDED: &str = "is required, or an id, an email or a phone that stands in for it";

/// A text that is not blank.
fn named() -> ObjectBuilder {
    text().pattern(Some(r"\S"))
}

body! {
    /// A contact to enter.
    pub struct NewContact {
        company_id: Option<Id>,
        /// Where it is not given, a name, id, address or number of the other fields stands in.
        full_name as "fullName": NonEmpty<ShortText>,
        fields: Flatten<ContactFields>,
    }
    example {
        "fullName": "Ada Brown",
        "phone": "+49 170 1234567",
        "social": {"facebookId": "1784"},
    }
    check |reader| {
        let is_nameless = matches!(full_name, Some(None))
            && fields.as_ref().is_some_and(|fields| fields.stand_in().is_none());
        if is_nameless {
            reader.wrong("fullName", NAME_NEEDED);
        }
    }
    schema |schema| with_any_of(schema, [
        having_a("fullName", named()),
        having_a("email", named()),
        having_a("phone", named()),
        having_a("socialNetworkName", named()),
        having_a("social", having_a("facebookId", named()).schema_type(Type::Object)),
        having_a("social", having_a("instagramId", named()).schema_type(Type::Object)),
        having_a("social", having_a("telegramId", named()).schema_type(Type::Object)),
        having_a("social", having_a("whatsappId", named()).schema_type(Type::Object)),
        having_a("profile", having_a("name", named()).schema_type(Type::Object)),
    ])
}

impl NewContact {
    /// The contact as it is entered now.
    ///
    /// # Errors
    /// Neither a name is given nor anything that stands in for it.
    fn contact(self, company: Id) -> Result<Contact, Problem> {
        let full_name = self.full_name.or_else(|| self.fields.stand_in());
        let full_name = full_name.ok_or_else(|| Problem::field("fullName", NAME_NEEDED))?;
        Ok(self.fields.contact(full_name, company, Timestamp::now()))
    }
}

body! {
    /// An edit of a contact: what is not given stays, null removes.
    pub struct ContactEdit {
        company_id: Option<Id>,
        full_name as "fullName": NotNull<ShortText>,
        fields: Flatten<ContactFields>,
    }
    example {
        "leadStage": "won",
        "botSuspended": true,
        "botSuspendUntil": "2026-11-23T08:00:00Z",
    }
    check |reader| { reader.refuse(IMMUTABLE) }
    schema |schema| with_any_of(schema, [
        having("fullName"),
        having("email"),
        having("phone"),
        having("socialNetworkName"),
        having("contactStatus"),
        having("leadStage"),
        having("botSuspended"),
        having("botSuspendUntil"),
        having("profile"),
    ])
}

query! {
    /// Which contacts to list.
    pub struct ListQuery {
        /// Each word must begin a word of names, email, phone or ids on the networks. Accents and
        /// case make no difference.
        search: NonEmpty<Search>,
        /// The whole id on Facebook.
        facebook_id as "facebookId": NonEmpty<ShortText>,
        /// The whole id on Instagram.
        instagram_id as "instagramId": NonEmpty<ShortText>,
        /// The whole id on Telegram.
        telegram_id as "telegramId": NonEmpty<ShortText>,
        /// The whole id on WhatsApp.
        whatsapp_id as "whatsappId": NonEmpty<ShortText>,
        /// The whole email address, in any case.
        email: NonEmpty<ShortText>,
        /// The whole phone number. Only its digits count.
        phone: NonEmpty<ShortText>,
        page: FlattenQuery<PageQuery>,
        of: FlattenQuery<OfCompany>,
    }
}

path_parameter! {
    /// The contact.
    pub struct ContactInPath { id: Id }
}

/// What to search for, of at most [`SEARCH_CHARS`].
pub struct Search(String);

impl Scalar for Search {
    fn from_text(text: &str) -> Result<Search, FieldErrorKind> {
        match text.chars().count() {
            0..=SEARCH_CHARS => Ok(Search(text.to_owned())),
            has => Err(format!("must have at most {SEARCH_CHARS} characters, has {has}").into()),
        }
    }

    fn schema() -> RefOr<Schema> {
        text().max_length(Some(SEARCH_CHARS)).into()
    }
}

impl MaybeEmpty for Search {
    fn schema_or_empty() -> RefOr<Schema> {
        Search::schema()
    }
}

/// The message about a contact that was entered.
const CREATED: &str = "Contact created successfully";

/// A contact as it now is.
#[derive(Serialize, ToSchema)]
#[schema(as = ContactEntered)]
struct Entered {
    message: &'static str,
    contact: Contact,
    seq: u64,
}

impl Entered {
    fn new(message: &'static str, Found { contact, seq }: Found) -> Entered {
        Entered {
            message,
            contact,
            seq,
        }
    }
}

named_answer! {
    /// One contact.
    pub struct OneContact { "contact": Contact }
}

page_answer! {
    /// A page of contacts.
    pub struct ContactList: ContactPage
}

/// The headers of a create.
pub enum CreateHeaders {}

impl IntoParams for CreateHeaders {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![idempotency_key::parameter(
            "For two minutes the same key with the same body gives the same answer; with an id on a \
             platform, as long as the contact has that id.",
        )]
    }
}

/// `POST /contacts`
#[utoipa::path(
    post,
    path = "/",
    tag = "contacts",
    summary = "Enter a contact",
    request_body = NewContact,
    params(CreateHeaders),
    responses((status = 201, body = Entered), Refused, Denied, BadBody, Taken, Reused),
)]
pub async fn create(
    Call { log, caller, trace }: Call,
    headers: HeaderMap,
    body: JsonBody<NewContact>,
) -> Result<Response, Problem> {
    let new = body.read()?;
    let company = caller.company(new.company_id)?;
    let contact = new.contact(company)?;
    let key = idempotency_key(&headers)?;
    let request = key.map(|key| idempotency(&caller, key, body.object()));
    let enter = enter(
        &log,
        &caller,
        contact,
        request.clone(),
        IfUnknown::Enter,
        trace,
    );
    let (found, replayed) = match enter.await? {
        Entry::New(found) => (found, false),
        Entry::Known {
            found,
            request: theirs,
        } => match (&request, &theirs) {
            (Some(ours), Some(theirs)) if ours == theirs => (found, true),
            (Some(ours), Some(theirs)) if ours.key == theirs.key => return Err(Problem::KeyReused),
            _ => return Err(found.taken()),
        },
    };
    let mut response = json(StatusCode::CREATED, Entered::new(CREATED, found));
    if replayed {
        say_replayed(response.headers_mut());
    }
    Ok(response)
}

/// `PUT /contacts`
#[utoipa::path(
    put,
    path = "/",
    tag = "contacts",
    summary = "Find a contact by an id on a platform, or enter it",
    description = "Safe to send at any time and from several places at once: each id on a platform \
                   has one contact of a company. A contact that is found stays as it is.",
    request_body = NewContact,
    responses(
        (status = 200, body = Entered, description = "It was there."),
        (status = 201, body = Entered, description = "It was entered."),
        Refused, Denied, BadBody,
    ),
)]
pub async fn find_or_create(
    Call { log, caller, trace }: Call,
    body: JsonBody<NewContact>,
) -> Result<Response, Problem> {
    let new = body.read()?;
    let company = caller.company(new.company_id)?;
    let contact = new.contact(company)?;
    if contact.social.ids().next().is_none() {
        return Err(Problem::field("social", "needs an id on a platform"));
    }
    let entry = enter(&log, &caller, contact, None, IfUnknown::Refuse, trace).await?;
    Ok(match entry {
        Entry::New(found) => json(StatusCode::CREATED, Entered::new(CREATED, found)),
        Entry::Known { found, .. } => json(StatusCode::OK, Entered::new("Contact found", found)),
    })
}

/// `GET /contacts?search=`: newest first.
#[utoipa::path(
    get,
    path = "/",
    tag = "contacts",
    summary = "List contacts, newest first",
    params(ListQuery),
    responses((status = 200, body = ContactList), Refused, Denied),
)]
pub async fn list(
    Call { log, caller, trace }: Call,
    query: QueryString<ListQuery>,
) -> Result<ContactList, Problem> {
    let ListQuery {
        search,
        facebook_id,
        instagram_id,
        telegram_id,
        whatsapp_id,
        email,
        phone,
        page,
        of,
    } = query.read()?;
    let page = page.into();
    let on = |platform, id: Option<ShortText>| id.map(|id| ContactKey::Platform(platform, id));
    let with = [
        on(Platform::Facebook, facebook_id),
        on(Platform::Instagram, instagram_id),
        on(Platform::Telegram, telegram_id),
        on(Platform::Whatsapp, whatsapp_id),
        email.map(|email| ContactKey::Email(email.into())),
        phone.map(|phone| ContactKey::Phone(phone.into())),
    ];
    let question = ListContacts {
        company_id: caller.company(of.company_id)?,
        search: search.map(|Search(text)| text),
        with: with.into_iter().flatten().collect(),
        page,
    };
    let answer = log.ask_raw(&question, trace).await?;
    Ok(ContactList { answer, page })
}

/// `GET /contacts/{id}`
#[utoipa::path(
    get,
    path = "/{id}",
    tag = "contacts",
    summary = "Look at a contact",
    params(ContactInPath, OfCompany),
    responses((status = 200, body = OneContact), Refused, Denied, Missing),
)]
pub async fn get(
    Call { log, caller, trace }: Call,
    id: InPath<ContactInPath>,
    query: QueryString<OfCompany>,
) -> Result<OneContact, Problem> {
    let question = GetContact {
        company_id: caller.company(query.read()?.company_id)?,
        id: id.read()?,
    };
    let contact = log.ask_raw(&question, trace).await;
    contact.map(OneContact).map_err(Problem::missing("contact"))
}

/// `PATCH /contacts/{id}`
#[utoipa::path(
    patch,
    path = "/{id}",
    tag = "contacts",
    summary = "Edit a contact",
    description = "What is not given stays, null removes.",
    request_body = ContactEdit,
    params(ContactInPath),
    responses((status = 200, body = Entered), Refused, Denied, BadBody, Accepted, Missing, Taken),
)]
pub async fn update(
    Call { log, caller, trace }: Call,
    id: InPath<ContactInPath>,
    body: JsonBody<ContactEdit>,
) -> Result<Response, Problem> {
    let id = id.read()?;
    let edit = body.read()?;
    let company_id = caller.company(edit.company_id)?;
    let patch = edit.fields.patch(edit.full_name);
    if patch == ContactPatch::default() {
        return Err(Problem::field(
            "fullName",
            "is required, or another field to change",
        ));
    }
    // Nothing is stored about a contact that does not exist.
    find(&log, company_id, id, trace).await?;
    identity::check(&log, company_id, id, &patch.social.ids_set(), trace).await?;
    let event = Event::ContactUpdated(Box::new(ContactUpdated {
        contact_id: id,
        patch,
    }));
    let done = command(&log, &caller, company_id, event, trace).await?;
    match done.outcome {
        None => Ok(accepted(&done, &format!("/api/v1/contacts/{id}"))),
        Some(Outcome::NotFound) => Err(Problem::NotFound("contact")),
        Some(_) => {
            let updated = Entered {
                message: "Contact updated successfully",
                contact: find(&log, company_id, id, trace).await?,
                seq: done.seq,
            };
            Ok(json(StatusCode::OK, updated))
        }
    }
}

async fn find(log: &Log, company_id: Id, id: Id, trace: TraceContext) -> Result<Contact, Problem> {
    log.ask(&GetContact { company_id, id }, trace)
        .await
        .map_err(Problem::missing("contact"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::field::Body;

    fn wrong_fields<T: Body>(body: Value) -> Vec<String> {
        match T::from_object(body.as_object().unwrap()) {
            Err(Problem::Validation(errors)) => errors.into_iter().map(|e| e.field).collect(),
            Err(other) => panic!("{other:?}"),
            Ok(_) => Vec::new(),
        }
    }

    #[test]
    fn a_new_contact_needs_a_name() {
        assert_eq!(
            wrong_fields::<NewContact>(json!({"fullName": "Ada"})),
            [""; 0]
        );
        let by_id = json!({"fullName": null, "social": {"instagramId": "17841400000000000"}});
        assert_eq!(wrong_fields::<NewContact>(by_id), [""; 0]);
        for bad in [
            json!({}),
            json!({"fullName": null}),
            json!({"fullName": " ", "phone": "", "social": {"facebookId": null}}),
            json!({"leadStage": "new", "profile": {"city": "Bern"}}),
        ] {
            assert_eq!(
                wrong_fields::<NewContact>(bad.clone()),
                ["fullName"],
                "{bad}"
            );
        }
    }

    #[test]
    fn an_edit_keeps_a_name_and_refuses_what_cannot_be_changed() {
        assert_eq!(wrong_fields::<ContactEdit>(json!({})), [""; 0]);
        assert_eq!(
            wrong_fields::<ContactEdit>(json!({"fullName": null, "_id": 1, "created_at": null})),
            ["fullName", "_id", "created_at"]
        );
    }
}
