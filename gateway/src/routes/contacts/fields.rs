//! The fields of a contact, as a body gives them. They are read the same way for a new contact and
//! for an edit, because a new contact is an edit of nothing.

use contract::domain::{Contact, ContactPatch, Email, Profile, ShortText, Social, SocialPatch};
use contract::{Id, Timestamp};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa::openapi::schema::AdditionalProperties;
use utoipa::openapi::{Ref, Schema};

use crate::api::declare::body;
use crate::api::field::{
    Body, Described, Description, Field, Flag, NonEmpty, Nullable, NullableText,
};
use crate::api::field_error::FieldErrorKind;
use crate::api::field_reader::FieldReader;
use crate::api::free_form::has_nul_name;
use crate::api::schema::{AnyValue, Components, component, names, reference};

/// The most bytes of a profile as JSON. A larger profile is refused.
const PROFILE_BYTES: usize = 16 * 1024;

body! {
    /// The fields of a contact that may be absent; an empty text is the same as null.
    pub struct ContactFields {
        email: NullableText<Email>,
        phone: NullableText<ShortText>,
        /// The name on the network they came from.
        social_network_name as "socialNetworkName": NullableText<ShortText>,
        contact_status as "contactStatus": NullableText<ShortText>,
        lead_stage as "leadStage": NullableText<ShortText>,
        /// The bot is silent for them …
        bot_suspended as "botSuspended": Flag,
        /// … until then.
        bot_suspend_until as "botSuspendUntil": Nullable<Timestamp>,
        /// Ids on the networks; in an edit each by itself.
        social: SocialField,
        /// A name and whatever else is known, at most 16 KiB; an edit replaces it whole.
        profile: ProfileField,
    }
}

body! {
    /// A contact's ids on the networks.
    pub struct SocialIds {
        facebook_id as "facebookId": NullableText<ShortText>,
        instagram_id as "instagramId": NullableText<ShortText>,
        telegram_id as "telegramId": NullableText<ShortText>,
        whatsapp_id as "whatsappId": NullableText<ShortText>,
    }
}

body! {
    /// What is known of a contact.
    pub struct NewProfile {
        name: NonEmpty<ShortText>,
    }
    schema |schema| with_any_other_field(schema)
}

impl ContactFields {
    /// The edit that sets these fields and, if given, the name.
    pub fn patch(self, full_name: Option<ShortText>) -> ContactPatch {
        ContactPatch {
            full_name,
            email: self.email,
            phone: self.phone,
            social_network_name: self.social_network_name,
            contact_status: self.contact_status,
            lead_stage: self.lead_stage,
            bot_suspended: self.bot_suspended,
            bot_suspend_until: self.bot_suspend_until,
            social: self.social,
            profile: self.profile,
        }
    }

    /// What a contact is called whose name nobody knows: a name that it goes by, else an id on a
    /// network, an address or a number. `None` if nothing of that is given.
    pub fn stand_in(&self) -> Option<ShortText> {
        fn given(field: &Option<Option<ShortText>>) -> Option<&ShortText> {
            field.as_ref()?.as_ref()
        }
        let SocialPatch {
            facebook_id,
            instagram_id,
            telegram_id,
            whatsapp_id,
        } = &self.social;
        let of_profile = self
            .profile
            .as_ref()
            .and_then(|profile| profile.name.as_ref());
        let email = self.email.as_ref().and_then(Option::as_ref);
        let email = email.and_then(|email| ShortText::new(email.as_str()).ok());
        of_profile
            .or(given(&self.social_network_name))
            .or(given(facebook_id))
            .or(given(instagram_id))
            .or(given(telegram_id))
            .or(given(whatsapp_id))
            .cloned()
            .or(email)
            .or_else(|| given(&self.phone).cloned())
    }

