//! A member of staff: REST requests with their token, and answers.

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::System;

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// A header as text; empty if it is absent.
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

    /// Enters a contact; its id.
    pub async fn new_contact(&self) -> String {
        let (status, answer) = self
            .post(
                "/contacts",
                json!({"fullName": "Ada Brown", "social": {"facebookId": "1784"}}),
            )
            .await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        answer["contact"]["_id"].as_str().unwrap().to_owned()
    }

    /// A message that is accepted; the whole answer.
    pub async fn message(&self, contact: &str, role: &str, content: &str) -> Value {
        let direction = if role == "user" {
            "inbound"
        } else {
            "outbound"
        };
        let body = json!({"contact_id": contact, "role": role, "platform": "facebook", "direction": direction, "content": content});
        let (status, answer) = self.post("/messages", body).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        answer
    }
}
