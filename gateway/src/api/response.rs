//! Answers of handlers. Errors are in `problem`.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// An answer made of JSON texts, none of which is parsed again.
pub fn raw_json(status: StatusCode, before: &str, raw: &[u8], after: &str) -> Response {
    let body = [before.as_bytes(), raw, after.as_bytes()].concat();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// An answer.
pub fn json(status: StatusCode, body: impl serde::Serialize) -> Response {
    (status, Json(body)).into_response()
}
