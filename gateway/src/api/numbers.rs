//! Numbers and flags of requests in the ways in which clients write them. What their absence means is
//! said in `field`.

use serde_json::{Number, Value};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};

use super::field_error::FieldErrorKind;

/// The digits of a number as they were written. Whole numbers that would be rounded are texts
/// already, see `json_text`; `None` for others that are not exact.
pub fn digits(number: &Number) -> Option<String> {
    /// The first whole number whose neighbour a floating-point number cannot tell from it.
    const EXACT_BELOW: f64 = 9_007_199_254_740_992.0;
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(float) if float.abs() >= EXACT_BELOW => None,
        Some(float) if float.fract() == 0.0 => Some((float as i64).to_string()),
        _ => Some(number.to_string()).filter(|text| !text.contains('e')),
    }
}

/// Reads true or false; null and an empty text are false.
pub fn flag(value: &Value) -> Result<bool, FieldErrorKind> {
    let text = match value {
        Value::Null => return Ok(false),
        Value::Bool(flag) => return Ok(*flag),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_ascii_lowercase(),
        Value::Array(_) | Value::Object(_) => String::from("?"),
    };
    match text.as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" | "" => Ok(false),
        _ => Err(FieldErrorKind::NotA("true or false")),
    }
}

/// Reads a number, or a text with one, because a query string has only texts.
pub fn whole_number(value: &Value, min: u64, max: u64) -> Result<u64, FieldErrorKind> {
    let given = match value {
        // JSON knows one kind of number: 10.0 is a whole one.
        Value::Number(number) => number.as_u64().or_else(|| {
            number
                .as_f64()
                .filter(|number| number.fract() == 0.0 && *number >= 0.0)
                .map(|number| number as u64)
        }),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    given
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| format!("must be a whole number from {min} to {max}").into())
}

/// The schema of [`whole_number`].
pub fn whole_number_schema(min: u64, max: u64) -> ObjectBuilder {
    let format = match i32::try_from(max) {
        Ok(_) => KnownFormat::Int32,
        Err(_) => KnownFormat::Int64,
    };
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(format)))
        .minimum(Some(min as usize))
        .maximum(Some(max as usize))
}
