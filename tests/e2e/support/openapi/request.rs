//! Requests that name the ids of one company, and the statuses of their answers. Which requests
//! exist, the OpenAPI document says.

use contract::{Id, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Body, Operation, PREFIX, Parameter};
use crate::support::{Answer, System};

/// The values that requests name: ids, keys and texts.
pub struct RequestValues {
    pub company: String,
    pub contact: String,
    pub message: String,
    pub external_id: String,
    pub idempotency_key: String,
    pub email: String,
    /// The contact's id on a platform.
    pub on_platform: String,
    pub search: String,
    pub cursor: String,
    pub dead_letter: u64,
}

/// A request without credentials.
#[derive(Clone)]
pub struct Request {
    /// Such as `POST /messages NewMessage`: with the form of the body, if there are several.
    pub name: String,
    pub method: Method,
    /// The path without the prefix, with the query string.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
    pub names_company: bool,
    /// Whether the operation requires credentials.
    pub asks_who: bool,
}

impl RequestValues {
    /// The body's example with these values.
    pub fn in_example(&self, body: &Body<'_>) -> Value {
        let mut example = body.example.clone();
        self.fill(&mut example);
        example
    }

    fn fill(&self, value: &mut Value) {
        match value {
            Value::Object(object) => {
                for (name, value) in object {
                    match name.as_str() {
                        "_id" => *value = json!(self.message),
                        "contact_id" => *value = json!(self.contact),
                        "email" => *value = json!(self.email),
                        // Two requests that enter a person do not mean the same one.
                        "facebookId" => *value = json!(Id::generate(Timestamp::now())),
                        _ => self.fill(value),
                    }
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|value| self.fill(value)),
            _ => {}
        }
    }

    /// The value of a parameter. A new parameter must be added here.
    pub fn parameter(&self, operation: &Operation<'_>, parameter: &Parameter<'_>) -> String {
        let entity = operation.path.split('/').nth(1).unwrap_or_default();
        match (parameter.name, entity) {
            ("company_id", _) => self.company.clone(),
            ("contact_id", _) | ("id", "contacts") => self.contact.clone(),
            ("id", "messages") => self.message.clone(),
            ("platform", _) => "facebook".into(),
            ("facebookId" | "instagramId" | "telegramId" | "whatsappId", _) => {
                self.on_platform.clone()
            }
            ("email", _) => self.email.clone(),
            ("phone", _) => "+49 170 1234567".into(),
            ("seq", _) => self.dead_letter.to_string(),
            ("from", "dead-letters") => "2026-01-01T00:00:00Z".into(),
            ("to", "dead-letters") => "2100-01-01T00:00:00Z".into(),
            ("state", _) => "all".into(),
            ("reason", _) => "malformed".into(),
            ("service", _) => "persister".into(),
            ("dry_run", _) => "false".into(),
            ("cursor", "dead-letters") => "0".into(),
            ("search", _) => self.search.clone(),
            ("cursor", _) => self.cursor.clone(),
            ("Idempotency-Key", _) => self.idempotency_key.clone(),
            ("Prefer", _) => "wait=30".into(),
            ("from", "sla") => "2026-11-01T00:00:00Z".into(),
            ("to", "sla") => "2026-11-20T00:00:00Z".into(),
            ("limit" | "skip", _) => parameter.form.schema["default"].to_string(),
            (name, _) => panic!("{}: what shall {name} be?", operation.name()),
        }
    }
}

impl Request {
    pub fn with_body(mut self, content_type: &str, body: Vec<u8>) -> Request {
        self.headers
            .push(("content-type".into(), content_type.into()));
        self.body = Some(body);
        self
    }

    /// Sends the request with the header `credentials`, if given.
    pub async fn send(&self, system: &System, credentials: Option<(&str, &str)>) -> Answer {
        let mut request = system.http.request(
            self.method.clone(),
            format!("{}{PREFIX}{}", system.url("gateway"), self.path),
        );
        let own = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(credentials) {
            request = request.header(name, value.as_bytes());
        }
        if let Some(body) = &self.body {
            request = request.body(body.clone());
        }
        let answer = request
            .send()
            .await
            .unwrap_or_else(|e| panic!("{} {}: {e}", self.name, self.path));
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        Answer {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        }
    }
}

/// The status and body of an answer, or of each message in the answer to a batch.
pub fn verdicts(answer: &Answer) -> Vec<(u16, &Value)> {
    match answer.body["results"].as_array() {
        Some(results) => results
            .iter()
            .map(|r| {
                (
                    r["status"].as_u64().unwrap() as u16,
                    r.get("error").unwrap_or(r),
                )
            })
            .collect(),
        None => vec![(answer.status.as_u16(), &answer.body)],
    }
}
