//! What requests under `/auth` hold.

use contract::domain::{Email, InvalidText, ShortText, StaffRole};
use serde_json::Value;
use utoipa::openapi::{RefOr, Schema};

use crate::api::declare::body;
use crate::api::field::{Described, Description, Field, Scalar, text_alone};
use crate::api::field_error::FieldErrorKind;
use crate::api::field_reader::FieldReader;
use crate::api::schema::{Components, having_a, text, with_any_of};
use crate::auth::PASSWORD_BYTES;

body! {
    /// A new company with its first manager; or, with an `invitation` in place of `company_name`,
    /// one more of a company's staff.
    pub struct RegistrationBody {
        /// From `POST /auth/invitations`; good for the invited email.
        invitation: Option<String>,
        company_name: FounderName,
        full_name as "fullName": ShortText,
        email: Email,
        /// 8 to 72 bytes: bcrypt reads no more.
        password: NewPassword,
    }
    example {
        "company_name": "Happy Paws",
        "fullName": "Bo Boss",
        "email": "boss@example.com",
        "password": "correct horse battery",
    }
    schema |schema| with_any_of(schema, [
        having_a("company_name", text()),
        having_a("invitation", text()),
    ])
}

body! {
    /// Who logs in.
    pub struct Credentials {
        email: Email,
        password: String,
    }
    example { "email": "boss@example.com", "password": "correct horse battery" }
}

body! {
    /// The refresh token; in cookie mode it comes as the cookie `refreshToken`, and `X-CSRF-Token`
    /// with it.
    pub struct RefreshBody {
        refresh_token as "refreshToken": String,
    }
    example { "refreshToken": "eyJhbGciOiJIUzI1NiJ9.…" }
}

body! {
    /// The refresh token, where its session is another than the access token's.
    pub struct LogoutBody {
        refresh_token as "refreshToken": Option<String>,
    }
    example {}
}

body! {
    /// Whom to invite.
    pub struct InvitationBody {
        email: Email,
        role: StaffRole,
    }
    example { "email": "ada@example.com", "role": "receptionist" }
}

/// The name of a new company. With an `invitation` it is not looked at.
pub struct FounderName;

impl Field for FounderName {
    type Value = Option<ShortText>;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<Option<ShortText>> {
        match reader.has("invitation") {
            true => Some(None),
            false => ShortText::read(reader, name).map(Some),
        }
    }

    fn components(into: &mut Components) {
        <ShortText as Field>::components(into);
    }
}

impl Described for FounderName {
    fn describe() -> Description {
        Option::<ShortText>::describe()
    }
}

/// A password to be kept.
pub struct NewPassword(pub String);

impl Scalar for NewPassword {
    fn from_text(text: &str) -> Result<NewPassword, FieldErrorKind> {
        match PASSWORD_BYTES.contains(&text.len()) {
            true if text.contains('\0') => Err(FieldErrorKind::invalid(InvalidText::Control)),
            true => Ok(NewPassword(text.to_owned())),
            false => Err("must be 8 to 72 bytes long".into()),
        }
    }

    fn from_json(value: &Value) -> Result<NewPassword, FieldErrorKind> {
        text_alone(value)
    }

    /// Texts of ASCII, because the document can only count characters.
    fn schema() -> RefOr<Schema> {
        text()
            .min_length(Some(*PASSWORD_BYTES.start()))
            .max_length(Some(*PASSWORD_BYTES.end()))
            .pattern(Some("^[ -~]*$"))
            .into()
    }
}
