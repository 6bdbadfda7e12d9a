//! Refusals of a handshake as `application/problem+json`. No internal text reaches the client.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use contract::{Id, Timestamp};
use metrics::counter;
use runtime::net::access_token;
use serde_json::json;

use crate::auth::session::BadToken;
use crate::subscriber::socket_guards::SubscribeError;

/// The `Retry-After` of refusals that may pass, in seconds.
const RETRY_AFTER_SECONDS: u64 = 2;

/// Why no socket was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The token is missing, wrong or expired.
    #[error(transparent)]
    Token(#[from] BadToken),
    /// `CORS_ORIGINS` does not name the page.
    #[error("this origin may not open sockets")]
    Origin,
    /// The request is no WebSocket handshake.
    #[error("/ws is for WebSocket handshakes of version 13")]
    NotWebSocket,
    /// The query string cannot be read.
    #[error("the query string is `token`, and `last_seq` where events shall be resumed")]
    BadQuery,
    /// The socket is not admitted.
    #[error(transparent)]
    NotAdmitted(#[from] SubscribeError),
}

impl Refusal {
    /// The `code` of the problem, for programs.
    pub const fn code(self) -> &'static str {
        self.parts().1
    }

    const fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Refusal::Token(BadToken::Refused(access_token::BadToken::Expired)) => {
                (StatusCode::UNAUTHORIZED, "TOKEN_EXPIRED")
            }
            Refusal::Token(_) => (StatusCode::UNAUTHORIZED, "INVALID_TOKEN"),
            Refusal::Origin => (StatusCode::FORBIDDEN, "ORIGIN_REFUSED"),
            Refusal::NotWebSocket => (StatusCode::UPGRADE_REQUIRED, "UPGRADE_REQUIRED"),
            Refusal::BadQuery => (StatusCode::BAD_REQUEST, "VALIDATION_ERROR"),
            Refusal::NotAdmitted(SubscribeError::Full) => {
                (StatusCode::SERVICE_UNAVAILABLE, "TOO_MANY_SOCKETS")
            }
            Refusal::NotAdmitted(SubscribeError::TooManyOfUser) => {
                (StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_SOCKETS_OF_USER")
            }
            Refusal::NotAdmitted(SubscribeError::Unavailable) => {
                (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE")
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code) = self.parts();
        counter!("realtime_refused_total", "code" => code).increment(1);
        let text = self.to_string();
        let request_id = Id::generate(Timestamp::now());
        let body = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": text,
            "code": code,
            "message": text,
            "errors": [],
            "request_id": request_id,
        });
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                drop(headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS)))
            }
            StatusCode::UNAUTHORIZED => {
                drop(headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
            }
            StatusCode::UPGRADE_REQUIRED => {
                drop(headers.insert(header::UPGRADE, HeaderValue::from_static("websocket")))
            }
            _ => {}
        }
        response
    }
}
