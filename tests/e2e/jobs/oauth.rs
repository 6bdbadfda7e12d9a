//! A stub of an OAuth token endpoint on a real port. A refresh token's name decides the answer:
//! `1//good-…` gets an access token for an hour; `1//busy-…` likewise, after two answers of 503;
//! `1//dead-…` is refused; `1//turn-0` gets an access token for a minute and is replaced by
//! `1//turn-1`, which gets one for an hour. Both `turn` tokens work once, because they rotate.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use reqwest::Url;
use serde_json::json;

pub const CLIENT_ID: &str = "petbuddy.apps.example.com";
pub const CLIENT_SECRET: &str = "client secret & that nobody=logs";

#[derive(Clone)]
pub struct OAuth {
    address: SocketAddr,
    /// The refresh tokens of all requests, in order.
    calls: Arc<Mutex<Vec<String>>>,
}

impl OAuth {
    pub async fn listen() -> OAuth {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let oauth = OAuth {
            address: listener.local_addr().unwrap(),
            calls: Arc::default(),
        };
        let router = Router::new()
            .route("/token", post(refresh))
            .with_state(oauth.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        oauth
    }

    pub fn url(&self) -> String {
        format!("http://{}/token", self.address)
    }

    /// The number of requests with this refresh token.
    pub fn calls(&self, token: &str) -> usize {
        self.calls
            .lock()
            .unwrap()
            .iter()
            .filter(|seen| *seen == token)
            .count()
    }
}

async fn refresh(State(oauth): State<OAuth>, headers: HeaderMap, body: String) -> Response {
    // A form has the syntax of a query string.
    let form = Url::parse(&format!("http://form/?{body}")).unwrap();
    let form: BTreeMap<String, String> = form.query_pairs().into_owned().collect();
    let given = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let refused = |status: StatusCode, error: &str| {
        // Some endpoints repeat the token in the error. It must not be logged.
        (
            status,
            Json(json!({"error": error, "error_description": given("refresh_token")})),
        )
            .into_response()
    };
    let is_form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/x-www-form-urlencoded");
    if !is_form || form.len() != 4 || given("grant_type") != "refresh_token" {
        return refused(StatusCode::BAD_REQUEST, "invalid_request");
    }
    if (given("client_id"), given("client_secret")) != (CLIENT_ID, CLIENT_SECRET) {
        return refused(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    let token = given("refresh_token");
    oauth.calls.lock().unwrap().push(token.to_owned());
    let nth = oauth.calls(token);
    let name = token.trim_start_matches("1//");
    let granted = json!({"access_token": format!("ya29.{name}"), "expires_in": 3_599, "scope": "calendar", "token_type": "Bearer"});
    match name {
        "turn-0" if nth == 1 => {
            let more = json!({"access_token": "ya29.turn-0", "expires_in": 60, "refresh_token": "1//turn-1"});
            Json(more).into_response()
        }
        "turn-1" if nth == 1 => Json(granted).into_response(),
        _ if name.starts_with("busy") && nth <= 2 => (
            StatusCode::SERVICE_UNAVAILABLE,
            [(header::RETRY_AFTER, "1")],
            "",
        )
            .into_response(),
        _ if name.starts_with("good") || name.starts_with("busy") => Json(granted).into_response(),
        _ => refused(StatusCode::BAD_REQUEST, "invalid_grant"),
    }
}
