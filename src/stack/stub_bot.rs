//! A stand-in for the Meta bot: accepts the requests of the forwarder, remembers them for tests and
//! newcomers, and fails on demand. Sends nothing to Facebook and checks no key.
//!
//! The bot's routes are `POST /chat/manual-facebook`, `POST /chat/manual-instagram` and
//! `GET /health`. Tests control the stub on the same port by
//! `GET /stub/deliveries?after=N&limit=M`, `GET /stub/stats`, `POST /stub/mode` and
//! `POST /stub/reset`.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The default of `BOT_PORT`.
pub const DEFAULT_PORT: u16 = 5001;
/// Requests that are remembered. Beyond that the oldest ones are forgotten.
const KEPT_REQUESTS: usize = 100_000;
/// Bytes of the remembered bodies. Beyond that the oldest requests are forgotten.
const KEPT_BYTES: usize = 256 * 1024 * 1024;
/// Bytes of a request body. A larger body is refused.
const BODY_BYTES: usize = 1024 * 1024;
/// Idempotency keys that are remembered. Beyond that `unique` is too low, and `unique_exact` is
/// false.
const KEPT_KEYS: usize = 1_000_000;
/// Requests in one answer of `/stub/deliveries` without `limit`.
const PAGE: usize = 10_000;
/// How long a request hangs before it is answered nevertheless; also the longest delay that a mode
/// may have.
const HANG: Duration = Duration::from_secs(120);
/// The delay of a late answer without `late_ms`. It is longer than the forwarder waits.
const LATE: Duration = Duration::from_secs(12);
/// How long open requests may take when the process ends. After that they are cut off.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// A request as it was received.
#[derive(Clone, Debug, Serialize)]
pub struct Received {
    /// The number of the request in the order of arrival, from 1.
    pub n: u64,
    /// When the request arrived, in Unix milliseconds.
    pub at: u64,
    /// `facebook` or `instagram`, from the path.
    pub platform: &'static str,
    /// The header `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// Whether there was a header `x-api-key`.
    pub api_key: bool,
    /// The status of the answer, which is sent after the delay; `None` if the request hangs. 200
    /// means delivered.
    pub status: Option<u16>,
    /// The body as it was received.
    pub body: Box<RawValue>,
}

/// How requests are answered. Each field is optional; without any field the bot is healthy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mode {
    /// The status of failing requests, 300 to 599, with a `body` also 200 to 299; 500 if only
    /// `fail_ratio` is given. A failure with 200 counts as delivered in the statistics.
    pub status: Option<u16>,
    /// The share of requests that fail, 0 to 1; 1 if only `status` is given.
    pub fail_ratio: Option<f64>,
    /// Milliseconds before each answer.
    pub delay_ms: u64,
    /// The share of requests that hang, 0 to 1.
    pub hang_ratio: f64,
    /// The header `Retry-After` of failures, in seconds.
    pub retry_after: Option<u64>,
    /// The share of requests that are delivered but answered only after `late_ms`, when the
    /// forwarder has given up; 0 to 1.
    pub late_ratio: f64,
    /// The delay of a late answer in milliseconds, 12,000 by default.
    pub late_ms: Option<u64>,
    /// The Graph API's error code in the body of failures.
    pub graph_code: Option<i64>,
    /// The Graph API's subcode beside that.
    pub graph_subcode: Option<i64>,
    /// The body of failures instead: a text as it stands, anything else as JSON. A text that begins
    /// with `<` is sent as HTML.
    pub body: Option<Value>,
    /// The mode only applies to requests whose company, customer or access token is in this list.
    /// An empty list means all requests.
    pub only: Vec<String>,
    /// The status of `GET /health`, 200 by default.
    pub health_status: Option<u16>,
}

/// The answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reply {
    /// `None` if the request hangs.
    status: Option<StatusCode>,
    delay: Duration,
    is_failure: bool,
}

