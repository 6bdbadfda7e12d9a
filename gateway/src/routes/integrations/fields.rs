//! What requests about integrations hold. Google needs a body of its own, because its access tokens
//! are fetched with a refresh token.

use contract::domain::{Provider, ShortText};
use contract::{Id, Timestamp};
use secrecy::SecretString;
use serde_json::Value;
use utoipa::openapi::{RefOr, Schema};

use crate::api::declare::{body, path_parameter};
use crate::api::field::{Body, NonEmpty, Scalar, text_alone};
use crate::api::field_error::FieldErrorKind;
use crate::api::field_reader::FieldReader;
use crate::api::schema::text;

/// The most characters of a token. A longer one is refused.
const TOKEN_CHARS: usize = 4_096;

body! {
    /// A company's access to a platform.
    pub struct IntegrationBody {
        company_id: Option<Id>,
        /// Stored encrypted; no answer holds it.
        access_token: Token,
        /// The page or account on the platform that the token is for.
        account_id: NonEmpty<ShortText>,
        account_name: NonEmpty<ShortText>,
        /// When the platform stops taking the token.
        token_expires_at: Option<Timestamp>,
    }
    example {
        "access_token": "EAAB-the-page-token",
        "account_id": "1020",
        "account_name": "Happy Paws",
    }
}

body! {
    /// A company's access to Google.
    pub struct GoogleBody {
        company_id: Option<Id>,
        /// Without one the first is fetched within minutes. Likewise stored encrypted.
        access_token: Option<Token>,
        /// From Google's consent page, which is the frontend's matter. Stored encrypted; no answer
        /// holds it.
        refresh_token: Token,
        /// Whose account it is.
        account_id: NonEmpty<ShortText>,
        account_name: NonEmpty<ShortText>,
        /// When Google stops taking the access token.
        token_expires_at: Option<Timestamp>,
    }
    example { "refresh_token": "1//the-refresh-token", "account_name": "clinic@example.com" }
}

path_parameter! {
    /// Upper and lower case are the same.
    pub struct ProviderInPath { platform: Channel }
}

/// The provider that a path names.
pub struct Channel(pub Provider);

impl Scalar for Channel {
    fn from_text(text: &str) -> Result<Channel, FieldErrorKind> {
        let provider = text.trim().to_lowercase().parse();
        provider.map(Channel).map_err(FieldErrorKind::invalid)
    }

    /// Google is left out, because its path stands in the document by itself.
    fn schema() -> RefOr<Schema> {
        let channels = Provider::ALL
            .iter()
            .filter(|provider| **provider != Provider::Google);
        text()
            .description(Some("Platforms that give access by an access token alone."))
            .enum_values(Some(channels.map(|provider| provider.as_str())))
            .into()
    }
}

/// A token of a provider: one word. An error does not quote it.
pub struct Token(pub SecretString);

impl Scalar for Token {
    fn from_text(text: &str) -> Result<Token, FieldErrorKind> {
        let text = text.trim();
        let is_word = text.bytes().all(|c| c.is_ascii_graphic());
        match (1..=TOKEN_CHARS).contains(&text.len()) && is_word {
            true => Ok(Token(text.into())),
            false => Err(format!("must have 1 to {TOKEN_CHARS} visible ASCII characters").into()),
        }
    }

    fn from_json(value: &Value) -> Result<Token, FieldErrorKind> {
        text_alone(value)
    }

    fn schema() -> RefOr<Schema> {
        text()
            .min_length(Some(1))
            .max_length(Some(TOKEN_CHARS))
            .pattern(Some("^[!-~]+$"))
            .into()
    }
}

/// What both bodies come to.
pub struct Access {
    pub company_id: Option<Id>,
    pub access_token: Option<SecretString>,
    pub refresh_token: Option<SecretString>,
    pub account_id: Option<ShortText>,
    pub account_name: Option<ShortText>,
    /// When the provider stops taking the access token.
    pub token_expires_at: Option<Timestamp>,
}

impl Access {
    /// Reads the body for a provider, and notes everything that is wrong.
    pub fn read(reader: &mut FieldReader<'_>, provider: Provider) -> Option<Access> {
        if provider == Provider::Google {
            return GoogleBody::read(reader).map(Access::from);
        }
        if reader.has("refresh_token") {
            reader.wrong("refresh_token", format!("{provider} has none"));
        }
        IntegrationBody::read(reader).map(Access::from)
    }
}

impl From<IntegrationBody> for Access {
    fn from(body: IntegrationBody) -> Access {
        Access {
            company_id: body.company_id,
            access_token: Some(body.access_token.0),
            refresh_token: None,
            account_id: body.account_id,
            account_name: body.account_name,
            token_expires_at: body.token_expires_at,
        }
    }
}

impl From<GoogleBody> for Access {
    fn from(body: GoogleBody) -> Access {
        let token_expires_at = body.access_token.as_ref().and(body.token_expires_at);
        Access {
            company_id: body.company_id,
            access_token: body.access_token.map(|Token(token)| token),
            refresh_token: Some(body.refresh_token.0),
            account_id: body.account_id,
            account_name: body.account_name,
            token_expires_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::problem::Problem;

    fn wrong_fields(provider: Provider, body: Value) -> Vec<String> {
        let mut reader = FieldReader::new(body.as_object().unwrap());
        let access = Access::read(&mut reader, provider);
        match reader.finish(access) {
            Err(Problem::Validation(errors)) => errors.into_iter().map(|e| e.field).collect(),
            Err(other) => panic!("{other:?}"),
            Ok(_) => Vec::new(),
        }
    }

    #[test]
    fn tokens_are_visible_characters_within_bounds() {
        assert!(Token::from_text(" EAAB-x_1 ").is_ok());
        assert!(Token::from_text(&"x".repeat(TOKEN_CHARS)).is_ok());
        for bad in ["", " ", "a b", "a\nb", "é", &"x".repeat(TOKEN_CHARS + 1)] {
            assert!(Token::from_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_provider_is_known_by_its_name_in_any_case() {
        let of = |name| Channel::from_text(name).map(|Channel(provider)| provider);
        assert_eq!(of("FaceBook"), Ok(Provider::Facebook));
        for bad in ["web", "Other", "", "x"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn google_needs_a_refresh_token_and_the_others_have_none() {
        let (access, refresh) = (json!({"access_token": "a"}), json!({"refresh_token": "r"}));
        let none: [&str; 0] = [];
        assert_eq!(wrong_fields(Provider::Facebook, access.clone()), none);
        assert_eq!(wrong_fields(Provider::Google, refresh.clone()), none);
        assert_eq!(wrong_fields(Provider::Google, access), ["refresh_token"]);
        assert_eq!(
            wrong_fields(Provider::Facebook, refresh),
            ["refresh_token", "access_token"]
        );
    }
}
