//! Errors as clients see them: RFC 9457 problem documents. Here, and nowhere else, a domain error
//! becomes an HTTP status. Passes no internal text on to a client.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use contract::Id;
use contract::dead_letter::State;
use contract::query::DedupKey;
use runtime::dead_letters::DeadLetterError;
use runtime::kv::bucket::BucketError;
use runtime::log::publisher::PublishError;
use runtime::rpc::query::QueryError;
use serde::Serialize;
use tracing::{error, warn};
use utoipa::ToSchema;

use super::field_error::{FieldError, FieldErrorKind};

/// Of every problem document.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");
/// Seconds that a client is asked to wait before it tries again.
const RETRY_AFTER_SECONDS: u64 = 1;

tokio::task_local! {
    /// The id of the request that this task answers: a problem names it, wherever it comes up.
    pub static REQUEST_ID: String;
}

/// Why a request fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Fields are missing or wrong.
    Validation(Vec<FieldError>),
    /// An id is not 24 hex digits.
    BadId(&'static str),
    /// The request cannot be understood, before any field is looked at.
    BadRequest(&'static str),
    /// The body is not JSON, or is past a bound of it.
    BadJson(String),
    /// The content type is not JSON.
    MediaType,
    /// The body is larger than allowed.
    TooLarge,
    /// Path and query string are longer than allowed.
    UriTooLong,
    /// The body took too long to arrive.
    Timeout,
    /// No token, or not one of ours.
    InvalidToken,
    /// The token was ours.
    TokenExpired,
    /// Email or password is wrong.
    BadLogin,
    /// Too many failed logins of this email.
    Locked {
        /// How long it stays so.
        left: Duration,
    },
    /// The cookie came without the header that proves whose page sent it.
    Csrf,
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
        holder: Option<Id>,
    },
    /// What stands there does not allow it.
    Conflict(&'static str),
    /// The `Idempotency-Key` belongs to another request.
    KeyReused,
    /// More requests than the caller may make.
    RateLimited {
        /// Seconds until the next one is allowed.
        after: u64,
    },
    /// More than this gateway can work on.
    Overloaded,
    /// The log or the persister does not answer.
    Unavailable(&'static str),
    /// A bug. The cause is in the log lines, not in the answer.
    Internal,
}

/// Why a request failed (RFC 9457).
#[derive(Serialize, ToSchema)]
pub struct ProblemDetails {
    /// Always `about:blank`: the code says more.
    r#type: &'static str,
    /// In short.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What to do about it.
    detail: String,
    /// For programs; does not change.
    #[schema(example = "VALIDATION_ERROR")]
    code: &'static str,
    /// The same as `detail`, by the name that the old backend's clients read.
    message: String,
    /// The fields that are wrong.
    errors: Vec<FieldProblem>,
    /// To quote when asking for help; stands in the logs.
    #[schema(required = false, value_type = String)]
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// With `DUPLICATE_KEY`: what holds the key.
    #[schema(required = false, value_type = Id)]
    #[serde(skip_serializing_if = "Option::is_none")]
    existing_id: Option<Id>,
}

/// What is wrong with one field.
#[derive(Serialize, ToSchema)]
pub struct FieldProblem {
    /// A path such as `attachments[1].url`.
    field: String,
    /// What it must be.
    message: String,
}

impl From<&FieldError> for FieldProblem {
    fn from(error: &FieldError) -> FieldProblem {
        FieldProblem {
            field: error.field.clone(),
            message: error.kind.to_string(),
        }
    }
}

impl Problem {
    /// One field is wrong.
    pub fn field(field: impl Into<String>, kind: impl Into<FieldErrorKind>) -> Problem {
        Problem::Validation(vec![FieldError {
            field: field.into(),
            kind: kind.into(),
        }])
    }

    /// For an error that a library answered by itself, whose text is not for clients.
    pub fn of_status(status: StatusCode) -> Problem {
        match status {
            StatusCode::NOT_FOUND => Problem::NotFound("path"),
            StatusCode::METHOD_NOT_ALLOWED => Problem::Method,
            StatusCode::REQUEST_TIMEOUT => Problem::Timeout,
            StatusCode::PAYLOAD_TOO_LARGE => Problem::TooLarge,
            StatusCode::URI_TOO_LONG => Problem::UriTooLong,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::MediaType,
            status if status.is_client_error() => {
                Problem::BadRequest("the request cannot be understood")
            }
            _ => Problem::Internal,
        }
    }

    /// What a failed query means to a client who asked for `what`.
    pub fn missing(what: &'static str) -> impl Fn(QueryError) -> Problem {
        move |error| match error {
            QueryError::NotFound => Problem::NotFound(what),
            other => other.into(),
        }
    }

    /// The document, with the HTTP status that it has too.
    pub fn document(&self) -> (StatusCode, ProblemDetails) {
        let (status, title, code, detail) = self.parts();
        let errors = match self {
            Problem::Validation(errors) => errors.iter().map(FieldProblem::from).collect(),
            _ => Vec::new(),
        };
        let existing_id = match self {
            Problem::Duplicate { holder, .. } => *holder,
            _ => None,
        };
        let document = ProblemDetails {
            r#type: "about:blank",
            title,
            status: status.as_u16(),
            message: detail.clone(),
            detail,
            code,
            errors,
            request_id: REQUEST_ID.try_with(Clone::clone).ok(),
            existing_id,
        };
        (status, document)
    }

    fn parts(&self) -> (StatusCode, &'static str, &'static str, String) {
        use StatusCode as S;
        match self {
            Problem::Validation(errors) => {
                let first = errors.first().map(|e| format!("{} {}", e.field, e.kind)).unwrap_or_default();
                (S::BAD_REQUEST, "Validation failed", "VALIDATION_ERROR", first)
            }
            Problem::BadId(name) => (S::BAD_REQUEST, "Bad id", "CAST_ERROR", format!("{name} must be 24 hex digits")),
            Problem::BadRequest(why) => (S::BAD_REQUEST, "Bad request", "BAD_REQUEST", (*why).into()),
            Problem::BadJson(why) => {
                (S::BAD_REQUEST, "Bad JSON", "VALIDATION_ERROR", format!("the body is not JSON that can be taken: {why}"))
            }
            Problem::MediaType => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "Unsupported media type",
                "UNSUPPORTED_MEDIA_TYPE",
                "send Content-Type: application/json".into(),
            ),
            Problem::TooLarge => (
                S::PAYLOAD_TOO_LARGE,
                "Too large",
                "PAYLOAD_TOO_LARGE",
                "the body is larger than this path takes, which is 10 MB for messages".into(),
            ),
            Problem::UriTooLong => (S::URI_TOO_LONG, "Too long", "URI_TOO_LONG", "path and query string are too long".into()),
            Problem::Timeout => (S::REQUEST_TIMEOUT, "Timeout", "TIMEOUT", "the body did not arrive in time".into()),
            Problem::InvalidToken => {
                (S::UNAUTHORIZED, "Not authenticated", "INVALID_TOKEN", "send a valid bearer token or x-api-key".into())
            }
            Problem::TokenExpired => (S::UNAUTHORIZED, "Token expired", "TOKEN_EXPIRED", "the token has expired; log in again".into()),
            Problem::BadLogin => (S::UNAUTHORIZED, "Login failed", "INVALID_CREDENTIALS", "email or password is wrong".into()),
            Problem::Locked { left } => (
                S::LOCKED,
                "Account locked",
                "ACCOUNT_LOCKED",
                format!("too many failed logins; try again in {} minutes", left.as_secs().div_ceil(60)),
            ),
            Problem::Csrf => (S::FORBIDDEN, "Forbidden", "CSRF", "the header X-CSRF-Token must equal the cookie csrfToken".into()),
            Problem::Forbidden(why) => (S::FORBIDDEN, "Forbidden", "FORBIDDEN", (*why).into()),
            Problem::NotFound(what) => (S::NOT_FOUND, "Not found", "NOT_FOUND", format!("{what} not found")),
            Problem::Method => (S::METHOD_NOT_ALLOWED, "Method not allowed", "METHOD_NOT_ALLOWED", "this path has no such method".into()),
            Problem::Duplicate { key, holder: Some(id) } => (S::CONFLICT, "Duplicate", "DUPLICATE_KEY", format!("{key} is taken by {id}")),
            Problem::Duplicate { key, holder: None } => (S::CONFLICT, "Duplicate", "DUPLICATE_KEY", format!("{key} is taken")),
            Problem::Conflict(why) => (S::CONFLICT, "Conflict", "CONFLICT", (*why).into()),
            Problem::KeyReused => (
                S::UNPROCESSABLE_ENTITY,
                "Idempotency key reused",
                "IDEMPOTENCY_KEY_REUSED",
                "this Idempotency-Key came with another body before; choose a new key for a new request".into(),
            ),
            Problem::RateLimited { after } => (
                S::TOO_MANY_REQUESTS,
                "Too many requests",
                "RATE_LIMITED",
                format!("too many requests; the next one is possible in {after} s"),
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
        let mut response = (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], json).into_response();
        let headers = response.headers_mut();
        match (status, self) {
            (_, Problem::RateLimited { after }) => {
                drop(headers.insert(header::RETRY_AFTER, after.into()))
            }
            // Rounded up: a moment too early would be refused again.
            (_, Problem::Locked { left }) => {
                drop(headers.insert(header::RETRY_AFTER, (left.as_secs() + 1).into()))
            }
            (StatusCode::SERVICE_UNAVAILABLE, _) => {
                drop(headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS.into()))
            }
            (StatusCode::UNAUTHORIZED, _) => {
                drop(headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
            }
            _ => {}
        }
        response
    }
}

/// What a client calls a unique key.
pub fn key_name(key: &DedupKey) -> &'static str {
    match key {
        DedupKey::External { .. } => "external_message_id",
        DedupKey::Request(_) => "Idempotency-Key",
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Problem {
        match error {
            PublishError::Overloaded => Problem::Overloaded,
            PublishError::Taken(holder) => Problem::Duplicate {
                key: key_name(&holder.key.key),
                holder: Some(holder.message_id),
            },
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

impl From<BucketError> for Problem {
    fn from(error: BucketError) -> Problem {
        match error {
            BucketError::Overtaken => Problem::Overloaded,
            BucketError::Unavailable(_) => {
                Problem::Unavailable("the record of logins does not answer")
            }
        }
    }
}

impl From<DeadLetterError> for Problem {
    fn from(error: DeadLetterError) -> Problem {
        match error {
            DeadLetterError::NotFound => Problem::NotFound("dead letter"),
            DeadLetterError::Resolved(State::Discarded) => {
                Problem::Conflict("the dead letter is discarded")
            }
            DeadLetterError::Resolved(State::Replaying) => Problem::Conflict(
                "a replay of the dead letter was begun: ask for it again to complete it",
            ),
            DeadLetterError::Resolved(_) => Problem::Conflict("the dead letter is replayed"),
            DeadLetterError::Refused(_) => {
                Problem::Conflict("the dead letter cannot be replayed: no stream takes its message")
            }
            DeadLetterError::ForOperators => {
                Problem::Forbidden("this kind of message can only be replayed by an operator")
            }
            DeadLetterError::Unavailable(why) => {
                warn!(why, "the dead letters do not answer");
                Problem::Unavailable("the dead letters do not answer")
            }
        }
    }
}
