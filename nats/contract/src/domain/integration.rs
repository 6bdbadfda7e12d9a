//! A company's access to a platform. Tokens are here only in their sealed form; the crate `runtime`
//! seals and opens them.

use serde::{Deserialize, Serialize};

use super::text::ShortText;
use crate::{Id, Timestamp};

string_enum!(
    /// What a company can be connected with. In JSON, documents and paths it is the `platform`:
    /// most are a channel of messages.
    Provider, "instagram, facebook, telegram, whatsapp, google",
    /// Instagram direct messages.
    Instagram = "instagram",
    /// Facebook Messenger.
    Facebook = "facebook",
    /// Telegram.
    Telegram = "telegram",
    /// WhatsApp.
    Whatsapp = "whatsapp",
    /// Google, by OAuth: its access tokens live for an hour and are renewed with a refresh token.
    Google = "google"
);

/// The access that one company has to one platform. Also the data of `integration.updated`. Answers
/// to clients leave the tokens out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Integration {
    /// The tenant.
    pub company_id: Id,
    /// The platform. A company has at most one integration for each.
    #[serde(rename = "platform")]
    pub provider: Provider,
    /// The page, business account or bot on the platform that the token is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<ShortText>,
    /// The account's name on the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_name: Option<ShortText>,
    /// The token that the platform wants with every call. `None` until the first one is fetched
    /// with the refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<Sealed>,
    /// The token with which a new access token is fetched. Only [`Provider::Google`] has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Sealed>,
    /// When the platform stops taking the access token; `None` if the platform does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires_at: Option<Timestamp>,
    /// When the access was entered or last replaced.
    pub updated_at: Timestamp,
}

/// A secret under authenticated encryption, as log and database keep it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The id in `ENCRYPTION_KEYS` of the key that sealed the secret.
    pub key_id: String,
    /// Nonce (24 bytes) and ciphertext, Base64.
    pub sealed: String,
}

#[cfg(test)]
mod tests {
    use super::super::Platform;

    #[test]
    fn a_platforms_provider_has_its_name_so_that_what_was_sealed_for_it_still_opens() {
        for platform in Platform::ALL {
            let provider = platform.provider().map(|provider| provider.as_str());
            assert!(
                provider.is_none_or(|name| name == platform.as_str()),
                "{platform}"
            );
        }
    }
}
