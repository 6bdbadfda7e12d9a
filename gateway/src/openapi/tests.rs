//! The document changes only on purpose: `openapi.json` has a copy, which `UPDATE_GOLDEN=1 cargo
//! test -p gateway` writes anew.

use std::collections::BTreeSet;
use std::time::Duration;

use runtime::service::settings::Settings;
use serde_json::Value;

use super::*;
use crate::auth::Authenticator;
use crate::middleware::{RateLimiters, RateLimits};

fn document() -> Value {
    let authenticator = Authenticator::new(
        &"s".repeat(32).into(),
        Duration::from_secs(900),
        &"k".repeat(32).into(),
    );
    let limiters = RateLimiters::new(&RateLimits::read(&mut Settings::of([])));
    complete(crate::routes::routes(&authenticator, limiters).into_openapi()).unwrap()
}

#[test]
fn the_document_is_as_its_golden_file_says() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let now = document();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, serde_json::to_string_pretty(&now).unwrap() + "\n").unwrap();
    }
    let golden: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    if let Some(place) = first_difference(&now, &golden) {
        panic!("it differs at {place}; if that is on purpose, run with UPDATE_GOLDEN=1");
    }
}

/// The JSON pointer of the first difference, with both values.
fn first_difference(now: &Value, golden: &Value) -> Option<String> {
    match (now, golden) {
        (Value::Object(now), Value::Object(golden)) => {
            let names: BTreeSet<&String> = now.keys().chain(golden.keys()).collect();
            names.into_iter().find_map(|name| {
                let of = |object: &serde_json::Map<String, Value>| {
                    object.get(name).cloned().unwrap_or_default()
                };
                first_difference(&of(now), &of(golden)).map(|rest| format!("/{name}{rest}"))
            })
        }
        (Value::Array(now), Value::Array(golden)) if now.len() == golden.len() => {
            let pairs = now.iter().zip(golden).enumerate();
            let mut differences = pairs.filter_map(|(i, (now, golden))| {
                first_difference(now, golden).map(|rest| format!("/{i}{rest}"))
            });
            differences.next()
        }
        (now, golden) => (now != golden).then(|| format!(": {now}, not {golden}")),
    }
}

#[test]
fn every_operation_says_what_it_does_how_it_fails_and_shows_an_example_of_its_body() {
    let document = document();
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations += 1;
            assert!(
                operation["summary"].is_string() && operation["tags"].is_array(),
                "{method} {path}"
            );
            for status in ["400", "429", "503"] {
                let content = &operation["responses"][status]["content"];
                assert!(
                    content["application/problem+json"]["schema"].is_object(),
                    "{method} {path}: {status}"
                );
            }
            if let Some(body) = operation.get("requestBody") {
                let name = body["content"]["application/json"]["schema"]["$ref"]
                    .as_str()
                    .unwrap()
                    .rsplit('/')
                    .next()
                    .unwrap();
                assert!(
                    has_example(&document["components"]["schemas"], name),
                    "{method} {path}: {name} has no example"
                );
            }
        }
    }
    assert!(operations >= 24, "{operations}");
}

/// What linters and client generators refuse a document for.
#[test]
fn the_document_is_one_that_client_generators_take() {
    let document = document();
    assert_eq!(document["servers"][0]["url"], "/");
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap_or_default();
            let is_name = id.starts_with(|c: char| c.is_ascii_lowercase())
                && id.chars().all(|c| c.is_ascii_alphanumeric());
            assert!(is_name, "{method} {path}: {id:?}");
            assert!(ids.insert(id.to_owned()), "{id} twice");
            for (status, response) in operation["responses"].as_object().unwrap() {
                let text = response["description"].as_str().unwrap_or_default();
                assert!(
                    !text.is_empty(),
                    "{method} {path}: {status} has no description"
                );
            }
        }
    }
    for (method, path) in operation_ids::tests::named() {
        assert!(
            document["paths"][path][method].is_object(),
            "{method} {path} has a name and does not exist"
        );
    }
    let mut wrong = Vec::new();
    undeclared(&document, String::new(), &mut wrong);
    assert_eq!(wrong, Vec::<String>::new(), "required and no properties");
    let schemas = &document["components"]["schemas"];
    for name in schemas.as_object().unwrap().keys() {
        let mut seen = BTreeSet::new();
        assert!(
            !reaches(schemas, &schemas[name], name, &mut seen),
            "{name} contains itself"
        );
    }
}

/// Collects the places of names that are required where no property has the name.
fn undeclared(value: &Value, place: String, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for name in object
                .get("required")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let name = name.as_str().unwrap();
                if object
                    .get("properties")
                    .is_none_or(|known| known.get(name).is_none())
                {
                    found.push(format!("{place}: {name}"));
                }
            }
            for (name, value) in object {
                undeclared(value, format!("{place}/{name}"), found);
            }
        }
        Value::Array(list) => {
            for (n, value) in list.iter().enumerate() {
                undeclared(value, format!("{place}/{n}"), found);
            }
        }
        _ => {}
    }
}

/// Whether a schema refers to the one of this name, at any depth.
fn reaches(schemas: &Value, schema: &Value, wanted: &str, seen: &mut BTreeSet<String>) -> bool {
    match schema {
        Value::Object(parts) => parts.iter().any(|(name, part)| match part.as_str() {
            Some(reference) if name == "$ref" => {
                let name = reference.rsplit('/').next().unwrap();
                let is_new = seen.insert(name.to_owned());
                name == wanted || (is_new && reaches(schemas, &schemas[name], wanted, seen))
            }
            _ => reaches(schemas, part, wanted, seen),
        }),
        Value::Array(parts) => parts
            .iter()
            .any(|part| reaches(schemas, part, wanted, seen)),
        _ => false,
    }
}

fn has_example(schemas: &Value, name: &str) -> bool {
    let text = schemas[name].to_string();
    text.contains("\"example")
        || schemas[name]["anyOf"]
            .as_array()
            .is_some_and(|any| any.iter().any(|s| s.to_string().contains("$ref")))
}

#[test]
fn line_breaks_of_the_source_are_undone_and_paragraphs_and_lists_stay() {
    for (text, unwrapped_text) in [
        ("one", "one"),
        ("one\ntwo\nthree", "one two three"),
        ("one\n\ntwo\nthree", "one\n\ntwo three"),
        (
            "these:\n\n* one\n* two\nthree\n",
            "these:\n\n* one\n* two three\n",
        ),
    ] {
        assert_eq!(unwrapped(text), unwrapped_text);
    }
}