impl Mode {
    /// Whether the mode applies to a request with this body.
    fn applies_to(&self, body: &str) -> bool {
        let body: Value = if self.only.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(body).unwrap_or_default()
        };
        let named = |field: &str| {
            body[field]
                .as_str()
                .is_some_and(|text| self.only.iter().any(|only| only == text))
        };
        self.only.is_empty()
            || ["company_id", "customer_id", "access_token"]
                .into_iter()
                .any(named)
    }

    fn check(&self) -> Result<(), &'static str> {
        let ratio = |r: f64| (0.0..=1.0).contains(&r);
        if !self.fail_ratio.is_none_or(ratio) || !ratio(self.hang_ratio) || !ratio(self.late_ratio)
        {
            return Err("a ratio is from 0 to 1");
        }
        let least = if self.body.is_some() { 200 } else { 300 };
        if !self.status.is_none_or(|s| (least..=599).contains(&s))
            || !self.health_status.is_none_or(|s| (300..=599).contains(&s))
        {
            return Err(
                "status and health_status are from 300 to 599; with a body, status from 200",
            );
        }
        if Duration::from_millis(self.delay_ms.max(self.late_ms.unwrap_or_default())) > HANG {
            return Err("delay_ms and late_ms are at most 120000");
        }
        Ok(())
    }

    /// Chooses the answer to one request. `hang`, `late` and `fail` are random, from 0 to 1.
    fn reply(&self, [hang, late, fail]: [f64; 3]) -> Reply {
        if hang < self.hang_ratio {
            return Reply {
                status: None,
                delay: HANG,
                is_failure: false,
            };
        }
        let delay = Duration::from_millis(self.delay_ms);
        if late < self.late_ratio {
            return Reply {
                status: Some(StatusCode::OK),
                delay: self.late_ms.map_or(LATE, Duration::from_millis),
                is_failure: false,
            };
        }
        let ratio = self
            .fail_ratio
            .unwrap_or(if self.status.is_some() { 1.0 } else { 0.0 });
        let status = self
            .status
            .and_then(|s| StatusCode::from_u16(s).ok())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let is_failure = fail < ratio;
        Reply {
            status: Some(if is_failure { status } else { StatusCode::OK }),
            delay,
            is_failure,
        }
    }

    /// The body of a failure.
    fn failure(&self) -> Response {
        match &self.body {
            Some(Value::String(text)) if text.starts_with('<') => {
                Html(text.clone()).into_response()
            }
            Some(Value::String(text)) => text.clone().into_response(),
            Some(body) => Json(body).into_response(),
            None => {
                let error = json!({
                    "message": "the stub bot was told to fail",
                    "code": self.graph_code,
                    "error_subcode": self.graph_subcode,
                });
                Json(json!({"success": false, "error": error})).into_response()
            }
        }
    }
}

#[derive(Default)]
struct Memory {
    mode: Mode,
    requests: VecDeque<Received>,
    bytes: usize,
    received: u64,
    delivered: u64,
    failed: u64,
    hung: u64,
    /// Hashes of the idempotency keys of delivered requests.
    keys: HashSet<u64>,
    keys_full: bool,
}

impl Memory {
    fn keep(&mut self, request: Received) {
        self.received += 1;
        match request.status {
            Some(200) => {
                self.delivered += 1;
                if let Some(key) = &request.idempotency_key {
                    let mut hasher = DefaultHasher::new();
                    key.hash(&mut hasher);
                    self.keys_full |= self.keys.len() >= KEPT_KEYS;
                    if !self.keys_full {
                        self.keys.insert(hasher.finish());
                    }
                }
            }
            Some(_) => self.failed += 1,
            None => self.hung += 1,
        }
        self.bytes += request.body.get().len();
        self.requests.push_back(request);
        while (self.requests.len() > KEPT_REQUESTS || self.bytes > KEPT_BYTES)
            && let Some(oldest) = self.requests.pop_front()
        {
            self.bytes -= oldest.body.get().len();
        }
    }
}

/// A handle to the stub. Clones share its state.
#[derive(Clone, Default)]
pub struct StubBot {
    memory: Arc<Mutex<Memory>>,
    stop: CancellationToken,
}

