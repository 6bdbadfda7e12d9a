//! Errors as clients see them: RFC 9457 problem documents. The one place where a domain error becomes an HTTP status; no
//! internal text passes it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use nats::query::KeyOf;
use nats::runtime::publish::PublishError;
use nats::runtime::query::QueryError;
use serde::Serialize;
use serde_json::Value;
use tracing::error;

/// Seconds that a client is asked to wait before it tries again.
const RETRY_AFTER_SECONDS: &str = "1";

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// A path such as `attachments[1].url`.
    pub field: String,
    /// What it must be.
    pub message: String,
}

/// Why a request fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Fields are missing or wrong.
    Validation(Vec<FieldError>),
    /// An id is not 24 hex digits.
    BadId(&'static str),
    /// The body is not JSON.
    BadJson(String),
    /// The content type is not JSON.
    MediaType,
    /// The body is larger than allowed.
    TooLarge,
    /// No token, or not one of ours.
    InvalidToken,
    /// The token was ours.
    TokenExpired,
    /// Email or password is wrong.
    BadLogin,
    /// The caller may not.
    Forbidden(&'static str),
    /// It does not exist, or is another company's.
    NotFound(&'static str),
    /// The path has no such method.
    Method,
    /// A unique key is taken.
    Duplicate {
        /// Which key.
        key: &'static str,
        /// Who holds it.
        holder: Option<nats::Id>,
    },
    /// The `Idempotency-Key` belongs to another request.
    KeyReused,
    /// More than this gateway can work on.
    Overloaded,
    /// The log or the persister does not answer.
    Unavailable(&'static str),
    /// A bug. The cause is in the log lines, not in the answer.
    Internal,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    /// What the old backend's clients show.
    message: &'a str,
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    existing_id: Option<nats::Id>,
}

impl Problem {
    /// One field that is wrong.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem::Validation(vec![FieldError { field: field.into(), message: message.into() }])
    }

    /// What a failed query means to a client who asked for `what`.
    pub fn missing(what: &'static str) -> impl Fn(QueryError) -> Problem {
        move |error| match error {
            QueryError::NotFound => Problem::NotFound(what),
            other => other.into(),
        }
    }

    /// The document, and its status.
    pub fn document(&self) -> (StatusCode, Value) {
        let (status, title, code, detail) = self.parts();
        let errors: &[FieldError] = if let Problem::Validation(errors) = self { errors } else { &[] };
        let existing_id = if let Problem::Duplicate { holder, .. } = self { *holder } else { None };
        let body =
            Body { r#type: "about:blank", title, status: status.as_u16(), detail: &detail, code, message: &detail, errors, existing_id };
        (status, serde_json::to_value(body).unwrap_or_default())
    }

    fn parts(&self) -> (StatusCode, &'static str, &'static str, String) {
        use StatusCode as S;
        match self {
            Problem::Validation(errors) => {
                let first = errors.first().map(|e| format!("{} {}", e.field, e.message)).unwrap_or_default();
                (S::BAD_REQUEST, "Validation failed", "VALIDATION_ERROR", first)
            }
            Problem::BadId(name) => (S::BAD_REQUEST, "Bad id", "CAST_ERROR", format!("{name} must be 24 hex digits")),
            Problem::BadJson(why) => (S::BAD_REQUEST, "Bad JSON", "VALIDATION_ERROR", format!("the body is not valid JSON: {why}")),
            Problem::MediaType => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "Unsupported media type",
                "UNSUPPORTED_MEDIA_TYPE",
                "send Content-Type: application/json".into(),
            ),
            Problem::TooLarge => (S::PAYLOAD_TOO_LARGE, "Too large", "PAYLOAD_TOO_LARGE", "the body is larger than 10 MB".into()),
            Problem::InvalidToken => {
                (S::UNAUTHORIZED, "Not authenticated", "INVALID_TOKEN", "send a valid bearer token or x-api-key".into())
            }
            Problem::TokenExpired => (S::UNAUTHORIZED, "Token expired", "TOKEN_EXPIRED", "the token has expired; log in again".into()),
            Problem::BadLogin => (S::UNAUTHORIZED, "Login failed", "INVALID_CREDENTIALS", "email or password is wrong".into()),
            Problem::Forbidden(why) => (S::FORBIDDEN, "Forbidden", "FORBIDDEN", (*why).into()),
            Problem::NotFound(what) => (S::NOT_FOUND, "Not found", "NOT_FOUND", format!("{what} not found")),
            Problem::Method => (S::METHOD_NOT_ALLOWED, "Method not allowed", "METHOD_NOT_ALLOWED", "this path has no such method".into()),
            Problem::Duplicate { key, holder: Some(id) } => (S::CONFLICT, "Duplicate", "DUPLICATE_KEY", format!("{key} is taken by {id}")),
            Problem::Duplicate { key, holder: None } => (S::CONFLICT, "Duplicate", "DUPLICATE_KEY", format!("{key} is taken")),
            Problem::KeyReused => (
                S::UNPROCESSABLE_ENTITY,
                "Idempotency key reused",
                "IDEMPOTENCY_KEY_REUSED",
                "this Idempotency-Key came with another body before; choose a new key for a new request".into(),
            ),
            Problem::Overloaded => {
                (S::SERVICE_UNAVAILABLE, "Overloaded", "OVERLOADED", "too many requests are being worked on; try again".into())
            }
            Problem::Unavailable(what) => (
                S::SERVICE_UNAVAILABLE,
                "Unavailable",
                "UNAVAILABLE",
                format!("{what}; try again, with the same Idempotency-Key if it is a create"),
            ),
            Problem::Internal => (S::INTERNAL_SERVER_ERROR, "Internal error", "INTERNAL", "something went wrong on our side".into()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, document) = self.document();
        let json = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))], json).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::SERVICE_UNAVAILABLE => drop(headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS))),
            StatusCode::UNAUTHORIZED => drop(headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            _ => {}
        }
        response
    }
}

/// What a client calls a unique key.
pub fn key_name(key: &KeyOf) -> &'static str {
    match key {
        KeyOf::External { .. } => "external_message_id",
        KeyOf::Request(_) => "Idempotency-Key",
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Problem {
        match error {
            PublishError::Overloaded => Problem::Overloaded,
            PublishError::Taken(holder) => Problem::Duplicate { key: key_name(&holder.key.key), holder: Some(holder.message_id) },
            PublishError::Full => Problem::Unavailable("the log is full"),
            PublishError::Unavailable(_) => Problem::Unavailable("the log does not answer"),
            PublishError::Refused(why) => {
                error!(why, "the log refused an event of ours");
                Problem::Internal
            }
        }
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Problem {
        match error {
            QueryError::NotFound => Problem::NotFound("it was"),
            QueryError::Unavailable(_) => Problem::Unavailable("the database does not answer"),
            QueryError::Bad(why) => {
                error!(why, "a query of ours failed");
                Problem::Internal
            }
        }
    }
}
