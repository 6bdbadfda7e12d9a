//! What the delivery of messages works with, and the steps that need no readable message: read the
//! content, reject, look again, settle. Does not know the bot's answers; see `attempt`.

use std::time::Duration;

use async_nats::Subject;
use async_nats::jetstream::AckKind;
use async_nats::jetstream::stream::{RawMessageError, RawMessageErrorKind};
use contract::dead_letter::Reason;
use contract::{Timestamp, inventory};
use metrics::counter;
use runtime::CancellationToken;
use runtime::dead_letters::store::{self, Failed};
use runtime::log::publisher::Publisher;
use runtime::net::connection::{Connection, REQUEST_TIMEOUT};
use runtime::seal::Keyring;
use tokio::time::Instant;
use tracing::warn;

use crate::bot::Bot;
use crate::delivery::lane_store::LaneStore;
use crate::delivery::outbound::NotOutbound;
use crate::delivery::refusals::Refusals;
use crate::delivery::token_holds::TokenHolds;
use crate::delivery::work::{After, Content, Outcome, Work};

/// The pause after which a message is looked at again whose contact, token or last step cannot be
/// had or stored. No call is counted.
pub const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often an ack is sent at most. An ack that is not confirmed by then leaves the message
/// unsettled.
const ACK_TRIES: usize = 3;

/// Delivers messages. Cloning is cheap.
#[derive(Clone)]
pub struct Forwarder {
    pub connection: Connection,
    pub publisher: Publisher,
    pub bot: Bot,
    /// Opens tokens.
    pub keyring: Keyring,
    /// The companies whose messages wait for a token.
    pub holds: TokenHolds,
    /// The refusals that may be about a company or about one conversation.
    pub refusals: Refusals,
    /// Says why lanes wait.
    pub lane_store: LaneStore,
    /// How old a message may get. An older message becomes a dead letter.
    pub deadline: Duration,
    /// The longest pause between two calls for a message, unless the bot asks for more.
    pub longest_pause: Duration,
    /// No call begins once this is cancelled.
    pub stop: CancellationToken,
    pub clock: fn() -> Timestamp,
    /// Uniform in 0..1, for the pauses between calls.
    pub jitter: fn() -> f64,
}

/// A step or a dead letter may not be stored, so the message is not done with.
#[derive(Debug)]
pub struct NotStored;

impl Forwarder {
    /// Reads a message's content from the stream.
    pub async fn read(&self, seq: u64) -> Result<Content, RawMessageError> {
        let stream = self
            .connection
            .jetstream
            .get_stream_no_info(inventory::OUTBOUND)
            .await
            .map_err(|_| RawMessageErrorKind::Other)?;
        let stored = stream.get_raw_message(seq).await?;
        Ok(Content {
            subject: stored.subject,
            headers: stored.headers,
            payload: stored.payload,
            stored_at: stored.time.into(),
        })
    }

    /// Gives a message up that cannot be read. Without a readable message there is no event for the
    /// log.
    pub async fn reject_unreadable(
        &self,
        work: &Work,
        content: &Content,
        error: NotOutbound,
    ) -> Outcome {
        let calls = work.item.calls;
        match self
            .dead_letter(work, content, calls, error.reason, &error.why)
            .await
        {
            Ok(()) => self.done(work).await,
            Err(NotStored) => self.look_again(work, "the dead letter is not stored"),
        }
    }

    /// Stores a dead letter.
    pub async fn dead_letter(
        &self,
        work: &Work,
        content: &Content,
        calls: u32,
        reason: Reason,
        why: &str,
    ) -> Result<(), NotStored> {
        let failed = Failed {
            subject: &content.subject,
            headers: &content.headers,
            payload: &content.payload,
            stream: inventory::OUTBOUND,
            stream_seq: work.item.seq,
            attempts: calls.into(),
        };
        match store::store(&self.connection, failed, reason, why, (self.clock)()).await {
            true => Ok(()),
            false => Err(NotStored),
        }
    }

    /// Looks at the message again later, because something that it needs does not answer.
    pub fn look_again(&self, work: &Work, why: &str) -> Outcome {
        counter!("forward_again_total").increment(1);
        warn!(why, seq = work.item.seq, "the message is looked at again");
        wait(work)
    }

    /// Acknowledges a message that is done with. Whether the server has confirmed this.
    pub async fn settle(&self, seq: u64, ack: Subject) -> bool {
        for _ in 0..ACK_TRIES {
            let ack = self.connection.request(ack.clone(), AckKind::Ack.into());
            if matches!(tokio::time::timeout(REQUEST_TIMEOUT, ack).await, Ok(Ok(_))) {
                return true;
            }
        }
        warn!(
            seq,
            "an acknowledgement is not confirmed; it is repeated if the message comes again"
        );
        false
    }

    /// Lets the lane's next message have its turn.
    pub async fn done(&self, work: &Work) -> Outcome {
        if work.has_entry {
            self.lane_store.remove(work.partition, work.lane).await;
        }
        Outcome {
            after: After::Next,
            has_entry: false,
        }
    }
}

/// Lets the message wait for [`LOOK_AGAIN`].
pub fn wait(work: &Work) -> Outcome {
    let after = After::Wait {
        until: Instant::now() + LOOK_AGAIN,
        calls: work.item.calls,
    };
    Outcome {
        after,
        has_entry: work.has_entry,
    }
}
