//! Contacts: a company's customers. Knows no message.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::text::{Email, ShortText};
use crate::{Id, Timestamp};

/// A customer of one company. Also the data of `contact.created`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Contact {
    /// Made by the gateway; the conversation's id too.
    #[serde(rename = "_id")]
    pub id: Id,
    /// The tenant.
    #[serde(rename = "company_id")]
    pub company_id: Id,
    /// The whole name.
    pub full_name: ShortText,
    /// Email.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    /// Phone, as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<ShortText>,
    /// The name on the network they came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub social_network_name: Option<ShortText>,
    /// The company's own word for where things stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact_status: Option<ShortText>,
    /// Where they stand in the sale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lead_stage: Option<ShortText>,
    /// The bot is silent for them.
    #[serde(default)]
    pub bot_suspended: bool,
    /// Until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bot_suspend_until: Option<Timestamp>,
    /// Their ids on the networks.
    #[serde(default)]
    pub social: Social,
    /// What is known of them.
    #[serde(default)]
    pub profile: Profile,
    /// When they were entered.
    #[serde(rename = "created_at")]
    pub created_at: Timestamp,
    /// Fields that a newer build has added: kept, not understood.
    #[serde(flatten)]
    #[cfg_attr(feature = "schema", schema(ignore))]
    pub extra: Map<String, Value>,
}

/// A contact's ids on the networks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Social {
    /// Page-scoped id on Facebook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facebook_id: Option<ShortText>,
    /// Id on Instagram.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instagram_id: Option<ShortText>,
    /// Id on Telegram.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telegram_id: Option<ShortText>,
    /// Id on WhatsApp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whatsapp_id: Option<ShortText>,
}

impl Social {
    /// The contact's id on a platform; `None` if the contact has none there.
    pub fn on(&self, platform: super::Platform) -> Option<&ShortText> {
        use super::Platform::{Facebook, Instagram, Other, Telegram, Web, Whatsapp};
        match platform {
            Facebook => self.facebook_id.as_ref(),
            Instagram => self.instagram_id.as_ref(),
            Telegram => self.telegram_id.as_ref(),
            Whatsapp => self.whatsapp_id.as_ref(),
            Web | Other => None,
        }
    }

    /// All ids, each with its platform.
    pub fn ids(&self) -> impl Iterator<Item = (super::Platform, &ShortText)> {
        super::Platform::ALL
            .iter()
            .filter_map(|platform| Some((*platform, self.on(*platform)?)))
    }
}

/// What is known of a contact beyond the schema: at least a name, else whatever the bot has learnt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Profile {
    /// The name they go by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ShortText>,
    /// The rest, as it came.
    #[serde(flatten)]
    #[cfg_attr(feature = "schema", schema(ignore))]
    pub rest: Map<String, Value>,
}

/// The fields of a contact that an edit changes. Outer `None` leaves a field as it is, inner `None`
/// removes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContactPatch {
    /// A new name. A name cannot be removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_name: Option<ShortText>,
    /// The email address.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub email: Option<Option<Email>>,
    /// The phone number, as it was written.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub phone: Option<Option<ShortText>>,
    /// The name on the network that the contact came from.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub social_network_name: Option<Option<ShortText>>,
    /// The company's own word for the state of the contact.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub contact_status: Option<Option<ShortText>>,
    /// The stage of the sale.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub lead_stage: Option<Option<ShortText>>,
    /// Whether the bot is to be silent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bot_suspended: Option<bool>,
    /// When the bot is to speak again.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub bot_suspend_until: Option<Option<Timestamp>>,
    /// The ids on the networks. Each id is changed by itself.
    #[serde(skip_serializing_if = "SocialPatch::is_empty")]
    pub social: SocialPatch,
    /// A new profile, which replaces the old one whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
}

/// The ids on the networks that an edit changes, as in [`ContactPatch`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SocialPatch {
    /// The page-scoped id on Facebook.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub facebook_id: Option<Option<ShortText>>,
    /// The id on Instagram.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub instagram_id: Option<Option<ShortText>>,
    /// The id on Telegram.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub telegram_id: Option<Option<ShortText>>,
    /// The id on WhatsApp.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub whatsapp_id: Option<Option<ShortText>>,
}

impl SocialPatch {
    /// The ids that this edit sets.
    pub fn ids_set(&self) -> Social {
        Social {
            facebook_id: self.facebook_id.clone().flatten(),
            instagram_id: self.instagram_id.clone().flatten(),
            telegram_id: self.telegram_id.clone().flatten(),
            whatsapp_id: self.whatsapp_id.clone().flatten(),
        }
    }

    fn is_empty(&self) -> bool {
        *self == SocialPatch::default()
    }
}

/// Reads a field that is present, even as null. An absent field is `None`.
fn given<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
