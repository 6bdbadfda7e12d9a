//! A company's access to the platforms.

use contract::{Id, Timestamp};
use utoipa::ToSchema;

use super::text::MaybeText;

/// A company's access to a platform.
#[derive(ToSchema)]
#[schema(example = json!({"access_token": "EAAB-the-page-token", "account_id": "1020", "account_name": "Happy Paws"}))]
pub struct IntegrationBody {
    company_id: Option<Id>,
    /// Stored encrypted; no answer holds it.
    #[schema(min_length = 1, max_length = 4_096, pattern = "^[!-~]+$")]
    access_token: String,
    /// The page or account on the platform that the token is for.
    account_id: Option<MaybeText>,
    account_name: Option<MaybeText>,
    /// When the platform stops taking the token.
    token_expires_at: Option<Timestamp>,
}

/// A company's access to Google.
#[derive(ToSchema)]
#[schema(example = json!({"refresh_token": "1//the-refresh-token", "account_name": "clinic@example.com"}))]
pub struct GoogleBody {
    company_id: Option<Id>,
    /// From Google's consent page, which is the frontend's matter. Stored encrypted; no answer
    /// holds it.
    #[schema(min_length = 1, max_length = 4_096, pattern = "^[!-~]+$")]
    refresh_token: String,
    /// Without one the first is fetched within minutes. Likewise stored encrypted.
    #[schema(min_length = 1, max_length = 4_096, pattern = "^[!-~]+$")]
    access_token: Option<String>,
    /// Whose account it is.
    account_id: Option<MaybeText>,
    account_name: Option<MaybeText>,
    /// When Google stops taking the access token.
    token_expires_at: Option<Timestamp>,
}

/// Platforms that give access by an access token alone.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum ChannelProvider {
    Instagram,
    Facebook,
    Telegram,
    Whatsapp,
}
