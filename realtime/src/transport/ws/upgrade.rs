//! The HTTP side of a WebSocket handshake. Checks no token and no limit.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::auth::handshake;

/// An accepted handshake.
pub struct Upgrade {
    /// The answer with status 101.
    pub response: Response,
    /// Completes with the connection once the answer is sent.
    pub upgrading: OnUpgrade,
}

/// Accepts a handshake. Returns `None` if the request is no WebSocket handshake of version 13.
pub fn accept(mut request: Request) -> Option<Upgrade> {
    let key = websocket_key(&request)?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()?;
    let subprotocol =
        handshake::subprotocol(request.headers()).and_then(|name| HeaderValue::from_str(name).ok());
    let upgrading = request.extensions_mut().remove::<OnUpgrade>()?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(name) = subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, name);
    }
    Some(Upgrade {
        response,
        upgrading,
    })
}

/// The key of a WebSocket handshake; `None` if the request is no such handshake.
fn websocket_key(request: &Request) -> Option<&HeaderValue> {
    let headers = request.headers();
    let is_handshake = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && has_token(headers, &header::CONNECTION, "upgrade")
        && has_token(headers, &header::UPGRADE, "websocket")
        && headers
            .get(header::SEC_WEBSOCKET_VERSION)
            .is_some_and(|version| version == "13");
    headers
        .get(header::SEC_WEBSOCKET_KEY)
        .filter(|_| is_handshake)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_that_lacks_a_header_has_no_key() {
        let whole = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "k"),
        ];
        let request = |method: &str, leave_out: &str| {
            let headers = whole.iter().filter(|(name, _)| *name != leave_out);
            let request = headers.fold(
                axum::http::Request::builder().method(method),
                |r, (name, value)| r.header(*name, *value),
            );
            request.body(Body::empty()).unwrap()
        };
        assert!(websocket_key(&request("GET", "")).is_some());
        assert!(websocket_key(&request("POST", "")).is_none());
        for (name, _) in whole {
            assert!(websocket_key(&request("GET", name)).is_none(), "{name}");
        }
    }
}
