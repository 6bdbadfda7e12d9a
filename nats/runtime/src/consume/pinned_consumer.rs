//! One partition of a work queue, of which one process at a time is the owner: a durable consumer
//! that the server pins to one member of a group. Gives the messages in order, from the oldest
//! unsettled one on; settles none.
//!
//! A pin alone does not keep order: messages that the last owner had not settled would come after
//! newer ones. So a new owner has the server begin again at the first unsettled message, and passes
//! over messages that were on their way before that.

use async_nats::jetstream::Message;

use crate::consume::durable::find_or_make;
use crate::consume::pull::{Pull, PullError, Pulled};
use crate::net::connection::{Connection, REQUEST_TIMEOUT};

/// Messages that one request asks for.
const BATCH: usize = 256;
/// The header with the pin, on each message to a pinned member.
const PIN_ID: &str = "Nats-Pin-Id";

/// What [`PinnedConsumer::next`] brings.
pub enum Arrival {
    /// The server has pinned this member. No message comes before [`PinnedConsumer::take_over`].
    Pin,
    /// The next message.
    Message(Box<Message>),
}

/// What a new owner finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// No message above this stream sequence was sent to an owner before.
    pub delivered_to: u64,
}

/// Why a member of the group is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum PinnedError {
    /// The consumer at the server is another one than the contract says.
    #[error("the consumer pins nobody: compare it with the contract")]
    NotPinning,
    /// Another member has the pin.
    #[error("the pin was lost")]
    PinLost,
    /// Messages are missing.
    #[error("message {seq} came instead of {expected}: some are lost, or the consumer was reset")]
    Gap {
        /// The consumer sequence that came.
        seq: u64,
        /// The consumer sequence that was due.
        expected: u64,
    },
    /// Messages cannot be asked for.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// The server does not answer, or refuses.
    #[error(transparent)]
    Server(async_nats::Error),
}

fn server(error: impl Into<async_nats::Error>) -> PinnedError {
    PinnedError::Server(error.into())
}

/// A member of the consumer's group.
pub struct PinnedConsumer {
    connection: Connection,
    stream: &'static str,
    consumer: String,
    group: &'static str,
    pull: Pull,
    pin: Option<String>,
    /// The consumer sequence of the next message; `None` until taken over.
    expected: Option<u64>,
    /// Whether the first expected message has come. Before that another sequence is a straggler,
    /// after that it is a gap.
    begun: bool,
    /// The last stream sequence of the messages that [`PinnedConsumer::nudge`] had sent again.
    sent_to: u64,
}

impl PinnedConsumer {
    /// Joins the group. A consumer that was deleted is made anew, as `setup` makes it.
    ///
    /// # Errors
    /// The consumer cannot be had.
    pub async fn open(
        connection: &Connection,
        stream: &'static str,
        consumer: String,
        group: &'static str,
    ) -> Result<PinnedConsumer, PinnedError> {
        find_or_make(&connection.jetstream, stream, &consumer)
            .await
            .map_err(server)?;
        let pull = Pull::open(connection, stream, &consumer)
            .await?
            .in_group(group);
        Ok(PinnedConsumer {
            connection: connection.clone(),
            stream,
            consumer,
            group,
            pull,
            pin: None,
            expected: None,
            begun: false,
            sent_to: 0,
        })
    }

    /// Waits for a pin, then for messages. Must be awaited all the time: because only a member that
    /// asks for messages keeps the pin, any other wait could lose it. May be cancelled and called
    /// again.
    ///
    /// # Errors
    /// The pin or the server is lost, or messages are missing. Then this member is of no more use.
    pub async fn next(&mut self) -> Result<Arrival, PinnedError> {
        loop {
            if !self.pull.is_open() {
                self.pull.request(BATCH).await?;
            }
            let Pulled::Message(message) = self.pull.next().await? else {
                continue;
            };
            let pin = message
                .headers
                .as_ref()
                .and_then(|h| h.get(PIN_ID))
                .map(|v| v.as_str());
            match (&self.pin, pin) {
                (_, None) => return Err(PinnedError::NotPinning),
                (Some(ours), Some(theirs)) if ours == theirs => {}
                (Some(_), Some(_)) => return Err(PinnedError::PinLost),
                (None, Some(pin)) => {
                    self.pull.set_pin(pin.to_owned());
                    self.pin = Some(pin.to_owned());
                    return Ok(Arrival::Pin);
                }
            }
            let seq = message.info().map_err(server)?.consumer_sequence;
            let Some(expected) = self.expected else {
                continue;
            };
            if seq == expected {
                (self.expected, self.begun) = (Some(expected + 1), true);
                return Ok(Arrival::Message(message));
            }
            if self.begun {
                return Err(PinnedError::Gap { seq, expected });
            }
        }
    }

