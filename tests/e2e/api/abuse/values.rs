//! Wrong values in every field and parameter that the OpenAPI document has. Malformed bodies are in
//! `bodies`.

use serde_json::{Value, json};

use super::bodies::NOT_JSON;
use super::{Caller, InvalidInput};
use crate::support::openapi::{Field, OpenApi, Parameter, Request};

/// Wrong for a field of any type: operators, other types, numbers out of every range, and text
/// that is not JSON.
const ANYWHERE: &[&str] = &[
    r#"{"$gt":""}"#,
    r#"{"$ne":null}"#,
    r#"{"$where":"1"}"#,
    r#"{"$regex":".*"}"#,
    r#"["$ne"]"#,
    "[[]]",
    "true",
    "null",
    "-1",
    "1.5",
    "9223372036854775808",
    "18446744073709551616",
    "1e400",
    "-1e400",
    r#""\ud800""#,
    r#""\udc00\ud800""#,
    r#""\u{41}""#,
    r#""a\u0000b""#,
    r#""a\u0007b""#,
    r#""a\u001b[2Jb""#,
    r#""a\u009fb""#,
    LINES,
];
const LINES: &str = r#""a\r\nSet-Cookie: evil=1""#;
/// Wrong for a field of this type, or a parameter of this name.
const OF_TYPE: &[(&str, &[&str])] = &[
    (
        "Id",
        &[
            "665f1e0c9b1d4a7f3c2e8a0",
            "665f1e0c9b1d4a7f3c2e8a012",
            "665f1e0c9b1d4a7f3c2e8a0g",
            "６６６６６６６６６６６６６６６６６６６６６６６６",
        ],
    ),
    (
        "Id",
        &[
            "x",
            "$gt",
            "' OR 1=1",
            "../../../../etc/passwd",
            "ObjectId(665f1e0c9b1d4a7f3c2e8a01)",
        ],
    ),
    ("Email", EMAILS),
    ("MaybeEmail", EMAILS),
    (
        "Url",
        &[
            "javascript:alert(1)",
            "file:///etc/passwd",
            "//files.example.com/a",
            "https://",
            "https://a b/",
            "data:text/html,x",
        ],
    ),
    (
        "Timestamp",
        &[
            "tomorrow",
            "2026-13-01T00:00:00Z",
            "2026",
            "20261122",
            "1795388889s",
            "2026-11-22T18:35:17+1",
            "+99999-01-01T00:00:00Z",
        ],
    ),
    (
        "cursor",
        &[
            "x",
            "665f1e0c9b1d4a7f3c2e8a01",
            "$gt",
            "-000000000000000000000000000000000000001",
        ],
    ),
];
const EMAILS: &[&str] = &[
    "nobody",
    "@example.com",
    "a@b@example.com",
    "a b@example.com",
    "a@example..com",
];

fn quoted(text: &str) -> String {
    json!(text).to_string()
}

/// Invalid values of a field.
fn wrong_values(field: &Field<'_>) -> Vec<String> {
    let schema = field.form.schema;
    let limit = |name: &str| schema[name].as_u64().map(|limit| limit as usize);
    let of_type = OF_TYPE
        .iter()
        .filter(|(name, _)| *name == field.form.name)
        .flat_map(|(_, texts)| *texts);
    let mut values: Vec<String> = ANYWHERE
        .iter()
        .map(ToString::to_string)
        .chain(of_type.map(|text| quoted(text)))
        .collect();
    values.extend([quoted(&"x".repeat(10_000)), quoted(&"😀".repeat(5_001))]);
    values.extend(limit("maxLength").map(|max| quoted(&"é".repeat(max + 1))));
    values.extend(
        limit("minLength")
            .filter(|min| *min > 1)
            .map(|min| quoted(&"x".repeat(min - 1))),
    );
    values.extend(limit("maximum").map(|max| (max + 1).to_string()));
    values.extend(limit("minimum").map(|min| (min as i64 - 1).to_string()));
    values.extend(limit("maxItems").map(|max| json!(vec![json!({}); max + 1]).to_string()));
    values.extend(limit("minItems").map(|_| "[]".to_owned()));
    if schema["enum"].is_array() {
        values.extend(["nothing of it", "$ne"].map(quoted));
    }
    values.retain(|value| !is_right(field, value));
    values
}

/// Whether the value is valid for this field after all.
fn is_right(field: &Field<'_>, value: &str) -> bool {
    match (field.form.kind(), value) {
        // Any JSON that a channel sends is kept, up to 16 KiB.
        (_, value) if field.form.name == "AnyValue" => {
            value.len() < 16_000 && !value.contains("e4") && !value.contains("u{")
        }
        (_, "null") => field.form.nullable,
        ("boolean", "true") => true,
        // Unknown names are ignored, or kept as they are in a profile. No query is made of them.
        ("object", value) => value.starts_with('{'),
        (_, value) if TEXTS.contains(&field.form.name) => is_text(value),
        // Such numbers are texts of their digits before any field is read.
        (_, "9223372036854775808" | "18446744073709551616") => {
            SECRETS.contains(&field.pointer.as_str())
        }
        // A password is hashed as it is.
        (_, LINES) => field.pointer == "/password",
        _ => false,
    }
}

