//! The fields of a contact, as a body gives them. Read the same way for a new contact and for an
//! edit: a new one is an edit of nothing. Null, or an empty text, removes a field.

use contract::domain::{Contact, ContactPatch, Email, Profile, ShortText, Social, SocialPatch};
use contract::{Id, Timestamp};
use serde_json::{Map, Value};

use crate::api::field_reader::Fields;
use crate::api::problem::Problem;

/// Largest profile, as JSON.
const PROFILE_BYTES: usize = 16 * 1024;

/// What a body says of a contact.
pub fn read(f: &mut Fields<'_>) -> ContactPatch {
    ContactPatch {
        full_name: f.optional("fullName", ShortText::new),
        email: f.given("email", Email::new),
        phone: f.given("phone", ShortText::new),
        social_network_name: f.given("socialNetworkName", ShortText::new),
        contact_status: f.given("contactStatus", ShortText::new),
        lead_stage: f.given("leadStage", ShortText::new),
        bot_suspended: f.flag("botSuspended"),
        bot_suspend_until: f.nullable("botSuspendUntil", str::parse::<Timestamp>),
        social: read_social(f),
        profile: read_profile(f),
    }
}

/// A new contact of these fields.
pub fn contact(fields: ContactPatch, company_id: Id, now: Timestamp) -> Result<Contact, Problem> {
    let social = fields.social;
    Ok(Contact {
        id: Id::generate(now),
        company_id,
        full_name: fields
            .full_name
            .ok_or_else(|| Problem::field("fullName", "is required"))?,
        email: fields.email.flatten(),
        phone: fields.phone.flatten(),
        social_network_name: fields.social_network_name.flatten(),
        contact_status: fields.contact_status.flatten(),
        lead_stage: fields.lead_stage.flatten(),
        bot_suspended: fields.bot_suspended.unwrap_or_default(),
        bot_suspend_until: fields.bot_suspend_until.flatten(),
        social: Social {
            facebook_id: social.facebook_id.flatten(),
            instagram_id: social.instagram_id.flatten(),
            telegram_id: social.telegram_id.flatten(),
            whatsapp_id: social.whatsapp_id.flatten(),
        },
        profile: fields.profile.unwrap_or_default(),
        created_at: now,
        extra: Map::new(),
    })
}

fn read_social(f: &mut Fields<'_>) -> SocialPatch {
    if f.is_null("social") {
        return SocialPatch {
            facebook_id: Some(None),
            instagram_id: Some(None),
            telegram_id: Some(None),
            whatsapp_id: Some(None),
        };
    }
    let read = |s: &mut Fields<'_>| SocialPatch {
        facebook_id: s.given("facebookId", ShortText::new),
        instagram_id: s.given("instagramId", ShortText::new),
        telegram_id: s.given("telegramId", ShortText::new),
        whatsapp_id: s.given("whatsappId", ShortText::new),
    };
    f.inside("social", read).unwrap_or_default()
}

fn read_profile(f: &mut Fields<'_>) -> Option<Profile> {
    if f.is_null("profile") {
        return Some(Profile::default());
    }
    let object = f.object("profile")?;
    if Value::Object(object.clone()).to_string().len() > PROFILE_BYTES {
        f.wrong(
            "profile",
            format!("must have at most {PROFILE_BYTES} bytes as JSON"),
        );
        return None;
    }
    if has_nul_key(object) {
        f.wrong("profile", "must not have names with NUL characters");
        return None;
    }
    let name = f
        .inside("profile", |p| p.non_empty("name", ShortText::new))
        .flatten();
    let rest = object
        .iter()
        .filter(|(k, _)| *k != "name")
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    Some(Profile { name, rest })
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
    object
        .iter()
        .any(|(name, value)| name.contains('\0') || inside(value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn try_read(body: Value) -> Result<ContactPatch, Problem> {
        let mut f = Fields::of(body.as_object().unwrap());
        let fields = read(&mut f);
        f.finish().map(|()| fields)
    }

    #[test]
    fn absent_fields_stay_and_null_ones_go() {
        let patch =
            try_read(json!({"email": null, "phone": "", "leadStage": " won ", "botSuspended": null, "social": {"facebookId": null}}))
                .unwrap();
        assert_eq!(
            (patch.email, patch.phone, patch.contact_status),
            (Some(None), Some(None), None)
        );
        assert_eq!(patch.lead_stage.flatten().unwrap().as_str(), "won");
        assert_eq!(patch.bot_suspended, Some(false));
        assert_eq!(
            (
                patch.social.facebook_id,
                patch.social.instagram_id,
                patch.profile
            ),
            (Some(None), None, None)
        );
        assert_eq!(try_read(json!({})).unwrap(), ContactPatch::default());
        let cleared = try_read(json!({"social": null, "profile": null})).unwrap();
        assert_eq!(
            (cleared.social.whatsapp_id, cleared.profile),
            (Some(None), Some(Profile::default()))
        );
    }

    #[test]
    fn every_wrong_field_is_named() {
        let Err(Problem::Validation(errors)) = try_read(json!({
            "fullName": " ", "email": "x", "phone": 5, "botSuspended": "yes", "botSuspendUntil": "tomorrow", "social": {"facebookId": {"$gt": ""}}, "profile": [],
        })) else {
            panic!("accepted")
        };
        let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "fullName",
                "email",
                "phone",
                "botSuspended",
                "botSuspendUntil",
                "social.facebookId",
                "profile"
            ]
        );
    }

    #[test]
    fn a_new_contact_needs_a_name() {
        let (company, now) = (Id::from_bytes([1; 12]), Timestamp::from_millis(0));
        assert!(matches!(
            contact(try_read(json!({"email": "a@b.c"})).unwrap(), company, now),
            Err(Problem::Validation(_))
        ));
        let new = contact(
            try_read(json!({"fullName": "Ada", "social": {"telegramId": "7"}})).unwrap(),
            company,
            now,
        )
        .unwrap();
        assert_eq!(
            (
                new.full_name.as_str(),
                new.social.telegram_id.unwrap().as_str(),
                new.bot_suspended
            ),
            ("Ada", "7", false)
        );
    }
}
