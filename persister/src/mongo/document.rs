//! The documents of messages and contacts, what all documents have in common, and the way back to the
//! contract's types. Makes no query and no write.

use contract::domain::{
    Attachment, Contact, ContactPatch, Delivery, Message, Platform, Profile, ShortText, Social,
};
use contract::event::{Idempotency, MessageDelivery};
use contract::query::Resumable;
use contract::{Id, Timestamp};
use mongodb::bson::{Bson, DateTime, Document, doc, oid::ObjectId};
use serde_json::Value as Json;

/// A document that does not have the view's form. Somebody else has written it.
#[derive(Debug, thiserror::Error)]
#[error("a document of another form: {0}")]
pub struct BadDocument(String);

pub fn oid(id: Id) -> ObjectId {
    ObjectId::from_bytes(id.bytes())
}

pub fn id(oid: ObjectId) -> Id {
    Id::from_bytes(oid.bytes())
}

pub fn date(at: Timestamp) -> DateTime {
    DateTime::from_millis(at.millis())
}

fn timestamp(at: DateTime) -> Timestamp {
    Timestamp::from_millis(at.timestamp_millis())
}

/// A stream sequence as MongoDB keeps it. No stream reaches 2^63 messages.
pub fn long(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// A revision that no other write gives. Because a primary that is replaced rolls writes back, a
/// count would come to the same number again, with other content.
pub fn new_revision() -> i64 {
    let [_, _, _, _, of_process_and_count @ ..] = ObjectId::new().bytes();
    // Never 0, which stands for a document that is not there.
    (i64::from_be_bytes(of_process_and_count) & i64::MAX).max(1)
}

/// Whether a document belongs to a company.
pub fn is_of(document: &Document, company: ObjectId) -> bool {
    document
        .get_object_id("company_id")
        .is_ok_and(|of| of == company)
}

/// The sequence of the first delete of a message, or of its placeholder.
pub fn deleted_by(message: &Document) -> Option<i64> {
    message
        .get_document("applied")
        .ok()?
        .get_i64("deleted")
        .ok()
}

/// The fields of a message that come from its `message.created` alone. The caller's request is a
/// unique key only if the platform gave no id of its own. Because a bot may repeat a message under
/// another request key, the platform's id is the better key.
pub fn message(
    message: &Message,
    request: Option<&Idempotency>,
    accepted_at: Timestamp,
    seq: u64,
) -> Document {
    let mut document = doc! {
        "_id": oid(message.id),
        "company_id": oid(message.company_id),
        "contact_id": oid(message.contact_id),
        "role": message.role.as_str(),
        "platform": message.platform.as_str(),
        "direction": message.direction.as_str(),
        "content": message.content.as_str(),
        "attachments": attachments(&message.attachments),
        "read": false,
        "delivered": message.sent_elsewhere,
        "read_at": Bson::Null,
        "created_at": date(message.created_at),
        "updated_at": date(message.created_at),
        // `created_at` is the caller's claim. This time is the gateway's own.
        "accepted_at": date(accepted_at),
        "seq": long(seq),
    };
    if let Some(external) = &message.external_message_id {
        document.insert("external_message_id", external.as_str());
    } else if let Some(request) = request {
        document.insert("request", &request.key);
    }
    if message.sent_elsewhere {
        document.insert("sent_elsewhere", true);
    }
    if message.is_forwardable() {
        document.insert("delivery", delivery(&Delivery::queued()));
    }
    let mut extra = free_form(&message.extra);
    if !message.of_channel.is_empty() {
        // Fields beside the others are in the document's `extra`, and so is this one.
        extra.insert("extra", free_form(&message.of_channel));
    }
    if !extra.is_empty() {
        document.insert("extra", extra);
    }
    document
}

/// Stands before a free-form name that begins with `$` or with this character. Otherwise the driver
/// would take a document such as `{"$oid": …}` for extended JSON: the document would be read as
/// another value, or fail the whole query.
const ESCAPE: char = '\\';

fn escaped(name: &str) -> String {
    if name.starts_with(['$', ESCAPE]) {
        format!("{ESCAPE}{name}")
    } else {
        name.to_owned()
    }
}

/// A free-form name as the caller gave it.
pub fn unescaped(name: &str) -> &str {
    name.strip_prefix(ESCAPE).unwrap_or(name)
}

/// Free-form JSON as a document. Every name can be read back unchanged.
fn free_form(json: &serde_json::Map<String, Json>) -> Document {
    json.iter()
        .map(|(k, v)| (escaped(k), free_form_value(v)))
        .collect()
}

fn free_form_value(json: &Json) -> Bson {
    match json {
        Json::Null => Bson::Null,
        Json::Bool(b) => Bson::Boolean(*b),
        // A whole number beyond 63 bits, which BSON has none of, keeps its digits.
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Bson::Int64(n),
            (None, Some(n)) => Bson::String(n.to_string()),
            (None, None) => Bson::Double(n.as_f64().unwrap_or_default()),
        },
        Json::String(s) => Bson::String(s.clone()),
        Json::Array(a) => Bson::Array(a.iter().map(free_form_value).collect()),
        Json::Object(o) => Bson::Document(free_form(o)),
    }
}

