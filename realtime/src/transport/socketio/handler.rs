//! The HTTP of the door: opens sessions, takes their polls and posts to them, and answers as a
//! server of Socket.IO does, CORS included. The token comes in a session's first packet, so what is
//! open without one is bounded here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, Request as HttpRequest, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use metrics::{counter, gauge};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::client::Client;
use super::engine::{self, Sid};
use super::polling::{self, REQUESTS, Request};
use super::websocket;
use crate::auth::handshake::Handshake;
use crate::listener::Lease;
use crate::node::Node;
use crate::room::encode;
use crate::transport::ws::connection::WsConnection;
use crate::transport::ws::upgrade::{self, Upgrade};

/// Sessions whose clients have not said who they are; each has the time of a handshake.
const OPENING: usize = 2_000;
/// How long a browser may remember what we allow.
const PREFLIGHT_SECONDS: u64 = 600;

/// What all sessions use.
pub struct Shared {
    pub handshake: Arc<Handshake>,
    pub node: Node,
    opening: Arc<Semaphore>,
    sessions: Mutex<HashMap<Sid, mpsc::Sender<Request>>>,
}

/// The route `/socket.io/`.
pub fn routes(handshake: Arc<Handshake>, node: Node) -> Router {
    Router::new()
        .route("/socket.io/", any(serve))
        .route("/socket.io", any(serve))
        .with_state(Arc::new(Shared::new(handshake, node)))
}

impl Shared {
    fn new(handshake: Arc<Handshake>, node: Node) -> Shared {
        Shared {
            handshake,
            node,
            opening: Arc::new(Semaphore::new(OPENING)),
            sessions: Mutex::default(),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Sid, mpsc::Sender<Request>>> {
        // A poisoned lock still holds a whole map: every write is one insert or remove.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A polling session's place in the table. Dropping it ends what HTTP can reach of it.
pub struct Entry {
    shared: Arc<Shared>,
    sid: Sid,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.sessions().remove(&self.sid);
    }
}

/// What a request is not, in the numbers of Engine.IO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Transport,
    Session,
    Method,
    Request,
    Forbidden,
    Version,
    TooLarge,
    Full,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, code, message) = match self {
            Refused::Transport => (StatusCode::BAD_REQUEST, 0, "Transport unknown"),
            Refused::Session => (StatusCode::BAD_REQUEST, 1, "Session ID unknown"),
            Refused::Method => (StatusCode::BAD_REQUEST, 2, "Bad handshake method"),
            Refused::Request => (StatusCode::BAD_REQUEST, 3, "Bad request"),
            Refused::Forbidden => (StatusCode::FORBIDDEN, 4, "Forbidden"),
            Refused::Version => (StatusCode::BAD_REQUEST, 5, "Unsupported protocol version"),
            Refused::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, 3, "Payload too large"),
            Refused::Full => (StatusCode::SERVICE_UNAVAILABLE, 4, "Too many handshakes"),
        };
        counter!("realtime_refused_total", "door" => "socket.io", "code" => message).increment(1);
        let mut response = (
            status,
            axum::Json(serde_json::json!({"code": code, "message": message})),
        )
            .into_response();
        if self == Refused::Full {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

#[derive(Deserialize)]
struct Parameters {
    #[serde(rename = "EIO")]
    version: Option<String>,
    transport: Option<String>,
    sid: Option<String>,
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    Extension(lease): Extension<Lease>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request: HttpRequest,
) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    if shared.handshake.check_origin(request.headers()).is_err() {
        return Refused::Forbidden.into_response();
    }
    let answer = match parameters {
        _ if request.method() == Method::OPTIONS => Ok(preflight(request.headers())),
        Ok(Query(parameters)) => dispatch(&shared, &lease, parameters, request).await,
        Err(_) => Err(Refused::Request),
    };
    let mut response = answer.into_response();
    let is_over = response.status() != StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    if is_over {
        // Connections that are no sockets end with their time; a client that used one again just
        // then would see an error.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if let Some(origin) = origin {
        // The cookie that may come is the balancer's. What lets a client in is in its packets, so
        // no page borrows it.
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
    }
    response
}

fn preflight(asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST"),
    );
    if let Some(names) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    headers.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from(PREFLIGHT_SECONDS),
    );
    response
}

async fn dispatch(
    shared: &Arc<Shared>,
    lease: &Lease,
    parameters: Parameters,
    request: HttpRequest,
) -> Result<Response, Refused> {
    let by_websocket = match parameters.transport.as_deref() {
        Some("websocket") => true,
        Some("polling") => false,
        _ => return Err(Refused::Transport),
    };
    if parameters.version.as_deref() != Some("4") {
        return Err(Refused::Version);
    }
    let session = match parameters.sid {
        None => None,
        Some(sid) => {
            let sender = sid
                .parse()
                .ok()
                .and_then(|sid: Sid| shared.sessions().get(&sid).cloned());
            Some(sender.ok_or(Refused::Session)?)
        }
    };
    match (session, by_websocket, request.method().clone()) {
        (None, true, Method::GET) => open_websocket(shared, request),
        (None, false, Method::GET) => open_polling(shared),
        (None, ..) => Err(Refused::Method),
        (Some(session), true, Method::GET) => change(shared, session, request),
        (Some(session), false, Method::GET) => poll(lease, &session).await,
        (Some(session), false, Method::POST) => post(shared, &session, request).await,
        (Some(_), ..) => Err(Refused::Request),
    }
}

