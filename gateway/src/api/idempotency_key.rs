//! The header `Idempotency-Key`: a caller's name for a request, under which the request can be sent
//! again. What a repetition is answered is decided where the request is handled.

use axum::http::{HeaderMap, HeaderValue};
use contract::event::Idempotency;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};

use super::problem::Problem;
use crate::auth::Caller;

/// The name of the header.
const NAME: &str = "Idempotency-Key";
/// The most characters of a key. A longer key is refused.
const KEY_CHARS: usize = 255;
/// The bytes that are kept of the digest of a body.
const FINGERPRINT_BYTES: usize = 16;

/// Reads the key of a request, if the request has one.
///
/// # Errors
/// The key is not 1 to [`KEY_CHARS`] visible ASCII characters.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(NAME) else {
        return Ok(None);
    };
    let key = value.to_str().map(str::trim).unwrap_or_default();
    match (1..=KEY_CHARS).contains(&key.len()) && key.bytes().all(|c| c.is_ascii_graphic()) {
        true => Ok(Some(key)),
        false => Err(Problem::field(
            NAME,
            format!("must have 1 to {KEY_CHARS} visible ASCII characters"),
        )),
    }
}

/// The header in the OpenAPI document. `text` says what the key does for the operation.
pub fn parameter(text: &str) -> Parameter {
    let key = ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
        .min_length(Some(1))
        .max_length(Some(KEY_CHARS))
        .pattern(Some("^[!-~]+$"));
    ParameterBuilder::new()
        .name(NAME)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(text))
        .schema(Some(key))
        .build()
}
/// Tells the client that the answer is that of an earlier request.
pub fn say_replayed(headers: &mut HeaderMap) {
    headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
}

/// What the event of a request remembers of it: the key of this caller, and a digest of the body.
/// Otherwise the same key with another body would pass for a repetition.
pub fn idempotency(caller: &Caller, key: &str, body: &Map<String, Value>) -> Idempotency {
    let mut digest = Sha256::new();
    digest_object(&mut digest, body);
    Idempotency {
        key: format!("{}:{key}", caller_name(caller)),
        fingerprint: hex(&digest.finalize()[..FINGERPRINT_BYTES]),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Digests an object. The order of its names makes no difference. Kind and length tell every part
/// from its neighbours.
fn digest_object(digest: &mut Sha256, object: &Map<String, Value>) {
    let mut names: Vec<(&String, &Value)> = object.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    digest.update(format!("object {} ", names.len()));
    for (name, value) in names {
        digest_text(digest, name);
        digest_value(digest, value);
    }
}

fn digest_value(digest: &mut Sha256, value: &Value) {
    match value {
        Value::Object(object) => digest_object(digest, object),
        Value::Array(list) => {
            digest.update(format!("list {} ", list.len()));
            list.iter().for_each(|value| digest_value(digest, value));
        }
        Value::String(text) => digest_text(digest, text),
        scalar => digest.update(format!("{scalar} ")),
    }
}

fn digest_text(digest: &mut Sha256, text: &str) {
    digest.update(format!("text {} ", text.len()));
    digest.update(text);
    digest.update(" ");
}

/// The part of a key that tells callers apart. Because two members of staff may choose the same
/// key, each has keys of their own. All internal services are one caller, so their keys must
/// differ.
fn caller_name(caller: &Caller) -> String {
    match caller {
        Caller::Staff { user, .. } => user.to_string(),
        Caller::Service => "service".into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(key: &[u8]) -> Result<Option<String>, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(NAME, HeaderValue::from_bytes(key).unwrap());
        idempotency_key(&headers).map(|key| key.map(str::to_owned))
    }

    #[test]
    fn the_fingerprint_is_of_the_content_and_not_of_its_order() {
        let of =
            |body: &str| idempotency(&Caller::Service, "k", &serde_json::from_str(body).unwrap());
        let first = of(r#"{"a": 1, "b": {"c": 2, "d": 3}}"#);
        assert_eq!(first, of(r#"{"b": {"d": 3, "c": 2}, "a": 1}"#));
        assert_ne!(first, of(r#"{"a": 1, "b": {"c": 2, "d": 4}}"#));
        assert_eq!(first.key, "service:k");
    }

    #[test]
    fn a_key_is_visible_and_of_bounded_length() {
        assert_eq!(read(b" a#1 "), Ok(Some("a#1".into())));
        assert_eq!(idempotency_key(&HeaderMap::new()), Ok(None));
        for bad in ["", "  ", "é", &"x".repeat(KEY_CHARS + 1)] {
            assert!(
                matches!(read(bad.as_bytes()), Err(Problem::Validation(_))),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_key_that_is_read_is_visible_and_bounded(key in "[ -~\\x80-\\xff]{0,300}") {
            if let Ok(Some(key)) = read(key.as_bytes()) {
                prop_assert!((1..=KEY_CHARS).contains(&key.len()));
                prop_assert!(key.bytes().all(|c| c.is_ascii_graphic()));
            }
        }

        #[test]
        fn every_visible_key_is_read_as_it_is(key in "[!-~]{1,255}") {
            prop_assert_eq!(read(key.as_bytes()), Ok(Some(key)));
        }
    }
}
