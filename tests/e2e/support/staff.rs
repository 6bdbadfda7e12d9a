//! A member of staff: sends REST requests with an access token and returns the answers.

use std::sync::atomic::{AtomicU32, Ordering};

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::System;

/// A whole HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// A header as text; empty if the answer has no such header.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map(|value| value.to_str().unwrap())
            .unwrap_or_default()
    }
}

/// A member of staff.
pub struct Staff<'a> {
    pub system: &'a System,
    pub token: String,
    pub company: String,
}

impl Staff<'_> {
    /// The access token that [`System::new_company`] has entered.
    pub fn token_for(&self, platform: &str) -> String {
        format!("{platform}-token-{}", self.company)
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.system
            .request(Method::GET, path, Some(&self.token), None)
            .await
    }

    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.system
            .request(Method::POST, path, Some(&self.token), Some(&body))
            .await
    }

    pub async fn send(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        self.system
            .request(method, path, Some(&self.token), Some(&body))
            .await
    }

    /// POST to the gateway of this number, with headers.
    pub async fn post_to(
        &self,
        gateway: usize,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Answer {
        let url = format!("{}/api/v1{path}", self.system.services("gateway")[gateway]);
        let mut request = self
            .system
            .http
            .post(url)
            .bearer_auth(&self.token)
            .json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request
            .send()
            .await
            .unwrap_or_else(|e| panic!("{path}: {e}"));
        Answer {
            status: answer.status(),
            headers: answer.headers().clone(),
            body: answer.json().await.unwrap_or_default(),
        }
    }

    /// Creates a contact, whose id on Facebook begins with 1784, and returns its id.
    pub async fn new_contact(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let on_facebook = format!("1784{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let (status, answer) = self
            .post(
                "/contacts",
                json!({"fullName": "Ada Brown", "social": {"facebookId": on_facebook}}),
            )
            .await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        answer["contact"]["_id"].as_str().unwrap().to_owned()
    }

    /// POSTs a message from the customer, which must be accepted.
    pub async fn customer_message(&self, contact: &str, content: &str) -> Accepted {
        self.message(contact, "user", "inbound", content).await
    }

    /// POSTs an operator's message, which must be accepted. The bot is to deliver it.
    pub async fn operator_message(&self, contact: &str, content: &str) -> Accepted {
        self.message(contact, "operator", "outbound", content).await
    }

    async fn message(&self, contact: &str, role: &str, direction: &str, content: &str) -> Accepted {
        let body = json!({"contact_id": contact, "role": role, "platform": "facebook", "direction": direction, "content": content});
        let (status, answer) = self.post("/messages", body).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        Accepted::of(answer)
    }

    /// GETs one message.
    pub async fn get_message(&self, id: &str) -> (StatusCode, Value) {
        self.get(&format!("/messages/{id}")).await
    }
}

/// The answer to a message that was accepted.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The message's id.
    pub id: String,
    body: Value,
}

impl Accepted {
    /// Reads the body of a 201.
    pub fn of(body: Value) -> Accepted {
        Accepted {
            id: id_of(&body).to_owned(),
            body,
        }
    }
}

/// Fields that few tests read stay JSON: `accepted["forwarding"]`.
impl std::ops::Deref for Accepted {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.body
    }
}

/// The id of the message in an answer, or in one result of a batch.
pub fn id_of(answer: &Value) -> &str {
    let id = answer["messageData"]["_id"].as_str();
    id.unwrap_or_else(|| panic!("no id in {answer}"))
}
