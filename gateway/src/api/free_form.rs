//! JSON in requests whose fields the API does not know: a `payload`, and whatever else a channel
//! sends beside the fields that are declared. It is kept as it came, up to a bound.

use serde_json::{Map, Value};
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, SchemaType, Type};

use super::field::{Described, Description, Field};
use super::field_error::FieldErrorKind;
use super::field_reader::FieldReader;
use super::schema::{AnyValue, Components, component, reference};

/// The most bytes of one payload, and of the unknown fields of one object together, as JSON. What
/// goes beyond is refused by its name.
pub const FREE_FORM_BYTES: usize = 16 * 1024;

/// Any JSON value; null is the same as absence.
pub struct Payload;

impl Field for Payload {
    type Value = Option<Value>;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<Option<Value>> {
        let value = match reader.value(name) {
            None | Some(Value::Null) => return Some(None),
            Some(value) => value,
        };
        reader.checked(name, acceptable(value, &mut 0))?;
        Some(Some(value.clone()))
    }

    fn components(into: &mut Components) {
        component::<AnyValue>(into);
    }
}

impl Described for Payload {
    fn describe() -> Description {
        // Null is one of the values already.
        Description {
            is_required: false,
            ..Description::required(reference::<AnyValue>())
        }
    }
}

/// The fields of an object that are not declared, and those of its field `extra`. It is declared
/// last, because only then it is known what nobody has asked for.
pub struct Extra;

impl Field for Extra {
    type Value = Map<String, Value>;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<Map<String, Value>> {
        let given = match reader.value(name) {
            None | Some(Value::Null) => None,
            Some(Value::Object(given)) => Some(given),
            Some(_) => {
                reader.wrong(name, FieldErrorKind::NotA("an object"));
                return None;
            }
        };
        let mut bytes = 0;
        let mut kept = Map::new();
        let mut is_good = true;
        let given = given.into_iter().flatten().map(|field| (true, field));
        for (is_nested, (field, value)) in
            given.chain(reader.unasked().into_iter().map(|f| (false, f)))
        {
            bytes += field.len();
            match acceptable(value, &mut bytes).and_then(|()| acceptable_name(field)) {
                Ok(()) => {
                    kept.insert(field.clone(), value.clone());
                }
                Err(why) => {
                    is_good = false;
                    match is_nested {
                        true => reader.wrong(&format!("{name}.{field}"), why),
                        false => reader.wrong(field, why),
                    }
                }
            }
        }
        is_good.then_some(kept)
    }

    fn components(into: &mut Components) {
        component::<AnyValue>(into);
    }
}

impl Described for Extra {
    fn describe() -> Description {
        let schema = ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
            .additional_properties(Some(AdditionalProperties::from(reference::<AnyValue>())));
        Description::optional(schema.into())
    }
}

/// The bytes of a value as JSON.
pub fn bytes(value: &Value) -> usize {
    value.to_string().len()
}

/// Whether a value can be kept beside others, which have `before` bytes. Adds its own.
fn acceptable(value: &Value, before: &mut usize) -> Result<(), FieldErrorKind> {
    *before += bytes(value);
    if *before > FREE_FORM_BYTES {
        return Err(format!(
            "is one of the fields that the API does not know, which must have at most \
             {FREE_FORM_BYTES} bytes as JSON"
        )
        .into());
    }
    match has_nul_name(value) {
        true => Err(NUL_NAME.into()),
        false => Ok(()),
    }
}

fn acceptable_name(name: &str) -> Result<(), FieldErrorKind> {
    match name.contains('\0') {
        true => Err(NUL_NAME.into()),
        false => Ok(()),
    }
}

const NUL_NAME: &str = "must not have names with NUL characters";

/// Whether a name at any depth has a NUL, which a BSON document cannot have in a name.
pub fn has_nul_name(value: &Value) -> bool {
    match value {
        Value::Object(object) => object
            .iter()
            .any(|(name, value)| name.contains('\0') || has_nul_name(value)),
        Value::Array(list) => list.iter().any(has_nul_name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::declare::body;
    use crate::api::field::Body;
    use crate::api::problem::Problem;

    body! {
        struct Known {
            name: Option<contract::domain::ShortText>,
            payload: Payload,
            extra: Extra,
        }
    }

    fn read(object: &Value) -> Result<Value, Vec<String>> {
        match Known::from_object(object.as_object().unwrap()) {
            Ok(Known {
                name: _name,
                payload,
                extra,
            }) => Ok(json!([payload, extra])),
            Err(Problem::Validation(errors)) => Err(errors.into_iter().map(|e| e.field).collect()),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_declared_is_kept() {
        for (object, kept) in [
            (json!({"name": "a"}), json!([null, {}])),
            (json!({"payload": null, "extra": null}), json!([null, {}])),
            (
                json!({"payload": {"url": 1}, "id": 7, "$x": [{}], "name": null}),
                json!([{"url": 1}, {"id": 7, "$x": [{}]}]),
            ),
            // What was read before, and is sent again, stays as it is.
            (
                json!({"extra": {"id": 7}, "to": null}),
                json!([null, {"id": 7, "to": null}]),
            ),
            (
                json!({"payload": "GET_STARTED"}),
                json!(["GET_STARTED", {}]),
            ),
        ] {
            assert_eq!(read(&object), Ok(kept), "{object}");
        }
    }

    #[test]
    fn what_is_too_much_is_refused_by_its_name() {
        let half = "x".repeat(FREE_FORM_BYTES / 2);
        let whole = "x".repeat(FREE_FORM_BYTES);
        for (object, names) in [
            (json!({"payload": whole}), vec!["payload"]),
            (json!({"a": whole}), vec!["a"]),
            (json!({"a": half, "b": half}), vec!["b"]),
            (json!({"a": half, "extra": {"c": half}}), vec!["a"]),
            (json!({"extra": {"c": whole}}), vec!["extra.c"]),
            (json!({"extra": 5}), vec!["extra"]),
            (
                json!({"payload": {"a": [{"b\0": 1}]}, "c": {"d\0": 1}, "e\0": 1}),
                vec!["payload", "c", "e\0"],
            ),
        ] {
            let mut wrong = read(&object).unwrap_err();
            wrong.sort_unstable();
            let mut names = names;
            names.sort_unstable();
            assert_eq!(wrong, names);
        }
    }
}
