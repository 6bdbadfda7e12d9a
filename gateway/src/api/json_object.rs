//! Parses a request body that is one JSON object. Bounds are checked while the body is parsed, so
//! that no body costs more memory than its size suggests. A name that an object gives twice is
//! refused, because two readers may disagree about which value counts. Does not know what a field
//! means: names such as `$gt` are names like others.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::json_text::mended;

/// Levels of objects and lists inside each other, the body itself counted. A deeper body is
/// refused.
const DEPTH: usize = 32;
/// Elements of one list, and names of one object. A body with more is refused.
const ENTRIES: usize = 1_000;
/// Values of all kinds in one body. The largest batch of messages has about half as many. A body
/// with more is refused.
const VALUES: usize = 100_000;

/// Parses a body that is one object. The error is a text for the client.
pub fn parse(body: &[u8]) -> Result<Map<String, Value>, String> {
    let body = mended(body);
    let mut reader = serde_json::Deserializer::from_slice(&body);
    let left = Cell::new(VALUES);
    let value = Bounded {
        levels: DEPTH,
        left: &left,
    }
    .deserialize(&mut reader)
    .map_err(|e| e.to_string())?;
    reader.end().map_err(|e| e.to_string())?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err("it must be an object".into()),
    }
}

/// Parses one value within what is left of the bounds.
#[derive(Clone, Copy)]
struct Bounded<'a> {
    levels: usize,
    left: &'a Cell<usize>,
}

impl Bounded<'_> {
    fn inside<E: Error>(self) -> Result<Self, E> {
        match self.levels.checked_sub(1) {
            Some(levels) => Ok(Bounded { levels, ..self }),
            None => Err(E::custom(format_args!(
                "it is nested deeper than {DEPTH} levels"
            ))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        let Some(left) = self.left.get().checked_sub(1) else {
            return Err(D::Error::custom(format_args!(
                "it has more than {VALUES} values"
            )));
        };
        self.left.set(left);
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(inside)? {
            if values.len() == ENTRIES {
                return Err(A::Error::custom(format_args!(
                    "a list has more than {ENTRIES} elements"
                )));
            }
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut values = Map::new();
        while let Some(name) = object.next_key::<String>()? {
            if values.len() == ENTRIES {
                return Err(A::Error::custom(format_args!(
                    "an object has more than {ENTRIES} names"
                )));
            }
            if values
                .insert(name, object.next_value_seed(inside)?)
                .is_some()
            {
                return Err(A::Error::custom("an object gives a name twice"));
            }
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn refusal(body: impl AsRef<[u8]>) -> String {
        parse(body.as_ref()).unwrap_err()
    }

    #[test]
    fn a_body_within_the_bounds_is_parsed_as_it_stands() {
        let body =
            r#"{"a":[1,-2,3.5,true,null,"é\u0000"],"$gt":{"b":{}},"big":9223372036854775807}"#;
        assert_eq!(
            Value::Object(parse(body.as_bytes()).unwrap()),
            serde_json::from_str::<Value>(body).unwrap()
        );
        let deepest = format!("{}1{}", r#"{"a":"#.repeat(DEPTH), "}".repeat(DEPTH));
        assert!(parse(deepest.as_bytes()).is_ok());
        let longest = format!(r#"{{"a":[{}1]}}"#, "1,".repeat(ENTRIES - 1));
        assert!(parse(longest.as_bytes()).is_ok());
    }

    #[test]
    fn the_error_names_the_bound_that_is_exceeded() {
        for open in [r#"{"a":"#, "["] {
            let deep = format!(r#"{{"a":{}"#, open.repeat(DEPTH));
            assert!(refusal(deep).contains("deeper than 32 levels"));
        }
        assert!(
            refusal(format!(r#"{{"a":[{}1]}}"#, "1,".repeat(ENTRIES)))
                .contains("more than 1000 elements")
        );
        let names: Vec<String> = (0..=ENTRIES).map(|i| format!(r#""{i}":1"#)).collect();
        assert!(refusal(format!("{{{}}}", names.join(","))).contains("more than 1000 names"));
        let full = format!("[{}1]", "1,".repeat(ENTRIES - 1));
        let lists = vec![full; VALUES / ENTRIES + 1].join(",");
        assert!(refusal(format!(r#"{{"a":[{lists}]}}"#)).contains("more than 100000 values"));
    }

    #[test]
    fn a_body_that_is_not_one_json_object_is_refused() {
        assert!(refusal(r#"{"a":1,"a":1}"#).contains("twice"));
        assert!(refusal(r#"{"a":1,"\u0061":2}"#).contains("twice"));
        for body in [
            &b"{\"a\":\"\xff\"}"[..],
            b"{\"\xc3\x28\":1}",
            b"{\"a\":\"\0\"}",
        ] {
            refusal(body);
        }
        for body in [
            "",
            "1",
            "[]",
            "null",
            "{",
            "{}{}",
            "{} x",
            r#"{"a":1e999}"#,
            r#"{"a":NaN}"#,
            "{'a':1}",
            r#"{"a":1,}"#,
            r#"{"a":01}"#,
        ] {
            refusal(body);
        }
    }

    #[test]
    fn a_value_that_a_parser_refuses_or_rounds_costs_no_other() {
        let body = br#"{"a":"see you \ud83d","b":[17841400008460056123,"ok"]}"#;
        let parsed = parse(body).map(Value::Object);
        let expected = json!({"a": "see you \u{fffd}", "b": ["17841400008460056123", "ok"]});
        assert_eq!(parsed, Ok(expected));
        assert!(parse(b"\xef\xbb\xbf{}").is_ok());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        scalar.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                proptest::collection::btree_map(".{0,8}", inner, 0..8)
                    .prop_map(|object| Value::Object(object.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused_without_a_panic(
            body in proptest::collection::vec(any::<u8>(), 0..256),
            text in r#"[\[\]{}":,0-9a$\\u]{0,256}"#,
        ) {
            let _ = parse(&body);
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn an_object_within_the_bounds_is_parsed_to_itself(value in any_json()) {
            let body = Value::Object([("a".to_owned(), value)].into_iter().collect());
            let parsed = parse(body.to_string().as_bytes()).map(Value::Object);
            prop_assert_eq!(parsed, Ok(body));
        }
    }
}
