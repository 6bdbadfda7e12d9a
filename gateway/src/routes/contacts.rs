//! `/contacts`: enter one, look at one.

use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::Response;
use nats::domain::{Contact, Email, Profile, ShortText, Social};
use nats::event::Event;
use nats::query::GetContact;
use nats::runtime::query::QueryError;
use nats::{Id, Timestamp};
use serde_json::{Map, Value, json};

use super::Call;
use super::messages::company_in;
use crate::auth::Caller;
use crate::http::{JsonObject, json, raw_json};
use crate::log::Log;
use crate::problem::Problem;
use crate::validate::{Fields, non_empty, path_id};

/// Largest profile, as JSON.
const PROFILE_BYTES: usize = 16 * 1024;

/// `POST /contacts`
pub async fn create(Call { log, caller, trace }: Call, JsonObject(body): JsonObject) -> Result<Response, Problem> {
    let now = Timestamp::now();
    let contact = read(&body, &caller, now)?;
    let (id, company) = (contact.id, contact.company_id);
    let envelope = Log::envelope(&caller, company, Event::ContactCreated(Box::new(contact)), now);
    let receipt = log.publish(&envelope, id.to_string(), None, trace).await?;
    let Event::ContactCreated(contact) = envelope.event else { return Err(Problem::Internal) };
    Ok(json(StatusCode::CREATED, json!({"message": "Contact created successfully", "contact": contact, "seq": receipt.seq})))
}

/// `GET /contacts/{id}`
pub async fn get(
    Call { log, caller, trace }: Call,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    let question = GetContact { company_id: caller.company(company_in(&query)?)?, id: path_id(&id)? };
    let answer = log.ask_raw(&question, trace).await.map_err(|e| match e {
        QueryError::NotFound => Problem::NotFound("contact"),
        other => other.into(),
    })?;
    Ok(raw_json(StatusCode::OK, r#"{"contact":"#, &answer, "}"))
}

fn read(body: &Map<String, Value>, caller: &Caller, now: Timestamp) -> Result<Contact, Problem> {
    let mut f = Fields::of(body);
    let company = f.optional("company_id", str::parse::<Id>);
    let full_name = f.required("fullName", ShortText::new);
    let email = f.optional("email", non_empty(Email::new)).flatten();
    let mut text = |name: &str| f.optional(name, non_empty(ShortText::new)).flatten();
    let (phone, social_network_name, contact_status, lead_stage) =
        (text("phone"), text("socialNetworkName"), text("contactStatus"), text("leadStage"));
    let bot_suspended = f.flag("botSuspended");
    let bot_suspend_until = f.optional("botSuspendUntil", str::parse::<Timestamp>);
    let social = f.inside("social", |s| {
        let mut text = |name: &str| s.optional(name, non_empty(ShortText::new)).flatten();
        Social {
            facebook_id: text("facebookId"),
            instagram_id: text("instagramId"),
            telegram_id: text("telegramId"),
            whatsapp_id: text("whatsappId"),
        }
    });
    let profile = read_profile(&mut f);
    f.finish()?;
    Ok(Contact {
        id: Id::generate(now),
        company_id: caller.company(company)?,
        full_name: full_name.ok_or(Problem::Internal)?, // finish() has refused its absence
        email,
        phone,
        social_network_name,
        contact_status,
        lead_stage,
        bot_suspended,
        bot_suspend_until,
        social: social.unwrap_or_default(),
        profile,
        created_at: now,
        extra: Map::new(),
    })
}

fn read_profile(f: &mut Fields<'_>) -> Profile {
    let Some(object) = f.object("profile") else { return Profile::default() };
    if Value::Object(object.clone()).to_string().len() > PROFILE_BYTES {
        f.wrong("profile", format!("must have at most {PROFILE_BYTES} bytes as JSON"));
        return Profile::default();
    }
    if has_nul_key(object) {
        f.wrong("profile", "must not have names with NUL characters");
        return Profile::default();
    }
    let name = f.inside("profile", |p| p.optional("name", non_empty(ShortText::new)).flatten()).flatten();
    let rest = object.iter().filter(|(k, _)| *k != "name").map(|(k, v)| (k.clone(), v.clone())).collect();
    Profile { name, rest }
}

/// Names that a BSON document cannot have.
fn has_nul_key(object: &Map<String, Value>) -> bool {
    fn inside(value: &Value) -> bool {
        match value {
            Value::Object(object) => has_nul_key(object),
            Value::Array(list) => list.iter().any(inside),
            _ => false,
        }
    }
    object.iter().any(|(name, value)| name.contains('\0') || inside(value))
}
