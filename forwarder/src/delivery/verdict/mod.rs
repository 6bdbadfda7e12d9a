//! What the end of a call to the bot means for the message, and for the breaker. Knows neither HTTP
//! client nor NATS.

use std::time::Duration;

use runtime::net::platform_error::{About, PlatformError};

use crate::bot::answer::{Answer, Ending};
use crate::bot::breaker::Signal;

/// Statuses about the address, the method, a proxy or the connection, and not about a message. They
/// are final only with an error of the Graph API.
const ROAD_STATUSES: &[u16] = &[404, 405, 407, 421, 426];
/// The status of a failure that the body of a 2xx tells of without a status or a code of its own.
const UNNAMED_FAILURE: u16 = 422;

/// What follows from the end of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The bot has the message.
    Delivered,
    /// The same call may succeed later.
    Retry {
        /// Short text for staff, without bodies and tokens. So are the texts below.
        error: String,
        /// The least pause that is asked for.
        after: Option<Duration>,
    },
    /// The call may succeed once staff have replaced the token.
    Hold { error: String },
    /// The refusal may be about the company, or about this one message or customer. Only other
    /// conversations can tell; see `token_holds`.
    Unclear { error: String },
    /// The call will never succeed.
    Reject { error: String },
}

impl Verdict {
    /// The label `result` of the metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Verdict::Delivered => "delivered",
            Verdict::Retry { .. } => "retry",
            Verdict::Hold { .. } => "hold",
            Verdict::Unclear { .. } => "unclear",
            Verdict::Reject { .. } => "reject",
        }
    }
}

/// Judges the end of a call. `is_repeated` says that the message may have been sent before, under
/// the same idempotency key.
pub fn judge(ending: &Ending, is_repeated: bool) -> Verdict {
    let retry = |error: &str| Verdict::Retry {
        error: error.to_owned(),
        after: None,
    };
    match ending {
        Ending::NoConnection => retry("no connection to the bot"),
        Ending::TimedOut => retry("no answer from the bot in time"),
        Ending::Broken => retry("the connection to the bot broke"),
        Ending::Answered(answer) => judge_answer(answer, is_repeated),
    }
}

fn judge_answer(answer: &Answer, is_repeated: bool) -> Verdict {
    let reply = &answer.reply;
    let text = |meaning| reply.describe(answer.status, meaning);
    let retry = |meaning| Verdict::Retry {
        error: text(meaning),
        after: answer.retry_after,
    };
    if is_of_the_road(answer) {
        return retry(Some("not an answer of the bot"));
    }
    let is_success = (200..=299).contains(&answer.status);
    if is_success && !reply.is_failure {
        return Verdict::Delivered;
    }
    match reply.graph().map(|error| error.about()) {
        Some(About::Token) => {
            return Verdict::Hold {
                error: text(Some("the token is invalid")),
            };
        }
        Some(About::Passing) => return retry(None),
        Some(About::Permission) => {
            return Verdict::Unclear {
                error: text(Some("a permission is missing")),
            };
        }
        Some(About::Customer | About::Request) => return Verdict::Reject { error: text(None) },
        Some(About::Unknown) | None => {}
    }
    let status = match &reply.error {
        _ if !is_success => answer.status,
        Some(PlatformError::Own {
            status: Some(status),
            ..
        }) => *status,
        _ => UNNAMED_FAILURE,
    };
    match status {
        401 | 403 => Verdict::Unclear {
            error: text(Some("access refused")),
        },
        // The bot knows the idempotency key, so it has the message.
        409 if is_repeated => Verdict::Delivered,
        408 | 425 | 429 => retry(None),
        400..=499 => Verdict::Reject { error: text(None) },
        _ => retry(None),
    }
}

/// Whether an answer tells about the road to the bot, and nothing about the message: it comes from a
/// proxy, a firewall, or a server that is not the bot, because it carries neither the bot's own error
/// nor that of the Graph API. Staff can correct the road before the message's deadline.
fn is_of_the_road(answer: &Answer) -> bool {
    let Answer { status, reply, .. } = answer;
    match status {
        // An empty answer is one of the bot: 409 is about the idempotency key, which no proxy knows.
        200..=299 | 409 => reply.is_page,
        // These are retried anyway, and 429 does not mean that the bot is down.
        408 | 425 | 429 | 500..=599 => false,
        400..=499 => match &reply.error {
            Some(PlatformError::Graph(_)) => false,
            Some(PlatformError::Own { .. }) => ROAD_STATUSES.contains(status),
            None => true,
        },
        // Most likely a redirect, because the bot's address is wrong.
        _ => reply.graph().is_none(),
    }
}

/// Calls for one message after which a failure is a [`Signal::RepeatedFailure`], because the cause may
/// be the message.
const TELLING_CALLS: u32 = 3;

/// What a call says about the bot as a whole. `calls` counts the calls for the message, this one
/// included.
pub fn signal(ending: &Ending, calls: u32) -> Signal {
    let is_failure = match ending {
        Ending::NoConnection | Ending::TimedOut | Ending::Broken => true,
        Ending::Answered(answer) => {
            is_of_the_road(answer)
                || (500..=599).contains(&answer.status) && answer.reply.graph().is_none()
        }
    };
    match is_failure {
        false => Signal::Success,
        true if calls > TELLING_CALLS => Signal::RepeatedFailure,
        true => Signal::Failure,
    }
}

#[cfg(test)]
mod tests;
