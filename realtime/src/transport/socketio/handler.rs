//! The HTTP side of Socket.IO: opens sessions, hands requests to them, and answers as a server of
//! Socket.IO does, CORS included. Refuses no token, because a better one may come in a session's
//! first packet; therefore sessions that are not admitted are bounded.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, Request as HttpRequest, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use contract::Timestamp;
use metrics::{counter, gauge};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::client::{Client, TOKEN_PLACES};
use super::engine::{self, Sid};
use super::sessions::{REQUESTS, SessionRequest, Shared};
use super::{polling, websocket};
use crate::auth::handshake::{self, Handshake};
use crate::listener::Lease;
use crate::node::Node;
use crate::room::encode;
use crate::subscriber::socket_guards::Transport;
use crate::transport::ws::connection::WsConnection;
use crate::transport::ws::upgrade::{self, Upgrade};

/// How long a browser may remember the answer to a preflight request, in seconds.
const PREFLIGHT_SECONDS: u64 = 600;

/// The route `/socket.io/`.
pub fn routes(handshake: Arc<Handshake>, node: Node) -> Router {
    Router::new()
        .route("/socket.io/", any(serve))
        .route("/socket.io", any(serve))
        .with_state(Arc::new(Shared::new(handshake, node)))
}

/// Why a request is refused, in the numbers of Engine.IO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HttpError {
    UnknownTransport,
    UnknownSession,
    BadMethod,
    BadRequest,
    Forbidden,
    UnsupportedVersion,
    TooLarge,
    TooManyOpening,
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        use StatusCode as Status;
        let (status, code, message) = match self {
            HttpError::UnknownTransport => (Status::BAD_REQUEST, 0, "Transport unknown"),
            HttpError::UnknownSession => (Status::BAD_REQUEST, 1, "Session ID unknown"),
            HttpError::BadMethod => (Status::BAD_REQUEST, 2, "Bad handshake method"),
            HttpError::BadRequest => (Status::BAD_REQUEST, 3, "Bad request"),
            HttpError::Forbidden => (Status::FORBIDDEN, 4, "Forbidden"),
            HttpError::UnsupportedVersion => {
                (Status::BAD_REQUEST, 5, "Unsupported protocol version")
            }
            HttpError::TooLarge => (Status::PAYLOAD_TOO_LARGE, 3, "Payload too large"),
            HttpError::TooManyOpening => (Status::SERVICE_UNAVAILABLE, 4, "Too many handshakes"),
        };
        let transport = Transport::SocketIo.as_str();
        counter!("realtime_refused_total", "door" => transport, "code" => message).increment(1);
        let body = serde_json::json!({"code": code, "message": message});
        let mut response = (status, axum::Json(body)).into_response();
        if self == HttpError::TooManyOpening {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

/// The query string of a request.
#[derive(Debug, Deserialize)]
struct Parameters {
    #[serde(rename = "EIO")]
    version: Option<String>,
    transport: Option<String>,
    sid: Option<String>,
    token: Option<String>,
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    Extension(lease): Extension<Lease>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request: HttpRequest,
) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    if !shared.handshake.allows_page(request.headers()) {
        return HttpError::Forbidden.into_response();
    }
    let answer = match parameters {
        _ if request.method() == Method::OPTIONS => Ok(preflight(request.headers())),
        Ok(Query(parameters)) => dispatch(&shared, &lease, parameters, request).await,
        Err(_) => Err(HttpError::BadRequest),
    };
    let mut response = answer.into_response();
    let is_answered = response.status() != StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    if is_answered {
        // The listener ends a connection that has not become a socket when its time is over. A
        // client that sent its next request on the same connection just then would see an error.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if let Some(origin) = origin {
        // Credentials are allowed for the cookie of the load balancer. Another page cannot misuse
        // that, because the token is in the packets and not in a cookie.
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
) -> Result<Response, HttpError> {
    let is_websocket = match parameters.transport.as_deref() {
        Some("websocket") => true,
        Some("polling") => false,
        _ => return Err(HttpError::UnknownTransport),
    };
    if parameters.version.as_deref() != Some("4") {
        return Err(HttpError::UnsupportedVersion);
    }
    let session = match parameters.sid {
        None => None,
        Some(sid) => {
            let session = sid.parse().ok().and_then(|sid| shared.find(&sid));
            Some(session.ok_or(HttpError::UnknownSession)?)
        }
    };
    let token = parameters.token.as_deref();
    match (session, is_websocket, request.method().clone()) {
        (None, true, Method::GET) => open_websocket(shared, request, token),
        (None, false, Method::GET) => open_polling(shared, request.headers(), token),
        (None, ..) => Err(HttpError::BadMethod),
        (Some(session), true, Method::GET) => upgrade_session(shared, session, request),
        (Some(session), false, Method::GET) => poll(lease, &session).await,
        (Some(session), false, Method::POST) => post(shared, &session, request).await,
        (Some(_), ..) => Err(HttpError::BadRequest),
    }
}

/// A client that is not admitted yet. A token that comes with the request is used if the client's
/// first packet has none.
fn new_client(
    shared: &Arc<Shared>,
    headers: &HeaderMap,
    token: Option<&str>,
) -> Result<Client, HttpError> {
    let permit = shared.opening_permit().ok_or(HttpError::TooManyOpening)?;
    let token = handshake::token(headers, token);
    let credentials = shared
        .handshake
        .verify(token, TOKEN_PLACES, Timestamp::now());
    Ok(Client::new(shared.clone(), permit, credentials))
}

fn open_packet(shared: &Shared, sid: Sid, can_upgrade: bool) -> Result<String, HttpError> {
    let limits = shared.node.limits();
    engine::open(sid, can_upgrade, limits.frame_bytes).map_err(|_| HttpError::BadRequest)
}

/// Opens a session that is a WebSocket from its first packet on. The session is in no table,
/// because no other request can reach it.
fn open_websocket(
    shared: &Arc<Shared>,
    request: HttpRequest,
    token: Option<&str>,
) -> Result<Response, HttpError> {
    let mut client = new_client(shared, request.headers(), token)?;
    let Upgrade {
        response,
        upgrading,
    } = upgrade::accept(request).ok_or(HttpError::BadRequest)?;
    let packet = open_packet(shared, Sid::new(rand::random()), false)?;
    client.out.push_back(encode::text_frame(&packet));
    let (limits, tasks) = (*shared.node.limits(), shared.node.tasks().clone());
    shared.node.tasks().spawn(async move {
        if let Some(connection) = WsConnection::of(upgrading, &limits).await {
            // A task of its own, because this one keeps the memory that the upgrade needed.
            tasks.spawn(websocket::run(connection, client));
        }
    });
    Ok(response)
}

fn open_polling(
    shared: &Arc<Shared>,
    headers: &HeaderMap,
    token: Option<&str>,
) -> Result<Response, HttpError> {
    let sid = Sid::new(rand::random());
    let client = new_client(shared, headers, token)?;
    let packet = open_packet(shared, sid, true)?;
    let (sender, requests) = mpsc::channel(REQUESTS);
    let entry = shared.insert(sid, sender);
    let tasks = shared.node.tasks();
    tasks.spawn(polling::run(client, requests, entry));
    Ok(packets(packet))
}

/// Upgrades a connection to a WebSocket for a session that began by polling.
fn upgrade_session(
    shared: &Arc<Shared>,
    session: mpsc::Sender<SessionRequest>,
    request: HttpRequest,
) -> Result<Response, HttpError> {
    let Upgrade {
        response,
        upgrading,
    } = upgrade::accept(request).ok_or(HttpError::BadRequest)?;
    let limits = *shared.node.limits();
    shared.node.tasks().spawn(async move {
        if let Some(connection) = WsConnection::of(upgrading, &limits).await {
            // If the session is gone or has too many requests, the connection is dropped, and the
            // client goes on polling.
            let _ = session.try_send(SessionRequest::Upgrade(Box::new(connection)));
        }
    });
    Ok(response)
}

/// Counts a poll that waits for packets.
struct HeldPoll;

impl HeldPoll {
    fn new() -> HeldPoll {
        gauge!("realtime_polls_held").increment(1.0);
        HeldPoll
    }
}

impl Drop for HeldPoll {
    fn drop(&mut self) {
        gauge!("realtime_polls_held").decrement(1.0);
    }
}

async fn poll(
    lease: &Lease,
    session: &mpsc::Sender<SessionRequest>,
) -> Result<Response, HttpError> {
    let (answer, answered) = oneshot::channel();
    session
        .try_send(SessionRequest::Poll(answer))
        .map_err(|_| HttpError::UnknownSession)?;
    // A poll is held for longer than a handshake may take. `serve` ends the connection after it.
    lease.extend();
    let held = HeldPoll::new();
    let body = answered.await.map_err(|_| HttpError::UnknownSession)?;
    drop(held);
    Ok(packets(body))
}

async fn post(
    shared: &Shared,
    session: &mpsc::Sender<SessionRequest>,
    request: HttpRequest,
) -> Result<Response, HttpError> {
    let body = to_bytes(request.into_body(), shared.node.limits().frame_bytes)
        .await
        .map_err(|_| HttpError::TooLarge)?;
    let body = String::from_utf8(body.into()).map_err(|_| HttpError::BadRequest)?;
    let (done, is_done) = oneshot::channel();
    session
        .try_send(SessionRequest::Post(body, done))
        .map_err(|_| HttpError::UnknownSession)?;
    is_done.await.map_err(|_| HttpError::BadRequest)?;
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
mod tests {
    use super::*;
    use axum::http::Uri;
    use proptest::prelude::*;

    fn parse(query: &str) -> Option<[Option<String>; 3]> {
        let uri: Uri = format!("/socket.io/?{query}").parse().ok()?;
        let Query(parameters) = Query::<Parameters>::try_from_uri(&uri).ok()?;
        Some([parameters.version, parameters.transport, parameters.sid])
    }

    #[test]
    fn the_query_names_version_transport_and_session() {
        assert_eq!(
            parse("EIO=4&transport=polling&sid=ab&t=x"),
            Some(["4", "polling", "ab"].map(|text| Some(text.to_owned())))
        );
        assert_eq!(parse(""), Some([None, None, None]));
        assert_eq!(parse("EIO=4&EIO=3"), None);
    }

    proptest! {
        #[test]
        fn reading_any_query_does_not_panic(query in "(EIO|transport|sid|[a-z%&=+])[!-~é]{0,60}") {
            for sid in parse(&query).into_iter().flatten().flatten() {
                let _ = sid.parse::<Sid>();
            }
        }
    }
}
