//! The handshake of `/ws`. The upgraded connection is taken out of hyper, so that an idle socket costs its TCP stream and
//! little more.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::response::Response;
use axum::routing::any;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use nats::{Id, Timestamp};
use serde::Deserialize;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tracing::{debug, error};

use super::socket;
use crate::handshake::{Handshake, bearer};
use crate::hub::Hub;
use crate::listener::{Lease, Stream};
use crate::problem::Refusal;
use crate::seat::{Door as Way, Seat};

/// First size of a socket's read buffer, in bytes; it grows with a frame. The library's 128 KiB would be most of an idle socket.
const READ_BUFFER_BYTES: usize = 128;
/// Most bytes that wait in the library's own write buffer, which only has pongs and the close frame.
const WRITE_BUFFER_BYTES: usize = 4 * 1024;

struct Door {
    handshake: Arc<Handshake>,
    hub: Hub,
}

/// The route `/ws`.
pub fn routes(handshake: Arc<Handshake>, hub: Hub) -> Router {
    Router::new().route("/ws", any(open)).with_state(Arc::new(Door { handshake, hub }))
}

#[derive(Deserialize)]
struct Parameters {
    token: Option<String>,
    last_seq: Option<u64>,
}

async fn open(
    State(door): State<Arc<Door>>,
    Extension(lease): Extension<Lease>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    mut request: Request,
) -> Result<Response, Refusal> {
    door.handshake.check_origin(request.headers())?;
    let Ok(Query(Parameters { token, last_seq })) = parameters else { return Err(Refusal::BadQuery) };
    let session = door.handshake.verify(bearer(request.headers()).or(token.as_deref()), Timestamp::now())?;
    let key = websocket_key(&request).ok_or(Refusal::NotWebSocket)?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| Refusal::NotWebSocket)?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().ok_or(Refusal::NotWebSocket)?;
    let seat = door.hub.enter(Way::WebSocket, session, Id::generate(Timestamp::now()), last_seq).await?;
    lease.extend();
    door.hub.tasks().spawn(serve(upgrade, seat));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// The key of a WebSocket handshake, if it is one.
fn websocket_key(request: &Request) -> Option<&HeaderValue> {
    let headers = request.headers();
    let is_handshake = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && has_token(headers, &header::CONNECTION, "upgrade")
        && has_token(headers, &header::UPGRADE, "websocket")
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| is_handshake)
}

fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

async fn serve(upgrade: OnUpgrade, seat: Seat) {
    let limits = *seat.limits();
    let (tcp, read, permit) = match timeout(limits.handshake, upgrade).await {
        Ok(Ok(upgraded)) => match upgraded.downcast::<TokioIo<Stream>>() {
            Ok(parts) => {
                let (tcp, permit) = parts.io.into_inner().into_parts();
                (tcp, parts.read_buf, permit)
            }
            Err(_) => return error!("an upgraded connection is none of the port's"),
        },
        Ok(Err(e)) => return debug!(socket = %seat.socket(), error = %e, "not upgraded"),
        Err(_) => return debug!(socket = %seat.socket(), "not upgraded in time"),
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(limits.frame_bytes))
        .max_frame_size(Some(limits.frame_bytes));
    let stream = WebSocketStream::from_partially_read(tcp, read.into(), Role::Server, Some(config)).await;
    socket::run(stream, seat).await;
    drop(permit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_handshake_has_a_key() {
        let whole =
            [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"), ("sec-websocket-version", "13"), ("sec-websocket-key", "k")];
        let request = |method: &str, leave_out: &str| {
            let headers = whole.iter().filter(|(name, _)| *name != leave_out);
            let request = headers.fold(axum::http::Request::builder().method(method), |r, (name, value)| r.header(*name, *value));
            request.body(Body::empty()).unwrap()
        };
        assert!(websocket_key(&request("GET", "")).is_some());
        assert!(websocket_key(&request("POST", "")).is_none());
        for (name, _) in whole {
            assert!(websocket_key(&request("GET", name)).is_none(), "{name}");
        }
    }
}
