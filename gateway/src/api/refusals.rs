//! The OpenAPI document's answers to a request that is not answered with what it asked for. Each
//! type is a set of answers that several operations share. Decides nothing: when a request is
//! refused is up to the handlers and the middleware.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::openapi::{ContentBuilder, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use super::problem::ProblemDetails;
use super::schema::reference;

type Answers = BTreeMap<String, RefOr<Response>>;

/// Declares sets of answers, each a problem document with its status.
macro_rules! refusals {
    ($($(#[doc = $doc:literal])* $name:ident { $($status:literal: $text:expr,)+ })+) => {$(
        $(#[doc = $doc])*
        pub enum $name {}

        impl IntoResponses for $name {
            fn responses() -> Answers {
                [$(problem($status, $text)),+].into()
            }
        }
    )+};
}

fn problem(status: u16, text: &str) -> (String, RefOr<Response>) {
    let document = ContentBuilder::new().schema(Some(reference::<ProblemDetails>()));
    let answer = ResponseBuilder::new()
        .description(text)
        .content("application/problem+json", document.build());
    (status.to_string(), answer.build().into())
}

refusals! {
    /// What any request can meet.
    Refused {
        400: "Fields are missing or wrong, an id is not 24 hex digits, or the body is not JSON.",
        408: "The request did not arrive in time.",
        413: "More than 10 MB; under `/auth` 16 KiB; about contacts, integrations, targets and \
              dead letters 128 KiB.",
        414: "Path and query string are longer than 4 KiB.",
        429: "More requests than the limit; `Retry-After` says when there is room.",
        503: "The log, the database or this gateway is overloaded or away; `Retry-After` says when \
              to try again.",
    }

    /// What a request can meet that needs a caller.
    Denied {
        401: "No token or key, or not a good one.",
        403: "The caller may not, or `company_id` is another company.",
    }

    /// What a request with a body can meet.
    BadBody {
        415: "The body is not `application/json`.",
    }

    /// What a request about one thing can meet.
    Missing {
        404: "It does not exist, or is another company's.",
    }

    /// What a create can meet.
    Taken {
        409: "`DUPLICATE_KEY`: the email, `external_message_id` or id on a platform is taken;
              `existing_id` names its owner if it is known.",
    }

    /// What an edit of a message can meet.
    Emptied {
        409: "`CONFLICT`: neither content nor attachments would be left.",
    }

    /// What a create with an `Idempotency-Key` can meet.
    Reused {
        422: "`IDEMPOTENCY_KEY_REUSED`: the key came with another body before.",
    }

    /// What a login can meet.
    BadLogin {
        401: "Email or password is wrong, or the refresh token is not good.",
    }

    /// What a registration or a refresh can meet.
    Forbidden {
        403: "The invitation is not good, or is for another email; in cookie mode, the CSRF token \
              is missing.",
    }

    /// What repeated failures of a login lead to.
    Locked {
        423: "`ACCOUNT_LOCKED`: too many failures; `Retry-After` says how long.",
    }

    /// What a dead letter can meet that is no longer open.
    Resolved {
        409: "`CONFLICT`: it was discarded and is to be replayed, or the other way round; or no \
              stream takes its message.",
    }
}

/// A change that is durable and not applied yet.
#[derive(Serialize, ToSchema)]
pub struct Accepted {
    message: &'static str,
    /// Where the log has it.
    seq: u64,
}

impl Accepted {
    /// `seq`: where the log has the change.
    pub fn new(seq: u64) -> Accepted {
        Accepted {
            message: "Accepted; it will be applied",
            seq,
        }
    }
}

impl IntoResponses for Accepted {
    fn responses() -> Answers {
        let body = ContentBuilder::new().schema(Some(reference::<Accepted>()));
        let answer = ResponseBuilder::new()
            .description(
                "It is in the log and will be applied; it was not within the time that a request \
                 waits.",
            )
            .content("application/json", body.build());
        [("202".to_owned(), answer.build().into())].into()
    }
}
