//! A stub of the Graph API on a real port. A token's name decides the answer: `good-…` and `slow-…`
//! are exchanged for the same name with `-renewed`; `busy-…` likewise, after two answers of 503;
//! `dead-…` and `slowly-dead-…` are refused; `down-…` always gets 503; `chain-<n>-<generation>` is
//! exchanged for the next generation, which expires within an hour. Requests with a slow token, and
//! all requests during a hold, are answered only after `go_on`. Tokens that begin with `IG` are
//! refreshed at Instagram's address and refused at Facebook's, as at Meta; `IGAA-page-…` gets a
//! proxy's page twice before that.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::sync::watch;

pub const APP_ID: &str = "4711";
pub const APP_SECRET: &str = "app-secret-that-nobody-logs";

#[derive(Default)]
struct Recorded {
    /// The tokens of all requests, in order.
    calls: Vec<String>,
    held: usize,
    chains_end: bool,
}

#[derive(Clone)]
pub struct Graph {
    address: SocketAddr,
    recorded: Arc<Mutex<Recorded>>,
    /// 0: requests with a slow token wait. 1: all requests wait. 2: none waits.
    open: Arc<watch::Sender<u8>>,
}

impl Graph {
    pub async fn listen() -> Graph {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let graph = Graph {
            address: listener.local_addr().unwrap(),
            recorded: Arc::default(),
            open: Arc::new(watch::Sender::new(0)),
        };
        let router = Router::new()
            .route("/{version}/oauth/access_token", get(exchange))
            .route("/refresh_access_token", get(refresh))
            .with_state(graph.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        graph
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The number of requests with this token.
    pub fn calls(&self, token: &str) -> usize {
        self.recorded
            .lock()
            .unwrap()
            .calls
            .iter()
            .filter(|recorded| *recorded == token)
            .count()
    }

    /// The tokens of the last `count` requests.
    pub fn last_calls(&self, count: usize) -> Vec<String> {
        self.recorded
            .lock()
            .unwrap()
            .calls
            .iter()
            .rev()
            .take(count)
            .cloned()
            .collect()
    }

    /// The number of requests with each generation of a chain.
    pub fn generations(&self, chain: usize) -> BTreeMap<usize, usize> {
        let mut generations = BTreeMap::new();
        for token in &self.recorded.lock().unwrap().calls {
            if let Some((of, generation)) = chained(token).filter(|(of, _)| *of == chain) {
                assert_eq!(of, chain);
                *generations.entry(generation).or_default() += 1;
            }
        }
        generations
    }

    /// Holds all requests until [`Graph::go_on`].
    pub fn hold(&self) {
        self.open.send_replace(1);
    }

    /// Answers all requests.
    pub fn go_on(&self) {
        self.open.send_replace(2);
    }

    /// The number of waiting requests.
    pub fn held(&self) -> usize {
        self.recorded.lock().unwrap().held
    }

    /// Makes chains return long-lived tokens from now on.
    pub fn end_chains(&self) {
        self.recorded.lock().unwrap().chains_end = true;
    }
}

fn chained(token: &str) -> Option<(usize, usize)> {
    let (chain, generation) = token.strip_prefix("chain-")?.split_once('-')?;
    Some((chain.parse().ok()?, generation.parse().ok()?))
}

/// Counts a waiting request until it is dropped, also if its caller is killed.
struct Held(Arc<Mutex<Recorded>>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().unwrap().held -= 1;
    }
}

async fn exchange(
    State(graph): State<Graph>,
    Path(version): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let given = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    let expected = [
        ("grant_type", "fb_exchange_token"),
        ("client_id", APP_ID),
        ("client_secret", APP_SECRET),
    ];
    if version != "v18.0" || expected.iter().any(|(name, value)| given(name) != *value) {
        return (
            StatusCode::BAD_REQUEST,
            Json(json!({"error": {"message": "what is this", "code": 100}})),
        )
            .into_response();
    }
    let token = given("fb_exchange_token").to_owned();
    if token.starts_with("IG") {
        graph.recorded.lock().unwrap().calls.push(token);
        let error = json!({"error": {"message": "Invalid OAuth access token", "code": 190}});
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    }
    let held = {
        let mut recorded = graph.recorded.lock().unwrap();
        recorded.calls.push(token.clone());
        recorded.held += 1;
        Held(graph.recorded.clone())
    };
    let least = if token.starts_with("slow") { 2 } else { 0 };
    let _ = graph
        .open
        .subscribe()
        .wait_for(|open| *open != 1 && *open >= least)
        .await;
    drop(held);
    let nth = graph.calls(&token);
    let renewed = |token: String, lives: u64| {
        Json(json!({"access_token": token, "token_type": "bearer", "expires_in": lives}))
    };
    if let Some((chain, generation)) = chained(&token) {
        let lives = if graph.recorded.lock().unwrap().chains_end {
            60 * 86_400
        } else {
            3_600
        };
        return renewed(format!("chain-{chain}-{}", generation + 1), lives).into_response();
    }
    if token.contains("dead") {
        let error = json!({"error": {"message": format!("{token} is invalid"), "type": "OAuthException", "code": 190}});
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    }
    if token.starts_with("down") || (token.starts_with("busy") && nth <= 2) {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            [(header::RETRY_AFTER, "1")],
            "",
        )
            .into_response();
    }
    renewed(format!("{token}-renewed"), 60 * 86_400).into_response()
}

async fn refresh(
    State(graph): State<Graph>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let token = query.get("access_token").cloned().unwrap_or_default();
    graph.recorded.lock().unwrap().calls.push(token.clone());
    let is_known = query
        .get("grant_type")
        .is_some_and(|kind| kind == "ig_refresh_token");
    if !is_known || !token.starts_with("IG") {
        let error = json!({"error": {"message": "Invalid OAuth access token", "code": 190}});
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    }
    if token.starts_with("IGAA-page") && graph.calls(&token) <= 2 {
        let page = Html("<html><body>403 Forbidden</body></html>");
        return (StatusCode::FORBIDDEN, page).into_response();
    }
    // As text, which some servers do.
    let lives = (60 * 86_400).to_string();
    Json(json!({"access_token": format!("{token}-renewed"), "expires_in": lives})).into_response()
}
