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

/// The content type of problem documents.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");
/// The seconds that a client is asked to wait after a 503 before it tries again.
const RETRY_AFTER_SECONDS: u64 = 1;

tokio::task_local! {
    /// The id of the request that the task answers. Every problem document names it.
    pub static REQUEST_ID: String;
}

/// Why a request fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Fields are missing or wrong.
    Validation(Vec<FieldError>),
    /// An id is not 24 hex digits.
    BadId(&'static str),
    /// The request cannot be read at all. No field was looked at.
    BadRequest(&'static str),
    /// The body is not JSON, or exceeds a bound of `json_object`.
    BadJson(String),
    /// The content type is not JSON.
    MediaType,
    /// The body is compressed in a way that the gateway does not know.
    Encoding,
    /// The body is larger than the path takes.
    TooLarge,
    /// Path and query string together are too long.
    UriTooLong,
    /// The body took too long to arrive.
    Timeout,
    /// The request has no valid token or key.
    InvalidToken,
    /// The token was valid once.
    TokenExpired,
    /// Email or password is wrong.
    BadLogin,
    /// The email has too many failed logins.
    Locked {
        /// The time until the lock ends.
        left: Duration,
    },
    /// A cookie came without the header that a page of the API's own site sends.
    Csrf,
    /// The caller may not do this. The text says why.
    Forbidden(&'static str),
    /// The named thing does not exist, or is another company's.
    NotFound(&'static str),
    /// The path has no such method.
    Method,
    /// A unique key belongs to another thing.
    Duplicate {
        /// What clients call the key.
        key: &'static str,
        /// The thing that the key belongs to, if it is known.
        owner: Option<Id>,
    },
    /// The state of a thing does not allow the change. The text says why.
    Conflict(&'static str),
    /// The `Idempotency-Key` belongs to another request.
    KeyReused,
    /// More requests than the caller may make.
    RateLimited {
        /// The seconds until the next request is allowed.
        after: u64,
    },
    /// The gateway works on too many requests.
    Overloaded,
    /// A part of the system does not answer. The text says which.
    Unavailable(&'static str),
    /// A bug. A log line has the cause, and the answer does not.
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

    /// The problem for an error that a library answered by itself. Its text is not for clients.
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

    /// What a failed query means to a client who asked for `what`: where the persister has not
    /// found it, `what` is not found.
    pub fn missing(what: &'static str) -> impl Fn(QueryError) -> Problem {
        move |error| match error {
            QueryError::NotFound => Problem::NotFound(what),
            other => other.into(),
        }
    }

    /// The document, with the HTTP status that it has too.
    pub fn document(&self) -> (StatusCode, ProblemDetails) {
        let (status, title, code) = self.kind();
        let detail = self.detail();
        let errors = match self {
            Problem::Validation(errors) => errors.iter().map(FieldProblem::from).collect(),
            _ => Vec::new(),
        };
        let existing_id = match self {
            Problem::Duplicate { owner, .. } => *owner,
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

    /// Status, title and code.
    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Problem::Validation(_) => (S::BAD_REQUEST, "Validation failed", "VALIDATION_ERROR"),
            Problem::BadId(_) => (S::BAD_REQUEST, "Bad id", "CAST_ERROR"),
            Problem::BadRequest(_) => (S::BAD_REQUEST, "Bad request", "BAD_REQUEST"),
            Problem::BadJson(_) => (S::BAD_REQUEST, "Bad JSON", "VALIDATION_ERROR"),
            Problem::MediaType => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "Unsupported media type",
                "UNSUPPORTED_MEDIA_TYPE",
            ),
            Problem::Encoding => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "Unsupported content encoding",
                "UNSUPPORTED_MEDIA_TYPE",
            ),
            Problem::TooLarge => (S::PAYLOAD_TOO_LARGE, "Too large", "PAYLOAD_TOO_LARGE"),
            Problem::UriTooLong => (S::URI_TOO_LONG, "Too long", "URI_TOO_LONG"),
            Problem::Timeout => (S::REQUEST_TIMEOUT, "Timeout", "TIMEOUT"),
            Problem::InvalidToken => (S::UNAUTHORIZED, "Not authenticated", "INVALID_TOKEN"),
            Problem::TokenExpired => (S::UNAUTHORIZED, "Token expired", "TOKEN_EXPIRED"),
            Problem::BadLogin => (S::UNAUTHORIZED, "Login failed", "INVALID_CREDENTIALS"),
            Problem::Locked { .. } => (S::LOCKED, "Account locked", "ACCOUNT_LOCKED"),
            Problem::Csrf => (S::FORBIDDEN, "Forbidden", "CSRF"),
            Problem::Forbidden(_) => (S::FORBIDDEN, "Forbidden", "FORBIDDEN"),
            Problem::NotFound(_) => (S::NOT_FOUND, "Not found", "NOT_FOUND"),
            Problem::Method => (
                S::METHOD_NOT_ALLOWED,
                "Method not allowed",
                "METHOD_NOT_ALLOWED",
            ),
            Problem::Duplicate { .. } => (S::CONFLICT, "Duplicate", "DUPLICATE_KEY"),
            Problem::Conflict(_) => (S::CONFLICT, "Conflict", "CONFLICT"),
            Problem::KeyReused => (
                S::UNPROCESSABLE_ENTITY,
                "Idempotency key reused",
                "IDEMPOTENCY_KEY_REUSED",
            ),
            Problem::RateLimited { .. } => {
                (S::TOO_MANY_REQUESTS, "Too many requests", "RATE_LIMITED")
            }
            Problem::Overloaded => (S::SERVICE_UNAVAILABLE, "Overloaded", "OVERLOADED"),
            Problem::Unavailable(_) => (S::SERVICE_UNAVAILABLE, "Unavailable", "UNAVAILABLE"),
            Problem::Internal => (S::INTERNAL_SERVER_ERROR, "Internal error", "INTERNAL"),
        }
    }

    /// What the client can do about the problem.
    fn detail(&self) -> String {
        let text = match self {
            Problem::Validation(errors) => {
                let first = errors.first();
                return first.map_or_else(String::new, |e| format!("{} {}", e.field, e.kind));
            }
            Problem::BadId(name) => return format!("{name} must be 24 hex digits"),
            Problem::BadJson(why) => {
                return format!("the body is not JSON that can be taken: {why}");
            }
            Problem::BadRequest(why) | Problem::Forbidden(why) | Problem::Conflict(why) => why,
            Problem::MediaType => "send Content-Type: application/json",
            Problem::Encoding => {
                "send the body with Content-Encoding gzip or deflate, or with none"
            }
            Problem::TooLarge => {
                "the body is larger than this path takes, which is 10 MB for messages"
            }
            Problem::UriTooLong => "path and query string are too long",
            Problem::Timeout => "the body did not arrive in time",
            Problem::InvalidToken => "send a valid bearer token or x-api-key",
            Problem::TokenExpired => "the token has expired; log in again",
            Problem::BadLogin => "email or password is wrong",
            Problem::Locked { left } => {
                let minutes = left.as_secs().div_ceil(60);
                return format!("too many failed logins; try again in {minutes} minutes");
            }
            Problem::Csrf => "the header X-CSRF-Token must equal the cookie csrfToken",
            Problem::NotFound(what) => return format!("{what} not found"),
            Problem::Method => "this path has no such method",
            Problem::Duplicate { key, owner } => {
                return match owner {
                    Some(owner) => format!("{key} is taken by {owner}"),
                    None => format!("{key} is taken"),
                };
            }
            Problem::KeyReused => {
                "this Idempotency-Key came with another body before; choose a new key for a new \
                 request"
            }
            Problem::RateLimited { after } => {
                return format!("too many requests; the next one is possible in {after} s");
            }
            Problem::Overloaded => "too many requests are being worked on; try again",
            Problem::Unavailable(what) => {
                return format!(
                    "{what}; try again, with the same Idempotency-Key if it is a create"
                );
            }
            Problem::Internal => "something went wrong on our side",
        };
        text.to_owned()
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
            // Rounded up, because a retry a moment too early would be refused again.
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
            PublishError::Taken(owner) => Problem::Duplicate {
                key: key_name(&owner.key.key),
                owner: Some(owner.message_id),
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