/// The field `attachments`.
pub fn attachments(attachments: &[Attachment]) -> Vec<Document> {
    let one = |a: &Attachment| {
        let mut d = doc! {"type": a.kind.as_str()};
        if let Some(url) = &a.url {
            d.insert("url", url.as_str());
        }
        if let Some(description) = &a.file_description {
            d.insert("file_description", description.as_str());
        }
        if let Some(payload) = &a.payload {
            d.insert("payload", free_form_value(payload));
        }
        if !a.extra.is_empty() {
            d.insert("extra", free_form(&a.extra));
        }
        d
    };
    attachments.iter().map(one).collect()
}

/// The field `delivery`.
pub fn delivery(delivery: &Delivery) -> Document {
    let at = |at: Option<Timestamp>| at.map_or(Bson::Null, |at| date(at).into());
    let mut document = doc! {
        "state": delivery.state.as_str(),
        "attempts": i64::from(delivery.attempts),
        "last_error": delivery.last_error.clone().map_or(Bson::Null, Bson::String),
        "next_attempt_at": at(delivery.next_attempt_at),
        "delivered_at": at(delivery.delivered_at),
    };
    if let Some(id) = &delivery.external_message_id {
        document.insert("external_message_id", id.as_str());
    }
    document
}

/// Reads fields. An error names the field that was wrong.
pub struct Fields<'a>(pub &'a Document);

impl Fields<'_> {
    pub fn bad(&self, field: &str) -> BadDocument {
        BadDocument(format!(
            "{field} of {}",
            self.0.get("_id").unwrap_or(&Bson::Null)
        ))
    }

    pub fn id(&self, field: &str) -> Result<Id, BadDocument> {
        self.0
            .get_object_id(field)
            .map(id)
            .map_err(|_| self.bad(field))
    }

    pub fn text(&self, field: &str) -> Result<&str, BadDocument> {
        self.0.get_str(field).map_err(|_| self.bad(field))
    }

    pub fn parsed<T, E>(
        &self,
        field: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, BadDocument> {
        parse(self.text(field)?).map_err(|_| self.bad(field))
    }

    pub fn maybe<T, E>(
        &self,
        field: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, BadDocument> {
        match self.0.get(field) {
            None | Some(Bson::Null) => Ok(None),
            Some(_) => self.parsed(field, parse).map(Some),
        }
    }

    pub fn at(&self, field: &str) -> Result<Timestamp, BadDocument> {
        self.0
            .get_datetime(field)
            .map(|d| timestamp(*d))
            .map_err(|_| self.bad(field))
    }

    pub fn maybe_at(&self, field: &str) -> Option<Timestamp> {
        self.0.get_datetime(field).ok().map(|d| timestamp(*d))
    }
}

/// The result of one call to the bot.
pub fn attempt(step: &MessageDelivery, company: ObjectId, seq: u64, at: Timestamp) -> Document {
    let delivery = &step.delivery;
    doc! {
        "_id": long(seq),
        "message_id": oid(step.message_id),
        "company_id": company,
        "at": date(at),
        "attempt": i64::from(delivery.attempts),
        "state": delivery.state.as_str(),
        "status": step.status.map(i32::from),
        "duration_ms": step.duration_ms.map(long),
        "error": delivery.last_error.as_deref(),
        "next_attempt_at": delivery.next_attempt_at.map(date),
    }
}

/// A contact. Optional parts have the names of the JSON, and dates are dates.
pub fn contact(contact: &Contact, seq: u64) -> Document {
    let text = |t: &Option<contract::domain::ShortText>| t.as_ref().map(|t| t.as_str().to_owned());
    let mut document = doc! {
        "_id": oid(contact.id),
        "company_id": oid(contact.company_id),
        "fullName": contact.full_name.as_str(),
        "botSuspended": contact.bot_suspended,
        "created_at": date(contact.created_at),
        "seq": long(seq),
    };
    let social = SOCIAL
        .iter()
        .zip(social_ids(&contact.social))
        .filter_map(|(k, v)| Some(((*k).to_owned(), Bson::String(text(v)?))));
    document.insert("social", social.collect::<Document>());
    document.insert("profile", profile(&contact.profile));
    let optional = [
        (
            "email",
            contact.email.as_ref().map(|e| e.as_str().to_owned()),
        ),
        ("phone", text(&contact.phone)),
        ("socialNetworkName", text(&contact.social_network_name)),
        ("contactStatus", text(&contact.contact_status)),
        ("leadStage", text(&contact.lead_stage)),
    ];
    document.extend(
        optional
            .into_iter()
            .filter_map(|(k, v)| Some((k.to_owned(), Bson::String(v?)))),
    );
    if let Some(until) = contact.bot_suspend_until {
        document.insert("botSuspendUntil", date(until));
    }
    if !contact.extra.is_empty() {
        document.insert("extra", free_form(&contact.extra));
    }
    document
}

/// Names of the fields in `social`.
const SOCIAL: [&str; 4] = ["facebookId", "instagramId", "telegramId", "whatsappId"];

/// The name of the field in `social` with a platform's id; `None` if the platform has no ids.
pub fn social_field(platform: Platform) -> Option<&'static str> {
    let [facebook, instagram, telegram, whatsapp] = SOCIAL;
    match platform {
        Platform::Facebook => Some(facebook),
        Platform::Instagram => Some(instagram),
        Platform::Telegram => Some(telegram),
        Platform::Whatsapp => Some(whatsapp),
        Platform::Web | Platform::Other => None,
    }
}

