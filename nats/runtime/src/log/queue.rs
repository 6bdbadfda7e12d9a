//! The queue between the callers that publish and the one task that writes: an event on its way,
//! the caller's end of it, and what the caller is answered. Sends nothing.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use metrics::counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::log::ordering_key::OrderingKey;
use contract::event::{Envelope, VERSION};
use contract::header;
use contract::query::KeyOwner;
use contract::trace::TraceContext;

/// The time from queueing an event to its answer. Because a client gets its 503 within 2 s, this is
/// a little less.
pub const PUBLISH_DEADLINE: Duration = Duration::from_millis(1_700);
/// Events that wait for a group. Beyond it a caller is refused at once.
pub const QUEUE_EVENTS: usize = 4_096;
/// What the server adds to an event: headers, sequence and framing, in bytes, estimated.
const OVERHEAD_BYTES: usize = 256;

/// An event to be published.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The subject that the log stores the event under.
    pub subject: String,
    /// The envelope as JSON.
    pub payload: Bytes,
    /// The header `Nats-Msg-Id`: the log stores one event of an id within the duplicate window.
    pub msg_id: String,
    /// The other headers.
    pub headers: HeaderMap,
    /// Events with the same key are stored in the order in which they were queued. Events without
    /// one that are queued together may be stored in any order.
    pub ordering_key: Option<OrderingKey>,
}

impl Outgoing {
    /// An envelope with the headers that every event has.
    ///
    /// # Errors
    /// The envelope does not serialise.
    pub fn event(
        envelope: &Envelope,
        msg_id: String,
        trace: TraceContext,
    ) -> Result<Outgoing, PublishError> {
        let payload = envelope
            .to_json()
            .map_err(|e| PublishError::Refused(e.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(header::EVENT_TYPE, envelope.event.kind());
        headers.insert(header::EVENT_VERSION, VERSION.to_string());
        headers.insert(header::TRACEPARENT, trace.to_string());
        Ok(Outgoing {
            subject: envelope.subject().to_string(),
            payload: payload.into(),
            msg_id,
            headers,
            ordering_key: None,
        })
    }

    /// About how many bytes of a group's limit the event takes.
    pub(super) fn bytes(&self) -> usize {
        self.payload.len() + self.subject.len() + OVERHEAD_BYTES
    }
}

/// Where the log has an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The sequence in the log. Of a duplicate, the sequence of the event that was stored first.
    pub seq: u64,
    /// The log had an event of this `Nats-Msg-Id` already.
    pub duplicate: bool,
}

/// Why an event is not known to be in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// [`QUEUE_EVENTS`] events wait already. Nothing was sent.
    #[error("too many events are waiting for the log")]
    Overloaded,
    /// No connection, no leader, or no answer in time. The event may be stored all the same: repeat
    /// with the same `Nats-Msg-Id`.
    #[error("the log does not answer: {0}")]
    Unavailable(String),
    /// The log has reached its size limit.
    #[error("the log is full")]
    Full,
    /// The publisher's `PreCommit` hook knows an event that
    /// owns this one's key. Nothing was sent.
    #[error("the key is held by {}", .0.message_id)]
    Taken(Box<KeyOwner>),
    /// The server will not take this event, ever.
    #[error("the log refuses the event: {0}")]
    Refused(String),
}

/// An event in the queue, as the writing task sees it.
pub(super) struct Waiting {
    pub event: Outgoing,
    answer: oneshot::Sender<Result<Receipt, PublishError>>,
    /// When the caller gives up.
    pub deadline: Instant,
}

impl Waiting {
    /// Tells the caller, and ends the event's ordering key if the event is lost.
    pub fn answer(self, result: Result<Receipt, PublishError>) {
        let is_lost = matches!(
            result,
            Err(PublishError::Unavailable(_) | PublishError::Full)
        );
        if let Some(key) = self.event.ordering_key.as_ref().filter(|_| is_lost) {
            key.end();
        }
        let _ = self.answer.send(result); // the caller may have left
    }

