//! One partition of a work queue, of which one process at a time is the owner: a durable consumer
//! that the server pins to one member of a group. Gives its messages in order, from the oldest that
//! is not settled; it settles none.
//!
//! A pin alone does not keep order: what the last owner had not settled would come after newer
//! messages. So a new owner has the server begin again at the first unsettled message, and passes
//! over what was on its way before that.

use async_nats::jetstream::Message;

use crate::consume::pull::{Pull, Pulled};
use crate::consume::worker::find_or_make;
use crate::net::connection::{Connection, REQUEST_TIMEOUT};

/// Messages asked for at once.
const BATCH: usize = 256;
/// On each message to a pinned member: which pin.
const PIN_ID: &str = "Nats-Pin-Id";

/// What comes of waiting.
pub enum Arrival {
    /// The server has pinned this member: nothing comes before [`PinnedConsumer::take_over`].
    Pin,
    /// The next message.
    Message(Box<Message>),
}

/// What a new owner finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// Everything above this stream sequence was never sent to an owner before.
    pub delivered_to: u64,
}

/// A member of the consumer's group.
pub struct PinnedConsumer {
    connection: Connection,
    stream: &'static str,
    consumer: String,
    group: &'static str,
    pull: Pull,
    pin: Option<String>,
    /// The consumer's sequence of the next message; `None` until taken over.
    expected: Option<u64>,
    /// Whether it has come, so that another one is a gap and not a straggler.
    begun: bool,
    /// What [`PinnedConsumer::nudge`] made the server forget to have sent.
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
    ) -> Result<PinnedConsumer, String> {
        find_or_make(&connection.jetstream, stream, &consumer)
            .await
            .map_err(|e| e.to_string())?;
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

    /// Waits for a pin, then for messages. Must be awaited all the time, for it is by asking that
    /// an owner stays one. May be cancelled and called again.
    ///
    /// # Errors
    /// The pin or the server is lost, or messages are missing: this member is of no more use.
    pub async fn next(&mut self) -> Result<Arrival, String> {
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
                (_, None) => {
                    return Err("the consumer pins nobody: compare it with the contract".into());
                }
                (Some(ours), Some(theirs)) if ours == theirs => {}
                (Some(_), Some(_)) => return Err("the pin was lost".into()),
                (None, Some(pin)) => {
                    self.pull.set_pin(pin.to_owned());
                    self.pin = Some(pin.to_owned());
                    return Ok(Arrival::Pin);
                }
            }
            let seq = message.info().map_err(|e| e.to_string())?.consumer_sequence;
            let Some(expected) = self.expected else {
                continue;
            };
            if seq == expected {
                (self.expected, self.begun) = (Some(expected + 1), true);
                return Ok(Arrival::Message(message));
            }
            if self.begun {
                return Err(format!(
                    "message {seq} came instead of {expected}: some are lost, or the consumer was reset"
                ));
            }
        }
    }

    /// Has the server begin again at the first message that is not settled.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn take_over(&mut self) -> Result<Takeover, String> {
        let stream = self
            .connection
            .jetstream
            .get_stream_no_info(self.stream)
            .await
            .map_err(|e| e.to_string())?;
        let before = stream
            .consumer_info(&self.consumer)
            .await
            .map_err(|e| e.to_string())?;
        let reset = stream
            .reset_consumer(&self.consumer, None)
            .await
            .map_err(|e| e.to_string())?;
        (self.expected, self.begun) = (Some(reset.info.ack_floor.consumer_sequence + 1), false);
        Ok(Takeover {
            delivered_to: before.delivered.stream_sequence.max(self.sent_to),
        })
    }

    /// The consumer's sequence of the last message that has come.
    pub fn seen(&self) -> Option<u64> {
        self.expected.map(|next| next - 1)
    }

    /// How the consumer stands at the server.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn standing(
        connection: &Connection,
        stream: &str,
        consumer: &str,
    ) -> Result<ConsumerState, String> {
        let stream = connection
            .jetstream
            .get_stream_no_info(stream)
            .await
            .map_err(|e| e.to_string())?;
        let info = stream
            .consumer_info(consumer)
            .await
            .map_err(|e| e.to_string())?;
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

    /// Has the server send what the last owner had not settled. It pins a member only with a
    /// message, and those were all sent.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn nudge(&mut self) -> Result<(), String> {
        let stream = self
            .connection
            .jetstream
            .get_stream_no_info(self.stream)
            .await
            .map_err(|e| e.to_string())?;
        let before = stream
            .consumer_info(&self.consumer)
            .await
            .map_err(|e| e.to_string())?;
        self.sent_to = self.sent_to.max(before.delivered.stream_sequence);
        stream
            .reset_consumer(&self.consumer, None)
            .await
            .map(drop)
            .map_err(|e| e.to_string())
    }

    /// Leaves the group. If this member is its owner, the server pins another one at once instead
    /// of after its timeout; another owner's pin is left alone.
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
        // Its open request must be gone first, or it would be pinned again.
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
        // Without it the pin runs out by itself.
        let _ = tokio::time::timeout(REQUEST_TIMEOUT, unpin).await;
    }
}

/// How a partition's consumer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerState {
    /// Never sent to an owner.
    pub pending: u64,
    /// Sent and not settled.
    pub in_work: u64,
    /// The consumer's sequence sent last.
    pub delivered: u64,
    /// Whether some member is its owner.
    pub pinned: bool,
}