    /// Has the server begin again at the first unsettled message.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn take_over(&mut self) -> Result<Takeover, PinnedError> {
        let stream = self
            .connection
            .jetstream
            .get_stream_no_info(self.stream)
            .await
            .map_err(server)?;
        let before = stream.consumer_info(&self.consumer).await.map_err(server)?;
        let reset = stream
            .reset_consumer(&self.consumer, None)
            .await
            .map_err(server)?;
        (self.expected, self.begun) = (Some(reset.info.ack_floor.consumer_sequence + 1), false);
        Ok(Takeover {
            delivered_to: before.delivered.stream_sequence.max(self.sent_to),
        })
    }

    /// The consumer sequence of the last message that has come.
    pub fn seen(&self) -> Option<u64> {
        self.expected.map(|next| next - 1)
    }

    /// The state of the consumer at the server.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn state(
        connection: &Connection,
        stream: &str,
        consumer: &str,
    ) -> Result<ConsumerState, PinnedError> {
        let stream = connection
            .jetstream
            .get_stream_no_info(stream)
            .await
            .map_err(server)?;
        let info = stream.consumer_info(consumer).await.map_err(server)?;
        let pinned = info
            .priority_groups
            .iter()
            .any(|group| group.pinned_client_id.is_some());
        Ok(ConsumerState {
            pending: info.num_pending,
            in_work: info.num_ack_pending as u64,
            delivered: info.delivered.consumer_sequence,
            pinned,
        })
    }

    /// Has the server send again the messages that the last owner had not settled. The server pins
    /// a member only together with a message, and all messages were sent already.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn nudge(&mut self) -> Result<(), PinnedError> {
        let stream = self
            .connection
            .jetstream
            .get_stream_no_info(self.stream)
            .await
            .map_err(server)?;
        let before = stream.consumer_info(&self.consumer).await.map_err(server)?;
        self.sent_to = self.sent_to.max(before.delivered.stream_sequence);
        stream
            .reset_consumer(&self.consumer, None)
            .await
            .map(drop)
            .map_err(server)
    }

    /// Leaves the group. If this member has the pin, the server pins another one at once instead of
    /// after the pin's timeout. Another member's pin is left alone.
    pub async fn release(self) {
        let PinnedConsumer {
            connection,
            stream,
            consumer,
            group,
            pull,
            pin,
            ..
        } = self;
        // The open request must be gone first. Otherwise this member would be pinned again.
        drop(pull);
        if pin.is_none() || !connection.is_connected() {
            return;
        }
        let unpin = async {
            let _ = connection.client.flush().await;
            let Ok(stream) = connection.jetstream.get_stream_no_info(stream).await else {
                return;
            };
            let Ok(info) = stream.consumer_info(&consumer).await else {
                return;
            };
            if info
                .priority_groups
                .iter()
                .any(|of| of.group == group && of.pinned_client_id == pin)
            {
                let _ = stream.unpin_consumer(&consumer, group).await;
            }
        };
        // If that fails, the pin runs out by itself.
        let _ = tokio::time::timeout(REQUEST_TIMEOUT, unpin).await;
    }
}

/// The state of a partition's consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerState {
    /// Messages that were never sent to an owner.
    pub pending: u64,
    /// Messages that were sent and are not settled.
    pub in_work: u64,
    /// The consumer sequence that was sent last.
    pub delivered: u64,
    /// Whether some member has the pin.
    pub pinned: bool,
}