    /// Returns the event if its caller is still waiting. An abandoned event must not be published:
    /// it could overtake later events with the same ordering key.
    pub fn if_wanted(self) -> Option<Waiting> {
        let key = self.event.ordering_key.as_ref();
        if self.answer.is_closed() {
            key.inspect(|key| key.end());
            return None;
        }
        if key.is_some_and(OrderingKey::has_ended) {
            self.answer(Err(earlier_one_missing()));
            return None;
        }
        Some(self)
    }
}

fn earlier_one_missing() -> PublishError {
    PublishError::Unavailable("an earlier event of the same order is not stored".into())
}

/// An event in the queue, as its caller sees it.
#[derive(Debug)]
pub struct Queued {
    answered: oneshot::Receiver<Result<Receipt, PublishError>>,
    deadline: Instant,
}

impl Queued {
    /// Returns once the event is on disk in the log.
    ///
    /// # Errors
    /// See [`PublishError`]; within [`PUBLISH_DEADLINE`] of the queueing in any case.
    pub async fn receipt(self) -> Result<Receipt, PublishError> {
        match tokio::time::timeout_at(self.deadline, self.answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(PublishError::Unavailable("shutting down".into())),
            Err(_) => Err(PublishError::Unavailable(
                "no acknowledgement in time".into(),
            )),
        }
    }
}

/// The callers' end of the queue. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Queue(mpsc::Sender<Waiting>);

impl Queue {
    /// A queue, and the end that is written from.
    pub fn new() -> (Queue, mpsc::Receiver<Waiting>) {
        let (sender, waiting) = mpsc::channel(QUEUE_EVENTS);
        (Queue(sender), waiting)
    }

    /// Queues an event and returns at once.
    ///
    /// # Errors
    /// The queue has no room, or nobody writes any more.
    pub fn push(&self, event: Outgoing) -> Result<Queued, PublishError> {
        let key = event.ordering_key.clone();
        if key.as_ref().is_some_and(OrderingKey::has_ended) {
            return Err(earlier_one_missing());
        }
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + PUBLISH_DEADLINE;
        let waiting = Waiting {
            event,
            answer,
            deadline,
        };
        self.0.try_send(waiting).map_err(|e| {
            key.inspect(OrderingKey::end);
            match e {
                mpsc::error::TrySendError::Full(_) => {
                    counter!("publish_refused_total", "reason" => "overloaded").increment(1);
                    PublishError::Overloaded
                }
                mpsc::error::TrySendError::Closed(_) => {
                    PublishError::Unavailable("shutting down".into())
                }
            }
        })?;
        Ok(Queued { answered, deadline })
    }

    /// Returns once the writing task has ended.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn event(key: Option<&OrderingKey>) -> Outgoing {
        Outgoing {
            subject: "message.created.x".to_owned(),
            payload: Bytes::new(),
            msg_id: String::new(),
            headers: HeaderMap::new(),
            ordering_key: key.cloned(),
        }
    }

    #[tokio::test]
    async fn events_after_a_lost_one_with_their_ordering_key_are_not_sent() {
        let (queue, mut waiting) = Queue::new();
        let key = OrderingKey::default();
        let queued: Vec<Queued> = [Some(&key), Some(&key), None]
            .map(|key| queue.push(event(key)).unwrap())
            .into();
        let (first, second, other) = (
            waiting.recv().await.unwrap(),
            waiting.recv().await.unwrap(),
            waiting.recv().await.unwrap(),
        );
        first
            .if_wanted()
            .unwrap()
            .answer(Err(PublishError::Unavailable("no leader".into())));
        assert!(second.if_wanted().is_none());
        other.if_wanted().unwrap().answer(Ok(Receipt {
            seq: 1,
            duplicate: false,
        }));
        let results = futures_util::future::join_all(queued.into_iter().map(Queued::receipt)).await;
        assert!(matches!(
            results.as_slice(),
            [
                Err(PublishError::Unavailable(_)),
                Err(PublishError::Unavailable(_)),
                Ok(_)
            ]
        ));
        assert!(queue.push(event(Some(&key))).is_err());
    }

    #[tokio::test]
    async fn an_abandoned_event_is_not_sent_and_ends_its_ordering_key() {
        let (queue, mut waiting) = Queue::new();
        let key = OrderingKey::default();
        drop(queue.push(event(Some(&key))).unwrap());
        assert!(waiting.recv().await.unwrap().if_wanted().is_none());
        assert!(key.has_ended());
    }
}
