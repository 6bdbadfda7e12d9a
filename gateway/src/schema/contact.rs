//! Contacts.

use contract::domain::{Contact, ShortText};
use contract::query::ContactPage;
use contract::{Id, Timestamp};
use utoipa::ToSchema;

use super::text::{MaybeEmail, MaybeText};

/// A contact to enter.
#[derive(ToSchema)]
#[schema(example = json!({"fullName": "Ada Brown", "phone": "+49 170 1234567", "social": {"facebookId": "1784"}}))]
pub struct NewContact {
    company_id: Option<Id>,
    #[serde(rename = "fullName")]
    full_name: ShortText,
    #[serde(flatten)]
    fields: ContactFields,
}

/// An edit of a contact: what is not given stays, null removes.
#[derive(ToSchema)]
#[schema(example = json!({"leadStage": "won", "botSuspended": true, "botSuspendUntil": "2026-11-23T08:00:00Z"}))]
pub struct ContactEdit {
    company_id: Option<Id>,
    #[serde(rename = "fullName")]
    #[schema(required = false)]
    full_name: ShortText,
    #[serde(flatten)]
    fields: ContactFields,
}

/// The fields of a contact that may be absent; an empty text is the same as null.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContactFields {
    email: Option<MaybeEmail>,
    phone: Option<MaybeText>,
    /// The name on the network they came from.
    social_network_name: Option<MaybeText>,
    contact_status: Option<MaybeText>,
    lead_stage: Option<MaybeText>,
    /// The bot is silent for them …
    bot_suspended: Option<bool>,
    /// … until then.
    bot_suspend_until: Option<Timestamp>,
    /// Ids on the networks; in an edit each by itself.
    social: Option<SocialIds>,
    /// A name and whatever else is known, at most 16 KiB; an edit replaces it whole.
    profile: Option<NewProfile>,
}

/// A contact's ids on the networks.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SocialIds {
    facebook_id: Option<MaybeText>,
    instagram_id: Option<MaybeText>,
    telegram_id: Option<MaybeText>,
    whatsapp_id: Option<MaybeText>,
}

/// What is known of a contact.
#[derive(ToSchema)]
pub struct NewProfile {
    name: Option<MaybeText>,
}

/// A page of contacts.
#[derive(ToSchema)]
pub struct ContactList {
    #[serde(flatten)]
    page: ContactPage,
    limit: u32,
    skip: u32,
}

/// One contact.
#[derive(ToSchema)]
pub struct OneContact {
    contact: Contact,
}