    /// A new contact of these fields.
    pub fn contact(self, full_name: ShortText, company_id: Id, now: Timestamp) -> Contact {
        Contact {
            id: Id::generate(now),
            company_id,
            full_name,
            email: self.email.flatten(),
            phone: self.phone.flatten(),
            social_network_name: self.social_network_name.flatten(),
            contact_status: self.contact_status.flatten(),
            lead_stage: self.lead_stage.flatten(),
            bot_suspended: self.bot_suspended.unwrap_or_default(),
            bot_suspend_until: self.bot_suspend_until.flatten(),
            social: Social {
                facebook_id: self.social.facebook_id.flatten(),
                instagram_id: self.social.instagram_id.flatten(),
                telegram_id: self.social.telegram_id.flatten(),
                whatsapp_id: self.social.whatsapp_id.flatten(),
            },
            profile: self.profile.unwrap_or_default(),
            created_at: now,
            extra: Map::new(),
        }
    }
}

impl From<SocialIds> for SocialPatch {
    fn from(ids: SocialIds) -> SocialPatch {
        SocialPatch {
            facebook_id: ids.facebook_id,
            instagram_id: ids.instagram_id,
            telegram_id: ids.telegram_id,
            whatsapp_id: ids.whatsapp_id,
        }
    }
}

/// [`SocialIds`]: absent means that all ids stay, null removes all.
pub struct SocialField;

impl Field for SocialField {
    type Value = SocialPatch;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<SocialPatch> {
        match reader.value(name) {
            None => Some(SocialPatch::default()),
            Some(Value::Null) => Some(SocialPatch {
                facebook_id: Some(None),
                instagram_id: Some(None),
                telegram_id: Some(None),
                whatsapp_id: Some(None),
            }),
            Some(Value::Object(object)) => reader
                .nested(format_args!("{name}"), object, SocialIds::read)
                .map(SocialPatch::from),
            Some(_) => {
                reader.wrong(name, FieldErrorKind::NotA("an object"));
                None
            }
        }
    }

    fn components(into: &mut Components) {
        component::<SocialIds>(into);
    }
}

impl Described for SocialField {
    fn describe() -> Description {
        Description::optional(reference::<SocialIds>())
    }
}

/// [`NewProfile`], whole: absent means that the profile stays, null removes all of it.
pub struct ProfileField;

impl Field for ProfileField {
    type Value = Option<Profile>;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<Option<Profile>> {
        let object = match reader.value(name) {
            None => return Some(None),
            Some(Value::Null) => return Some(Some(Profile::default())),
            Some(Value::Object(object)) => object,
            Some(_) => {
                reader.wrong(name, FieldErrorKind::NotA("an object"));
                return None;
            }
        };
        if Value::Object(object.clone()).to_string().len() > PROFILE_BYTES {
            reader.wrong(
                name,
                format!("must have at most {PROFILE_BYTES} bytes as JSON"),
            );
            return None;
        }
        if object
            .iter()
            .any(|(name, value)| name.contains('\0') || has_nul_name(value))
        {
            reader.wrong(name, "must not have names with NUL characters");
            return None;
        }
        let known = reader.nested(format_args!("{name}"), object, NewProfile::read)?;
        let rest = object
            .iter()
            .filter(|(name, _)| *name != "name")
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        Some(Some(Profile {
            name: known.name,
            rest,
        }))
    }

    fn components(into: &mut Components) {
        component::<NewProfile>(into);
        component::<AnyValue>(into);
    }
}

impl Described for ProfileField {
    fn describe() -> Description {
        Description::optional(reference::<NewProfile>())
    }
}

