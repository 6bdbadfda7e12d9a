//! How the contract's types stand in fields of requests.

use std::str::FromStr;

use contract::domain::{
    Content, Direction, Email, ExternalId, Platform, Role, ShortText, StaffRole, Url,
};
use contract::query::Cursor;
use contract::{Id, Timestamp};
use serde_json::Value;
use utoipa::openapi::{Ref, RefOr, Schema};

use super::field::{MaybeEmpty, Scalar, text_alone};
use super::field_error::FieldErrorKind;
use super::schema::{Components, component, reference, text};

/// The schema of a [`ShortText`] or nothing.
const MAYBE_TEXT: &str = "MaybeText";
/// The schema of an [`Email`] or nothing.
const MAYBE_EMAIL: &str = "MaybeEmail";

/// Scalars that are read with a function and described by their own schema.
macro_rules! scalars {
    ($($type:ty = $read:expr,)+) => {$(
        impl $crate::api::field::Scalar for $type {
            fn from_text(text: &str) -> Result<$type, $crate::api::field_error::FieldErrorKind> {
                $read(text).map_err($crate::api::field_error::FieldErrorKind::invalid)
            }

            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                $crate::api::schema::reference::<$type>()
            }

            fn components(into: &mut $crate::api::schema::Components) {
                $crate::api::schema::component::<$type>(into);
            }
        }
    )+};
}
pub(crate) use scalars;

scalars! {
    Content = Content::new,
    Cursor = str::parse::<Cursor>,
    Direction = in_any_case::<Direction>,
    Email = Email::new,
    ExternalId = ExternalId::new,
    Platform = in_any_case::<Platform>,
    Role = in_any_case::<Role>,
    ShortText = ShortText::new,
    StaffRole = staff_role,
    Timestamp = str::parse::<Timestamp>,
    Url = Url::new,
}

impl Scalar for Id {
    fn from_text(text: &str) -> Result<Id, FieldErrorKind> {
        text.parse().map_err(|_| FieldErrorKind::BadId)
    }

    fn schema() -> RefOr<Schema> {
        reference::<Id>()
    }

    fn components(into: &mut Components) {
        component::<Id>(into);
    }
}

impl Scalar for String {
    fn from_text(text: &str) -> Result<String, FieldErrorKind> {
        Ok(text.to_owned())
    }

    fn from_json(value: &Value) -> Result<String, FieldErrorKind> {
        text_alone(value)
    }

    fn schema() -> RefOr<Schema> {
        text().into()
    }
}

/// Reads a name in which upper and lower case are the same.
pub fn in_any_case<T: FromStr>(text: &str) -> Result<T, T::Err> {
    text.parse().or_else(|_| text.trim().to_lowercase().parse())
}

fn staff_role(text: &str) -> Result<StaffRole, &'static str> {
    match text.trim().to_lowercase().as_str() {
        "manager" => Ok(StaffRole::Manager),
        "receptionist" => Ok(StaffRole::Receptionist),
        _ => Err("must be manager or receptionist"),
    }
}

impl MaybeEmpty for ShortText {
    fn schema_or_empty() -> RefOr<Schema> {
        Ref::from_schema_name(MAYBE_TEXT).into()
    }

    fn components_or_empty(into: &mut Components) {
        let schema = text()
            .description(Some("A text on one line, which may be empty."))
            .max_length(Some(1_000))
            .pattern(Some(r"^[^\u0000-\u001f\u007f-\u009f]*$"));
        into.push((MAYBE_TEXT.to_owned(), schema.into()));
    }
}

impl MaybeEmpty for Email {
    fn schema_or_empty() -> RefOr<Schema> {
        Ref::from_schema_name(MAYBE_EMAIL).into()
    }

    fn components_or_empty(into: &mut Components) {
        let form = r"^([0-9A-Za-z!#$%&'*+/=?^_`{|}~.-]+@[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$";
        let schema = text()
            .description(Some("An email address, or nothing."))
            .max_length(Some(254))
            .pattern(Some(form));
        into.push((MAYBE_EMAIL.to_owned(), schema.into()));
    }
}

impl MaybeEmpty for Cursor {
    fn schema_or_empty() -> RefOr<Schema> {
        text().pattern(Some("^([0-9a-f]{40})?$")).into()
    }
}

/// An empty platform in a query string is none, which the document does not offer.
impl MaybeEmpty for Platform {
    fn schema_or_empty() -> RefOr<Schema> {
        Platform::schema()
    }

    fn components_or_empty(into: &mut Components) {
        Platform::components(into);
    }
}