impl StubBot {
    fn router(&self) -> Router {
        Router::new()
            .route("/chat/{channel}", post(receive))
            .route("/health", get(health))
            .route("/stub/deliveries", get(deliveries))
            .route("/stub/stats", get(stats))
            .route("/stub/mode", post(set_mode))
            .route("/stub/reset", post(reset))
            .layer(DefaultBodyLimit::max(BODY_BYTES))
            .with_state(self.clone())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Memory) -> T) -> T {
        // A poisoned lock still guards complete entries.
        f(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn health(State(bot): State<StubBot>) -> Response {
    match bot
        .with(|memory| memory.mode.health_status)
        .and_then(|status| StatusCode::from_u16(status).ok())
    {
        Some(status) => refuse(status, "the stub bot was told to be ill"),
        None => Json(json!({"status": "ok", "service": "stub-bot"})).into_response(),
    }
}

async fn receive(
    State(bot): State<StubBot>,
    Path(channel): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let platform = match channel.as_str() {
        "manual-facebook" => "facebook",
        "manual-instagram" => "instagram",
        _ => return refuse(StatusCode::NOT_FOUND, "no such channel"),
    };
    let Ok(body) = serde_json::from_slice::<Box<RawValue>>(&body) else {
        return refuse(StatusCode::BAD_REQUEST, "the body is not JSON");
    };
    let (
        n,
        mode,
        key,
        Reply {
            status,
            delay,
            is_failure,
        },
    ) = bot.with(|memory| {
        let mode = if memory.mode.applies_to(body.get()) {
            memory.mode.clone()
        } else {
            Mode::default()
        };
        let reply = mode.reply(rand::random());
        let key = headers
            .get("idempotency-key")
            .and_then(|key| key.to_str().ok())
            .map(str::to_owned);
        let request = Received {
            n: memory.received + 1,
            at: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_millis() as u64,
            platform,
            idempotency_key: key.clone(),
            api_key: headers.contains_key("x-api-key"),
            status: reply.status.map(|s| s.as_u16()),
            body,
        };
        let n = request.n;
        memory.keep(request);
        (n, mode, key, reply)
    });
    let id = key.unwrap_or_else(|| n.to_string());
    let word = status.map_or_else(|| "hanging".to_owned(), |s| s.as_u16().to_string());
    // A closed standard output must not fail the request.
    drop(writeln!(io::stdout(), "#{n} {platform} {id} -> {word}"));
    if !delay.is_zero() {
        bot.stop
            .run_until_cancelled(tokio::time::sleep(delay))
            .await;
    }
    match status {
        // A repeated message has the same id, as with Meta's own idempotency.
        Some(StatusCode::OK) if !is_failure => {
            Json(json!({"success": true, "message_id": format!("stub.{id}")})).into_response()
        }
        Some(failure) => {
            let mut response = (failure, mode.failure()).into_response();
            if let Some(seconds) = mode.retry_after {
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, seconds.into());
            }
            response
        }
        None => refuse(StatusCode::GATEWAY_TIMEOUT, "the stub bot was told to hang"),
    }
}

fn refuse(status: StatusCode, message: &str) -> Response {
    (
        status,
        Json(json!({"success": false, "error": {"message": message}})),
    )
        .into_response()
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    limit: Option<usize>,
}

/// The requests with a number above `after`, the oldest first.
async fn deliveries(
    State(bot): State<StubBot>,
    Query(After { after, limit }): Query<After>,
) -> Json<Vec<Received>> {
    Json(bot.with(|memory| {
        let begin = memory
            .requests
            .partition_point(|request| request.n <= after);
        memory
            .requests
            .range(begin..)
            .take(limit.unwrap_or(PAGE))
            .cloned()
            .collect()
    }))
}

async fn stats(State(bot): State<StubBot>) -> Json<Value> {
    Json(bot.with(|m| {
        json!({
            "received": m.received,
            "delivered": m.delivered,
            "failed": m.failed,
            "hung": m.hung,
            "unique": m.keys.len(),
            "unique_exact": !m.keys_full,
            "first_kept": m.requests.front().map(|request| request.n),
            "mode": m.mode,
        })
    }))
}

/// Replaces the whole mode.
async fn set_mode(State(bot): State<StubBot>, Json(mode): Json<Mode>) -> Response {
    match mode.check() {
        Ok(()) => {
            bot.with(|memory| memory.mode = mode.clone());
            Json(mode).into_response()
        }
        Err(why) => refuse(StatusCode::BAD_REQUEST, why),
    }
}

/// Forgets all requests and makes the bot healthy again.
async fn reset(State(bot): State<StubBot>) -> StatusCode {
    bot.with(|memory| *memory = Memory::default());
    StatusCode::NO_CONTENT
}

/// Serves on a port of the loopback address until SIGTERM or Ctrl-C.
///
/// # Errors
/// The port cannot be used, or the system refuses signal handlers.
pub async fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let bot = StubBot::default();
    let stop = bot.stop.clone();
    let serve = axum::serve(listener, bot.router())
        .with_graceful_shutdown(stop.clone().cancelled_owned())
        .into_future();
    tokio::pin!(serve);
    tokio::select! {
        ended = &mut serve => return ended,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    stop.cancel();
    // Idle connections of clients may stay open, so the wait is bounded.
    tokio::time::timeout(STOP_LIMIT, serve)
        .await
        .unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(text: &str) -> Mode {
        serde_json::from_str(text).unwrap()
    }

    fn request(n: u64, key: &str, status: Option<u16>) -> Received {
        let body = RawValue::from_string("{}".into()).unwrap();
        Received {
            n,
            at: 0,
            platform: "facebook",
            idempotency_key: Some(key.into()),
            api_key: true,
            status,
            body,
        }
    }

    #[test]
    fn a_field_that_a_mode_leaves_out_is_as_in_a_healthy_bot() {
        let status = |text: &str, hang, fail| {
            mode(text)
                .reply([hang, 0.5, fail])
                .status
                .map(|s| s.as_u16())
        };
        assert_eq!(status("{}", 0.0, 0.0), Some(200));
        assert_eq!(status(r#"{"status":429}"#, 0.0, 0.99), Some(429));
        assert_eq!(status(r#"{"fail_ratio":0.3}"#, 0.0, 0.29), Some(500));
        assert_eq!(status(r#"{"fail_ratio":0.3}"#, 0.0, 0.3), Some(200));
        assert_eq!(status(r#"{"hang_ratio":0.5,"status":500}"#, 0.4, 0.0), None);
        assert_eq!(
            status(r#"{"hang_ratio":0.5,"status":500}"#, 0.5, 0.0),
            Some(500)
        );
        assert_eq!(
            status(r#"{"late_ratio":0.6,"status":500}"#, 0.0, 0.0),
            Some(200)
        );
    }

    #[test]
    fn a_mode_can_apply_to_some_requests_only() {
        let some = mode(r#"{"status":500,"only":["a","t"]}"#);
        assert!(
            some.applies_to(r#"{"company_id":"a"}"#)
                && some.applies_to(r#"{"company_id":"b","access_token":"t"}"#)
        );
        assert!(
            !some.applies_to(r#"{"company_id":"b","content":"a"}"#) && mode("{}").applies_to("{}")
        );
    }

    #[test]
    fn an_invalid_mode_is_refused() {
        for text in [
            r#"{"fail_ratio":1.5}"#,
            r#"{"hang_ratio":-1}"#,
            r#"{"status":200}"#,
            r#"{"status":700}"#,
            r#"{"status":199,"body":"x"}"#,
            r#"{"health_status":200,"body":"x"}"#,
            r#"{"delay_ms":120001}"#,
        ] {
            assert!(mode(text).check().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Mode>(r#"{"stattus":500}"#).is_err());
        assert!(
            mode(r#"{"status":200,"body":{"success":false}}"#)
                .check()
                .is_ok()
        );
        assert!(
            mode(
                r#"{"status":503,"fail_ratio":0.5,"delay_ms":10,"hang_ratio":0.1,"retry_after":2}"#
            )
            .check()
            .is_ok()
        );
    }

    #[test]
    fn the_stub_remembers_a_bounded_number_of_requests_and_counts_all() {
        let mut memory = Memory::default();
        for n in 1..=KEPT_REQUESTS as u64 + 5 {
            memory.keep(request(n, "same", Some(200)));
        }
        memory.keep(request(0, "other", Some(500)));
        memory.keep(request(0, "other", None));
        assert_eq!(memory.requests.len(), KEPT_REQUESTS);
        assert_eq!(memory.bytes, 2 * KEPT_REQUESTS);
        assert_eq!(
            (memory.delivered, memory.failed, memory.hung),
            (KEPT_REQUESTS as u64 + 5, 1, 1)
        );
        assert_eq!(
            memory.keys.len(),
            1,
            "only what was delivered counts as unique"
        );
    }
}