fn with_any_other_field(profile: Schema) -> Schema {
    match profile {
        Schema::Object(mut object) => {
            let any = Ref::from_schema_name(AnyValue::name());
            object.property_names = Some(Box::new(names().into()));
            object.additional_properties = Some(Box::new(AdditionalProperties::from(any)));
            object.into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::problem::Problem;

    fn read(body: Value) -> Result<ContactFields, Problem> {
        ContactFields::from_object(body.as_object().unwrap())
    }

    fn patch(body: Value) -> ContactPatch {
        read(body).unwrap().patch(None)
    }

    #[test]
    fn absent_fields_stay_and_null_or_empty_ones_are_removed() {
        let changed = patch(json!({
            "email": null, "phone": "", "leadStage": " won ", "botSuspended": null,
            "social": {"facebookId": null},
        }));
        assert_eq!(
            (changed.email, changed.phone, changed.contact_status),
            (Some(None), Some(None), None)
        );
        assert_eq!(changed.lead_stage.flatten().unwrap().as_str(), "won");
        assert_eq!(changed.bot_suspended, Some(false));
        assert_eq!(
            (changed.social.facebook_id, changed.social.instagram_id),
            (Some(None), None)
        );
        assert_eq!(changed.profile, None);
        assert_eq!(patch(json!({})), ContactPatch::default());
        let cleared = patch(json!({"social": null, "profile": null}));
        assert_eq!(
            (cleared.social.whatsapp_id, cleared.profile),
            (Some(None), Some(Profile::default()))
        );
    }

    #[test]
    fn every_wrong_field_is_named_by_its_path() {
        let Err(Problem::Validation(errors)) = read(json!({
            "email": "x", "phone": true, "botSuspended": "perhaps", "botSuspendUntil": "tomorrow",
            "social": {"facebookId": {"$gt": ""}}, "profile": [],
        })) else {
            panic!("accepted")
        };
        let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
        let named = [
            "email",
            "phone",
            "botSuspended",
            "botSuspendUntil",
            "social.facebookId",
            "profile",
        ];
        assert_eq!(fields, named);
    }

    #[test]
    fn a_profile_is_bounded_and_keeps_what_it_does_not_know() {
        let read = |profile: Value| read(json!({ "profile": profile }));
        let profile = read(json!({"name": " Ada ", "pets": [{"dog": 1}]})).unwrap();
        let profile = profile.profile.unwrap();
        assert_eq!(profile.name.unwrap().as_str(), "Ada");
        assert_eq!(profile.rest["pets"], json!([{"dog": 1}]));
        for bad in [
            json!({"name": [5]}),
            json!({"a": [{"b\0": 1}]}),
            json!({"a": "x".repeat(PROFILE_BYTES)}),
        ] {
            assert!(matches!(read(bad), Err(Problem::Validation(_))));
        }
    }

    #[test]
    fn ids_and_phones_are_taken_as_numbers() {
        let changed = patch(json!({
            "phone": 491701234567_i64, "botSuspended": "true", "botSuspendUntil": 1794452400,
            "social": {"telegramId": 123456789, "instagramId": "17841400008460056123"},
        }));
        assert_eq!(changed.phone.flatten().unwrap().as_str(), "491701234567");
        assert_eq!(changed.bot_suspended, Some(true));
        assert!(changed.bot_suspend_until.flatten().is_some());
        assert_eq!(
            changed.social.telegram_id.flatten().unwrap().as_str(),
            "123456789"
        );
        let id = changed.social.instagram_id.flatten().unwrap();
        assert_eq!(id.as_str(), "17841400008460056123");
    }

    #[test]
    fn something_stands_in_for_a_name_that_nobody_knows() {
        for (body, name) in [
            (
                json!({"social": {"instagramId": "17841400000000000"}}),
                Some("17841400000000000"),
            ),
            (
                json!({"social": {"telegramId": 7}, "socialNetworkName": "@ada"}),
                Some("@ada"),
            ),
            (
                json!({"socialNetworkName": "@ada", "profile": {"name": "Ada"}}),
                Some("Ada"),
            ),
            (
                json!({"phone": "+49 170", "email": "A@b.example"}),
                Some("a@b.example"),
            ),
            (json!({"phone": "+49 170"}), Some("+49 170")),
            (json!({"leadStage": "new", "social": {}, "email": ""}), None),
            (json!({}), None),
        ] {
            let stand_in = read(body.clone()).unwrap().stand_in();
            assert_eq!(stand_in.as_ref().map(ShortText::as_str), name, "{body}");
        }
    }

    #[test]
    fn a_new_contact_has_its_fields_and_nothing_else() {
        let fields = read(json!({"social": {"telegramId": "7"}})).unwrap();
        let name = ShortText::new("Ada").unwrap();
        let new = fields.contact(name, Id::from_bytes([1; 12]), Timestamp::from_millis(0));
        assert_eq!(new.full_name.as_str(), "Ada");
        assert_eq!(new.social.telegram_id.unwrap().as_str(), "7");
        assert!(!new.bot_suspended && new.email.is_none());
    }
}
