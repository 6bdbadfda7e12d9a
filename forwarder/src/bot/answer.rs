//! The end of a call to the bot: how the call ended, and what the bot's answer says. What follows
//! for the message is not decided here; see `delivery::verdict`.

use std::time::Duration;

use runtime::net::http_client;
use runtime::net::platform_error::Reply;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// There was an answer: of the bot, or of something on the road to the bot.
    Answered(Answer),
    /// There was no connection, so the bot has seen nothing.
    NoConnection,
    /// There was no answer within the time limit. The bot may have taken the message. Because of the
    /// idempotency key, a repetition does no harm.
    TimedOut,
    /// The connection broke before the answer was there.
    Broken,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The time that the header `Retry-After` asks for.
    pub retry_after: Option<Duration>,
    /// What the body says.
    pub reply: Reply,
}

impl Ending {
    /// Reads the end of a call. The token is hidden in the words that are kept. A body that breaks
    /// off is read as far as it came, because the status is what counts then.
    pub fn read(ending: http_client::Ending, token: &str) -> Ending {
        match ending {
            http_client::Ending::Answered(answer) => Ending::Answered(Answer {
                status: answer.status,
                retry_after: answer.retry_after,
                reply: Reply::read(answer.body.bytes(), &[token]),
            }),
            http_client::Ending::NoConnection => Ending::NoConnection,
            http_client::Ending::TimedOut => Ending::TimedOut,
            http_client::Ending::Broken => Ending::Broken,
        }
    }
}