fn opening(shared: &Shared) -> Result<OwnedSemaphorePermit, Refused> {
    shared
        .opening
        .clone()
        .try_acquire_owned()
        .map_err(|_| Refused::Full)
}

fn open_packet(shared: &Shared, sid: Sid, can_upgrade: bool) -> Result<String, Refused> {
    engine::open(sid, can_upgrade, shared.node.limits().frame_bytes).map_err(|_| Refused::Request)
}

/// A session that is a WebSocket from its first packet on. Nobody else can reach it, so it is in no
/// table.
fn open_websocket(shared: &Arc<Shared>, request: HttpRequest) -> Result<Response, Refused> {
    let Upgrade {
        response,
        upgrading,
    } = upgrade::accept(request).ok_or(Refused::Request)?;
    let mut client = Client::new(shared.clone(), opening(shared)?);
    client.out.push_back(encode::text_frame(&open_packet(
        shared,
        Sid::new(rand::random()),
        false,
    )?));
    let (limits, tasks) = (*shared.node.limits(), shared.node.tasks().clone());
    shared.node.tasks().spawn(async move {
        if let Some(connection) = WsConnection::of(upgrading, &limits).await {
            // A task of its own: this one would keep what the handshake needed.
            tasks.spawn(websocket::run(connection, client));
        }
    });
    Ok(response)
}

fn open_polling(shared: &Arc<Shared>) -> Result<Response, Refused> {
    let sid = Sid::new(rand::random());
    let client = Client::new(shared.clone(), opening(shared)?);
    let (sender, requests) = mpsc::channel(REQUESTS);
    shared.sessions().insert(sid, sender);
    let entry = Entry {
        shared: shared.clone(),
        sid,
    };
    let packet = open_packet(shared, sid, true)?;
    shared
        .node
        .tasks()
        .spawn(polling::run(client, requests, entry));
    Ok(packets(packet))
}

/// A WebSocket for a session that began by polling.
fn change(
    shared: &Arc<Shared>,
    session: mpsc::Sender<Request>,
    request: HttpRequest,
) -> Result<Response, Refused> {
    let Upgrade {
        response,
        upgrading,
    } = upgrade::accept(request).ok_or(Refused::Request)?;
    let limits = *shared.node.limits();
    shared.node.tasks().spawn(async move {
        if let Some(connection) = WsConnection::of(upgrading, &limits).await {
            // A session that is gone, or has too much to do, lets it fall; the client goes on
            // polling.
            let _ = session.try_send(Request::Upgrade(Box::new(connection)));
        }
    });
    Ok(response)
}

/// Counts a poll that waits.
struct Held;

impl Held {
    fn new() -> Held {
        gauge!("realtime_polls_held").increment(1.0);
        Held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        gauge!("realtime_polls_held").decrement(1.0);
    }
}

async fn poll(lease: &Lease, session: &mpsc::Sender<Request>) -> Result<Response, Refused> {
    let (answer, answered) = oneshot::channel();
    session
        .try_send(Request::Poll(answer))
        .map_err(|_| Refused::Session)?;
    // It is held for longer than a handshake may take; then the connection is done, see `serve`.
    lease.extend();
    let held = Held::new();
    let body = answered.await.map_err(|_| Refused::Session)?;
    drop(held);
    Ok(packets(body))
}

async fn post(
    shared: &Shared,
    session: &mpsc::Sender<Request>,
    request: HttpRequest,
) -> Result<Response, Refused> {
    let body = to_bytes(request.into_body(), shared.node.limits().frame_bytes)
        .await
        .map_err(|_| Refused::TooLarge)?;
    let body = String::from_utf8(body.into()).map_err(|_| Refused::Request)?;
    let (done, is_done) = oneshot::channel();
    session
        .try_send(Request::Post(body, done))
        .map_err(|_| Refused::Session)?;
    is_done.await.map_err(|_| Refused::Request)?;
    Ok(packets("ok".to_owned()))
}

fn packets(body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=UTF-8"),
    );
    response
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::config::Config;
    use runtime::service::settings::Settings;

    /// A client that is not in yet, and its place in a table of sessions.
    pub fn session(node: Node) -> (Client, Entry) {
        let handshake = Handshake::new(&Config::read(&mut Settings::of([])));
        let shared = Arc::new(Shared::new(Arc::new(handshake), node));
        let permit = opening(&shared).unwrap();
        (
            Client::new(shared.clone(), permit),
            Entry {
                shared,
                sid: Sid::new(1),
            },
        )
    }
}
