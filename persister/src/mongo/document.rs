//! The form of documents in MongoDB, and the way back to the contract's types. Makes no query and no
//! write.

use contract::domain::{
    Attachment, Company, Contact, ContactPatch, Delivery, Integration, Message, Platform, Profile,
    Provider, Sealed, ShortText, SlaTargets, Social, StaffRole, User,
};
use contract::event::{Idempotency, MessageDelivery};
use contract::query::{IntegrationView, RefreshError, Resumable};
use contract::{Id, Timestamp};
use mongodb::bson::{Bson, DateTime, Document, doc, oid::ObjectId};
use serde_json::Value as Json;

use crate::fold::sla::{Change, Targets};

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
struct Fields<'a>(&'a Document);

impl Fields<'_> {
    fn bad(&self, field: &str) -> BadDocument {
        BadDocument(format!(
            "{field} of {}",
            self.0.get("_id").unwrap_or(&Bson::Null)
        ))
    }

    fn id(&self, field: &str) -> Result<Id, BadDocument> {
        self.0
            .get_object_id(field)
            .map(id)
            .map_err(|_| self.bad(field))
    }

    fn text(&self, field: &str) -> Result<&str, BadDocument> {
        self.0.get_str(field).map_err(|_| self.bad(field))
    }

    fn parsed<T, E>(
        &self,
        field: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, BadDocument> {
        parse(self.text(field)?).map_err(|_| self.bad(field))
    }

    fn maybe<T, E>(
        &self,
        field: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, BadDocument> {
        match self.0.get(field) {
            None | Some(Bson::Null) => Ok(None),
            Some(_) => self.parsed(field, parse).map(Some),
        }
    }

    fn at(&self, field: &str) -> Result<Timestamp, BadDocument> {
        self.0
            .get_datetime(field)
            .map(|d| timestamp(*d))
            .map_err(|_| self.bad(field))
    }

    fn maybe_at(&self, field: &str) -> Option<Timestamp> {
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

/// A company as it registered, without its `_id`. The company's targets are added beside these
/// fields.
pub fn company(company: &Company, seq: u64) -> Document {
    doc! {"name": company.name.as_str(), "created_at": date(company.created_at), "seq": long(seq)}
}

/// An entry of a company's field `sla`.
pub fn targets(targets: SlaTargets, seq: u64, at: Timestamp) -> Document {
    let SlaTargets {
        delivery_seconds,
        first_response_seconds,
    } = targets;
    doc! {
        "seq": long(seq),
        "at": date(at),
        "delivery_seconds": i64::from(delivery_seconds),
        "first_response_seconds": i64::from(first_response_seconds),
    }
}

/// The field `sla` of a company, which may be absent.
pub fn read_targets(company: &Document) -> Targets {
    let change = |entry: &Bson| {
        let entry = entry.as_document()?;
        let seconds = |name: &str| u32::try_from(entry.get_i64(name).ok()?).ok();
        let targets = SlaTargets {
            delivery_seconds: seconds("delivery_seconds")?,
            first_response_seconds: seconds("first_response_seconds")?,
        };
        Some(Change {
            seq: entry.get_i64("seq").ok()?,
            at: entry.get_datetime("at").ok()?.timestamp_millis(),
            targets,
        })
    };
    Targets::of(
        company
            .get_array("sla")
            .map(|changes| changes.iter().filter_map(change).collect())
            .unwrap_or_default(),
    )
}

/// A whole company, with its present targets.
///
/// # Errors
/// [`BadDocument`]
pub fn read_company(document: &Document) -> Result<Company, BadDocument> {
    let f = Fields(document);
    let name = f.parsed("name", ShortText::new)?;
    Ok(Company {
        id: f.id("_id")?,
        name,
        created_at: f.at("created_at")?,
        sla: read_targets(document).current(),
    })
}

/// The `_id` of a company's access to a platform.
pub fn integration_id(company: Id, provider: Provider) -> String {
    format!("{company}:{provider}")
}

/// A company's access to a platform. A removed integration leaves its sequence, so that an older
/// change cannot bring the integration back.
pub fn integration(integration: &Integration, seq: u64) -> Document {
    let text = |t: &Option<ShortText>| t.as_ref().map(|t| t.as_str().to_owned());
    let mut document = doc! {
        "company_id": oid(integration.company_id),
        "platform": integration.provider.as_str(),
        "updated_at": date(integration.updated_at),
        "seq": long(seq),
    };
    let optional = [
        ("account_id", text(&integration.account_id)),
        ("account_name", text(&integration.account_name)),
    ];
    document.extend(
        optional
            .into_iter()
            .filter_map(|(k, v)| Some((k.to_owned(), Bson::String(v?)))),
    );
    for (name, token) in [
        ("access_token", &integration.access_token),
        ("refresh_token", &integration.refresh_token),
    ] {
        if let Some(Sealed { key_id, sealed }) = token {
            document.insert(name, doc! {"key_id": key_id, "sealed": sealed});
        }
    }
    if let Some(at) = integration.token_expires_at {
        document.insert("token_expires_at", date(at));
    }
    document
}

/// A whole integration, with the failure to renew its token, if there is one.
///
/// # Errors
/// [`BadDocument`]
pub fn read_integration(
    document: &Document,
    failure: Option<&Document>,
) -> Result<IntegrationView, BadDocument> {
    let f = Fields(document);
    let seq = document.get_i64("seq").map_err(|_| f.bad("seq"))?;
    // A failure that is older than the token is of an earlier token.
    let failure = failure
        .map(Fields)
        .filter(|failure| failure.0.get_i64("seq").is_ok_and(|failed| failed > seq));
    let refresh_error = failure
        .as_ref()
        .map(|f| {
            Ok(RefreshError {
                error: f.text("error")?.to_owned(),
                at: f.at("at")?,
            })
        })
        .transpose()?;
    let seq = failure
        .and_then(|f| f.0.get_i64("seq").ok())
        .unwrap_or(seq)
        .max(0) as u64;
    let integration = read_access(document)?;
    let changed_at = refresh_error
        .as_ref()
        .map_or(integration.updated_at, |e| e.at);
    Ok(IntegrationView {
        integration,
        refresh_error,
        seq,
        changed_at,
    })
}

fn read_access(document: &Document) -> Result<Integration, BadDocument> {
    let f = Fields(document);
    Ok(Integration {
        company_id: f.id("company_id")?,
        provider: f.parsed("platform", str::parse)?,
        account_id: f.maybe("account_id", ShortText::new)?,
        account_name: f.maybe("account_name", ShortText::new)?,
        access_token: read_token(&f, "access_token")?,
        refresh_token: read_token(&f, "refresh_token")?,
        token_expires_at: f.maybe_at("token_expires_at"),
        updated_at: f.at("updated_at")?,
    })
}

fn read_token(f: &Fields<'_>, field: &str) -> Result<Option<Sealed>, BadDocument> {
    let Some(token) = f.0.get(field) else {
        return Ok(None);
    };
    let token = Fields(token.as_document().ok_or_else(|| f.bad(field))?);
    Ok(Some(Sealed {
        key_id: token.text("key_id")?.to_owned(),
        sealed: token.text("sealed")?.to_owned(),
    }))
}

/// A member of staff.
pub fn user(user: &User, seq: u64) -> Document {
    doc! {
        "_id": oid(user.id),
        "company_id": oid(user.company_id),
        "email": user.email.as_str(),
        "fullName": user.full_name.as_str(),
        "role": staff_role(user.role),
        "password_hash": &user.password_hash,
        "created_at": date(user.created_at),
        "seq": long(seq),
    }
}

fn staff_role(role: StaffRole) -> &'static str {
    match role {
        StaffRole::Manager => "manager",
        StaffRole::Receptionist => "receptionist",
    }
}

/// A whole member of staff.
///
/// # Errors
/// [`BadDocument`]
pub fn read_user(document: &Document) -> Result<User, BadDocument> {
    use contract::domain::Email;
    let f = Fields(document);
    let role = match f.text("role")? {
        "manager" => StaffRole::Manager,
        "receptionist" => StaffRole::Receptionist,
        _ => return Err(f.bad("role")),
    };
    Ok(User {
        id: f.id("_id")?,
        company_id: f.id("company_id")?,
        email: f.parsed("email", Email::new)?,
        full_name: f.parsed("fullName", ShortText::new)?,
        role,
        password_hash: f.text("password_hash")?.to_owned(),
        created_at: f.at("created_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::event::{Envelope, Event};

    fn golden(kind: &str) -> Event {
        let file = format!(
            "{}/../nats/golden/{kind}.v1.json",
            env!("CARGO_MANIFEST_DIR")
        );
        Envelope::from_json(&std::fs::read(file).unwrap())
            .unwrap()
            .event
    }

    #[test]
    fn documents_are_read_back_as_they_were_written() {
        let Event::CompanyCreated(c) = golden("company.created") else {
            panic!()
        };
        assert_eq!(read_user(&user(&c.manager, 7)).unwrap(), c.manager);
        let mut as_registered = company(&c.company, 7);
        as_registered.insert("_id", oid(c.company.id));
        assert_eq!(read_company(&as_registered).unwrap(), c.company);
        let chosen = SlaTargets {
            delivery_seconds: 5,
            first_response_seconds: 6,
        };
        as_registered.insert(
            "sla",
            vec![
                targets(chosen, 9, Timestamp::from_millis(5)),
                targets(SlaTargets::default(), 8, Timestamp::from_millis(6)),
            ],
        );
        assert_eq!(read_company(&as_registered).unwrap().sla, chosen);
        let Event::IntegrationUpdated(i) = golden("integration.updated") else {
            panic!()
        };
        let entered = integration(&i, 7);
        let view = read_integration(&entered, None).unwrap();
        assert_eq!(
            (&view.integration, view.seq, view.changed_at),
            (&i, 7, i.updated_at)
        );
        // A failure from before the token was entered is left out.
        for (failed, seq) in [(6_i64, 7), (9, 9)] {
            let failure = doc! {"error": "HTTP 400", "at": DateTime::from_millis(5), "seq": failed};
            let view = read_integration(&entered, Some(&failure)).unwrap();
            assert_eq!(
                (view.integration, view.refresh_error.is_some(), view.seq),
                (i.clone(), failed > 7, seq)
            );
        }
    }
}