/// Fields whose value is a secret.
const SECRETS: &[&str] = &["/password", "/access_token", "/refresh_token"];
/// The schemas of texts that somebody writes.
const TEXTS: &[&str] = &["Content", "ShortText", "MaybeText", "ExternalId"];

/// Whether the value is a text after all: control characters and halves of characters are cleaned,
/// and the digits of a number are a text.
fn is_text(value: &str) -> bool {
    let is_number = !value.is_empty()
        && value
            .bytes()
            .all(|c| c.is_ascii_digit() || c == b'-' || c == b'.');
    is_number
        || value == LINES
        || (value.starts_with('"') && value.contains("\\u") && !value.contains("\\u{"))
}

/// Every invalid value, in every field of every body.
pub fn in_fields(api: &OpenApi, caller: &Caller) -> Vec<InvalidInput> {
    let mut inputs = Vec::new();
    for operation in api.operations() {
        let bare = api.without_body(&operation, &caller.values, false, false);
        for field in api
            .bodies(&operation)
            .iter()
            .flat_map(|body| api.fields(body, &caller.values))
        {
            let mut attempt = |what: &str, body: String| {
                let names = field
                    .pointer
                    .split('/')
                    .filter(|name| !name.is_empty() && *name != "0");
                // Half of a surrogate pair is a text, whatever this parser says.
                let readable = body.replace("\\ud800", "?").replace("\\udc00", "?");
                let says: Vec<&str> = match serde_json::from_str::<Value>(&readable) {
                    // The last text is the problem of a list's entry.
                    Ok(_) => names.chain(["must be an object"]).collect(),
                    Err(_) => vec![NOT_JSON],
                };
                let request = bare
                    .clone()
                    .with_body("application/json", body.into_bytes());
                inputs.push(caller.input(&format!("{} = {what}", field.pointer), request, &says));
            };
            wrong_values(&field)
                .iter()
                .for_each(|value| attempt(value, field.with(value)));
            if field.required {
                attempt("nothing", field.without());
            }
        }
    }
    inputs
}

/// Invalid values of a parameter.
fn wrong_texts(parameter: &Parameter<'_>) -> Vec<String> {
    let schema = parameter.form.schema;
    let of_type = OF_TYPE
        .iter()
        .filter(|(name, _)| [parameter.form.name, parameter.name].contains(name))
        .flat_map(|(_, texts)| *texts);
    let mut texts: Vec<String> = of_type.map(ToString::to_string).collect();
    texts.extend(
        schema["maxLength"]
            .as_u64()
            .map(|max| "x".repeat(max as usize + 1)),
    );
    texts.extend(schema["maximum"].as_u64().map(|max| (max + 1).to_string()));
    match parameter.form.kind() {
        "integer" => texts.extend(
            [
                "-1",
                "1.5",
                "1e3",
                "0x10",
                "9223372036854775808",
                "NaN",
                "true",
                "[]",
                "a\0",
            ]
            .map(str::to_owned),
        ),
        _ if schema["enum"].is_array() => texts.extend(
            [
                "fax",
                "$ne",
                "[]",
                "facebook\0",
                "facebook\r\nSet-Cookie: evil=1",
            ]
            .map(str::to_owned),
        ),
        _ => {}
    }
    texts
}

/// Every invalid value, in every parameter of path or query string.
pub fn in_parameters(api: &OpenApi, caller: &Caller) -> Vec<InvalidInput> {
    // Every byte is encoded, so that the HTTP client does not normalise the path.
    let encoded = |text: &str| {
        text.bytes()
            .map(|byte| format!("%{byte:02X}"))
            .collect::<String>()
    };
    let mut inputs = Vec::new();
    for operation in api.operations() {
        let mut good = api.without_body(&operation, &caller.values, false, false);
        if let Some(request) = api.bodies(&operation).first() {
            good = good.with_body("application/json", request.example.to_string().into_bytes());
        }
        let mut attempt = |path: String, says: &str| {
            let request = Request {
                path: path.clone(),
                ..good.clone()
            };
            inputs.push(caller.input(&path, request, &[says]).wants(400));
        };
        let (path, query) = good.path.split_once('?').unwrap_or((&good.path, ""));
        for parameter in api.parameters(&operation) {
            let name = parameter.name;
            for text in wrong_texts(&parameter) {
                let text = encoded(&text);
                match parameter.place {
                    "path" => attempt(operation.path.replace(&format!("{{{name}}}"), &text), name),
                    "query" if parameter.required => attempt(format!("{path}?{name}={text}"), name),
                    "query" => attempt(format!("{path}?{query}&{name}={text}"), name),
                    _ => {}
                }
            }
            if parameter.place == "query" {
                attempt(format!("{path}?{name}=1&{name}=1"), name);
                attempt(
                    format!(
                        "{path}?{name}=1&%{:02X}{}=1",
                        name.as_bytes()[0],
                        &name[1..]
                    ),
                    name,
                );
                attempt(format!("{path}?{name}=%ff"), "UTF-8");
                attempt(format!("{path}?{name}=%c0%80"), "UTF-8");
                attempt(format!("{path}?{name}=%zz"), "UTF-8");
            }
            if parameter.place == "query" && parameter.required {
                attempt(path.to_owned(), name);
                attempt(format!("{path}?{name}[$ne]=1"), name);
                attempt(format!("{path}?{name}.$ne=1"), name);
            }
        }
    }
    inputs
}
