//! Texts that may be empty.

use utoipa::ToSchema;

/// A text on one line, which may be empty.
#[derive(ToSchema)]
#[schema(value_type = String, max_length = 1_000, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
pub struct MaybeText(String);

/// An email address, or nothing.
#[derive(ToSchema)]
#[schema(value_type = String, max_length = 254, pattern = r"^([0-9A-Za-z!#$%&'*+/=?^_`{|}~.-]+@[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$")]
pub struct MaybeEmail(String);
