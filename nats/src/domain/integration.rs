//! A company's access to a platform. The token is here only in its sealed form; sealing is the runtime's.

use serde::{Deserialize, Serialize};

use super::message::Platform;
use super::text::ShortText;
use crate::{Id, Timestamp};

/// The access that one company has to one platform. Also the data of `integration.updated`. The answer to a client leaves
/// `access_token` out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Integration {
    /// The tenant.
    pub company_id: Id,
    /// The channel; a company has one integration a platform.
    pub platform: Platform,
    /// The page, business account or bot on the platform that the token is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<ShortText>,
    /// Its name there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_name: Option<ShortText>,
    /// What the platform wants with every call.
    pub access_token: Sealed,
    /// When the platform stops taking it, where it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires_at: Option<Timestamp>,
    /// When it was entered or last replaced.
    pub updated_at: Timestamp,
}

/// A secret under authenticated encryption, as log and database keep it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The key that it is sealed with, by its id in `ENCRYPTION_KEYS`.
    pub key_id: String,
    /// Nonce and ciphertext, Base64.
    pub sealed: String,
}