fn social_ids(social: &Social) -> [&Option<ShortText>; 4] {
    [
        &social.facebook_id,
        &social.instagram_id,
        &social.telegram_id,
        &social.whatsapp_id,
    ]
}

fn profile(profile: &Profile) -> Document {
    let mut document = free_form(&profile.rest);
    if let Some(name) = &profile.name {
        document.insert("name", name.as_str());
    }
    document
}

/// Reads until when the bot is silent for a contact.
///
/// # Errors
/// [`BadDocument`]
pub fn read_resumable(document: &Document) -> Result<Resumable, BadDocument> {
    let f = Fields(document);
    Ok(Resumable {
        company_id: f.id("company_id")?,
        contact_id: f.id("_id")?,
        until: f.at("botSuspendUntil")?,
    })
}

/// The fields that an edit sets, as paths of at most two names. Null removes a field.
pub fn contact_edit(patch: &ContactPatch) -> Vec<(String, Bson)> {
    fn text<T>(given: &Option<Option<T>>, write: impl Fn(&T) -> Bson) -> Option<Bson> {
        given
            .as_ref()
            .map(|value| value.as_ref().map_or(Bson::Null, write))
    }
    let short = |given: &Option<Option<ShortText>>| text(given, |t| t.as_str().into());
    let s = &patch.social;
    let social = SOCIAL.iter().zip([
        &s.facebook_id,
        &s.instagram_id,
        &s.telegram_id,
        &s.whatsapp_id,
    ]);
    let fields = [
        (
            "fullName",
            patch.full_name.as_ref().map(|t| t.as_str().into()),
        ),
        ("email", text(&patch.email, |e| e.as_str().into())),
        ("phone", short(&patch.phone)),
        ("socialNetworkName", short(&patch.social_network_name)),
        ("contactStatus", short(&patch.contact_status)),
        ("leadStage", short(&patch.lead_stage)),
        ("botSuspended", patch.bot_suspended.map(Bson::Boolean)),
        (
            "botSuspendUntil",
            text(&patch.bot_suspend_until, |at| date(*at).into()),
        ),
        ("profile", patch.profile.as_ref().map(|p| profile(p).into())),
    ];
    let fields = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    fields
        .chain(social.filter_map(|(name, given)| Some((format!("social.{name}"), short(given)?))))
        .collect()
}
