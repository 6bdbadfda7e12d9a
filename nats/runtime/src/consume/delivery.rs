//! A message of a durable consumer, as a handler sees it. Settles nothing.

use async_nats::jetstream::{AckKind, Message};
use async_nats::{Error, HeaderMap, Subject};
use bytes::Bytes;

use crate::dead_letters::store::Failed;
use contract::Timestamp;

/// A message of a consumer.
pub struct Delivery {
    /// The subject in the stream.
    pub subject: Subject,
    /// The headers, empty if none.
    pub headers: HeaderMap,
    /// The payload, which need not be JSON.
    pub payload: Bytes,
    /// The stream's name.
    pub stream: String,
    /// The sequence in the stream.
    pub stream_seq: u64,
    /// How often the message was delivered, counting from 1.
    pub attempt: u64,
    /// When the stream stored the message.
    pub stored_at: Timestamp,
    message: Message,
}

impl Delivery {
    pub(super) fn of(message: Message) -> Result<Delivery, Error> {
        let info = message.info()?;
        let stored_at = info.published.into();
        let (stream, stream_seq, attempt) = (
            info.stream.to_owned(),
            info.stream_sequence,
            info.delivered.max(1) as u64,
        );
        Ok(Delivery {
            subject: message.subject.clone(),
            headers: message.headers.clone().unwrap_or_default(),
            payload: message.payload.clone(),
            stream,
            stream_seq,
            attempt,
            stored_at,
            message,
        })
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.as_str())
    }

    pub(super) async fn ack_with(&self, kind: AckKind) -> Result<(), Error> {
        self.message.ack_with(kind).await
    }
}

impl<'a> From<&'a Delivery> for Failed<'a> {
    fn from(delivery: &'a Delivery) -> Failed<'a> {
        Failed {
            subject: &delivery.subject,
            headers: &delivery.headers,
            payload: &delivery.payload,
            stream: &delivery.stream,
            stream_seq: delivery.stream_seq,
            attempts: delivery.attempt,
        }
    }
}
