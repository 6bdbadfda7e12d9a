//! What is wrong with one field of a request. How the problem document shows it is in `problem`.

use std::borrow::Cow;
use std::fmt;

use contract::id::BadId;

/// One field that is missing or wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// A path such as `attachments[1].url`.
    pub field: String,
    pub kind: FieldErrorKind,
}

/// Why a field is refused. Its text reads as the end of "`field` …".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// The field is absent or null.
    Missing,
    /// The text is not an id.
    BadId,
    /// The JSON value has another type than this one, such as `a string`.
    NotA(&'static str),
    /// The field exists and does not change.
    Immutable,
    /// The value breaks a rule, which the text says.
    Invalid(Cow<'static, str>),
}

impl FieldErrorKind {
    /// The value breaks the rule that a parser's error names.
    pub fn invalid(error: impl fmt::Display) -> FieldErrorKind {
        FieldErrorKind::Invalid(error.to_string().into())
    }
}

impl fmt::Display for FieldErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldErrorKind::Missing => f.write_str("is required"),
            FieldErrorKind::BadId => BadId.fmt(f),
            FieldErrorKind::NotA(kind) => write!(f, "must be {kind}"),
            FieldErrorKind::Immutable => f.write_str("cannot be changed"),
            FieldErrorKind::Invalid(why) => f.write_str(why),
        }
    }
}

impl From<&'static str> for FieldErrorKind {
    fn from(why: &'static str) -> FieldErrorKind {
        FieldErrorKind::Invalid(why.into())
    }
}

impl From<String> for FieldErrorKind {
    fn from(why: String) -> FieldErrorKind {
        FieldErrorKind::Invalid(why.into())
    }
}
