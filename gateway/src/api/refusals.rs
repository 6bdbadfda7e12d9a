//! What a request can end with other than with what it asked for.

#![expect(dead_code, reason = "they describe, nobody makes them")]

use contract::Id;
use utoipa::{IntoResponses, ToSchema};

/// What is wrong with one field.
#[derive(ToSchema)]
pub struct FieldProblem {
    /// A path such as `attachments[1].url`.
    field: String,
    /// What it must be.
    message: String,
}

/// Why a request failed (RFC 9457).
#[derive(ToSchema)]
pub struct ProblemDetails {
    /// Always `about:blank`: the code says more.
    r#type: String,
    /// In short.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What to do about it.
    detail: String,
    /// For programs; does not change.
    #[schema(example = "VALIDATION_ERROR")]
    code: String,
    /// The same as `detail`, by the name that the old backend's clients read.
    message: String,
    /// The fields that are wrong.
    errors: Vec<FieldProblem>,
    /// To quote when asking for help; stands in the logs.
    #[schema(required = false)]
    request_id: String,
    /// With `DUPLICATE_KEY`: what holds the key.
    #[schema(required = false)]
    existing_id: Id,
}

/// What any request can meet.
#[derive(IntoResponses)]
pub enum Refused {
    /// Fields are missing or wrong, an id is not 24 hex digits, or the body is not JSON.
    #[response(status = 400, content_type = "application/problem+json")]
    Bad(ProblemDetails),
    /// The request did not arrive in time.
    #[response(status = 408, content_type = "application/problem+json")]
    Slow(ProblemDetails),
    /// More than 10 MB; under `/auth` 16 KiB; about contacts, integrations, targets and dead
    /// letters 128 KiB.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemDetails),
    /// Path and query string are longer than 4 KiB.
    #[response(status = 414, content_type = "application/problem+json")]
    UriTooLong(ProblemDetails),
    /// More requests than the limit; `Retry-After` says when there is room.
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(ProblemDetails),
    /// The log, the database or this gateway is overloaded or away; `Retry-After` says when to try
    /// again.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(ProblemDetails),
}

/// What any request with a caller can meet.
#[derive(IntoResponses)]
pub enum Denied {
    /// No token or key, or not a good one.
    #[response(status = 401, content_type = "application/problem+json")]
    Unknown(ProblemDetails),
    /// The caller may not, or `company_id` is another company.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(ProblemDetails),
}

/// What any request with a body can meet.
#[derive(IntoResponses)]
pub enum BadBody {
    /// The body is not `application/json`.
    #[response(status = 415, content_type = "application/problem+json")]
    MediaType(ProblemDetails),
}

/// What a request for one thing can meet.
#[derive(IntoResponses)]
pub enum Missing {
    /// It does not exist, or is another company's.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(ProblemDetails),
}

/// What a create can meet.
#[derive(IntoResponses)]
pub enum Taken {
    /// `DUPLICATE_KEY`: the email or `external_message_id` is taken.
    #[response(status = 409, content_type = "application/problem+json")]
    Duplicate(ProblemDetails),
}

/// What an edit of a message can meet.
#[derive(IntoResponses)]
pub enum Emptied {
    /// `CONFLICT`: neither content nor attachments would be left.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemDetails),
}

/// What a create with a key can meet.
#[derive(IntoResponses)]
pub enum Reused {
    /// `IDEMPOTENCY_KEY_REUSED`: the key came with another body before.
    #[response(status = 422, content_type = "application/problem+json")]
    Key(ProblemDetails),
}

/// What a login can meet.
#[derive(IntoResponses)]
pub enum BadLogin {
    /// Email or password is wrong, or the refresh token is not good.
    #[response(status = 401, content_type = "application/problem+json")]
    Wrong(ProblemDetails),
}

/// What one who is not known can meet.
#[derive(IntoResponses)]
pub enum Forbidden {
    /// The invitation is not good, or is for another email; in cookie mode, the CSRF token is
    /// missing.
    #[response(status = 403, content_type = "application/problem+json")]
    Denied(ProblemDetails),
}

/// What repeated failures lead to.
#[derive(IntoResponses)]
pub enum Locked {
    /// `ACCOUNT_LOCKED`: too many failures; `Retry-After` says how long.
    #[response(status = 423, content_type = "application/problem+json")]
    Out(ProblemDetails),
}

/// What a dead letter can meet of which something has become.
#[derive(IntoResponses)]
pub enum Settled {
    /// `CONFLICT`: it was discarded and is to be replayed, or the other way round; or no stream
    /// takes its message.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemDetails),
}

/// What a change can end with.
#[derive(IntoResponses)]
pub enum Later {
    /// It is in the log and will be applied; it was not within the time that a request waits.
    #[response(status = 202)]
    Accepted(Accepted),
}

/// A change that is durable and not applied yet.
#[derive(ToSchema)]
pub struct Accepted {
    message: String,
    /// Where the log has it.
    seq: u64,
}
