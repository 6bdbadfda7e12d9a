//! Publishing into the log: a queue that is written in groups (see `commit`). Answers only what the
//! server has acknowledged, within the caller's deadline; it keeps nothing across a restart.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use metrics::counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::log::group_commit;
use crate::log::ordering_key::OrderingKey;
use crate::net::connection::Connection;
use crate::service::Service;
use contract::event::{Envelope, VERSION};
use contract::header;
use contract::query::{KeyOwner, UniqueKey};
use contract::trace::TraceContext;

/// From [`Publisher::publish`] to its answer. Below the 2 s within which a client gets its 503.
pub const PUBLISH_DEADLINE: Duration = Duration::from_millis(1_700);
/// Events that wait for a group; beyond it a caller is refused at once.
pub const QUEUE_EVENTS: usize = 4_096;

/// One event on its way.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where to.
    pub subject: String,
    /// The envelope.
    pub payload: Bytes,
    /// `Nats-Msg-Id`.
    pub msg_id: String,
    /// The other headers.
    pub headers: HeaderMap,
    /// A key that no other message may hold, also beyond the duplicate window.
    pub unique: Option<UniqueKey>,
    /// The order that it keeps with others; without one, events that are queued together may be
    /// stored in any order.
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
            unique: None,
            ordering_key: None,
        })
    }

    /// SubjectInfo what it takes of a group's bounds.
    pub(super) fn bytes(&self) -> usize {
        self.payload.len() + self.subject.len() + 256
    }
}

/// Where the log has an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its sequence; of a duplicate, the first one's.
    pub seq: u64,
    /// The log had a message of this `Nats-Msg-Id` already.
    pub duplicate: bool,
}

/// Why an event is not known to be in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Too many wait; nothing was sent.
    #[error("too many events are waiting for the log")]
    Overloaded,
    /// No connection, no leader, or no answer in time. It may be stored all the same: repeat with
    /// the same `Nats-Msg-Id`.
    #[error("the log does not answer: {0}")]
    Unavailable(String),
    /// The log has reached its size limit.
    #[error("the log is full")]
    Full,
    /// Another message holds its unique key. Nothing was sent.
    #[error("the key is held by {}", .0.message_id)]
    Taken(Box<KeyOwner>),
    /// The server will not take this event, ever.
    #[error("the log refuses the event: {0}")]
    Refused(String),
}

/// An event in the queue, as the writing task sees it.
pub(super) struct Waiting {
    /// The event.
    pub event: Outgoing,
    answer: oneshot::Sender<Result<Receipt, PublishError>>,
    /// When the caller gives up.
    pub deadline: Instant,
}

impl Waiting {
    /// Tells the caller, and ends the event's order if it is lost.
    pub fn answer(self, result: Result<Receipt, PublishError>) {
        let is_lost = matches!(
            result,
            Err(PublishError::Unavailable(_) | PublishError::Full)
        );
        if let Some(order) = self.event.ordering_key.as_ref().filter(|_| is_lost) {
            order.end();
        }
        let _ = self.answer.send(result); // the caller may have left
    }

    /// Itself, if it is still to be sent. Where nobody waits any more it must not appear later.
    pub fn if_wanted(self) -> Option<Waiting> {
        let order = self.event.ordering_key.as_ref();
        if self.answer.is_closed() {
            order.inspect(|order| order.end());
            return None;
        }
        if order.is_some_and(OrderingKey::has_ended) {
            self.answer(Err(earlier_one_missing()));
            return None;
        }
        Some(self)
    }
}

fn earlier_one_missing() -> PublishError {
    PublishError::Unavailable("an earlier event of the same order is not stored".into())
}

/// An event in the queue.
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

/// Hands events to the one task that writes them.
#[derive(Clone)]
pub struct Publisher {
    queue: mpsc::Sender<Waiting>,
}

impl Publisher {
    /// Starts the writing task. It ends when the last handle is gone and what was waiting is
    /// written, which may be after the stop; if it ends by itself, the process does.
    pub fn start(service: &mut Service) -> Publisher {
        let publisher = Publisher::unsupervised(service.connection.clone(), &service.tasks);
        let (queue, stop) = (publisher.queue.clone(), service.stop.clone());
        service.spawn("publisher", async move {
            stop.run_until_cancelled(queue.closed())
                .await
                .unwrap_or_default()
        });
        publisher
    }

    /// The same without a process that would end with it: for tests.
    pub fn unsupervised(connection: Connection, tasks: &TaskTracker) -> Publisher {
        let (publisher, waiting) = Publisher::new();
        tasks.spawn(group_commit::write_groups(connection, waiting));
        publisher
    }

    /// One that nobody writes for yet.
    pub(super) fn new() -> (Publisher, mpsc::Receiver<Waiting>) {
        let (queue, waiting) = mpsc::channel(QUEUE_EVENTS);
        (Publisher { queue }, waiting)
    }

    /// Returns once the event is on disk in the log.
    ///
    /// # Errors
    /// See [`PublishError`]; within [`PUBLISH_DEADLINE`] in any case.
    pub async fn publish(&self, event: Outgoing) -> Result<Receipt, PublishError> {
        self.queue(event)?.receipt().await
    }

    /// Queues an event and returns at once.
    ///
    /// # Errors
    /// The queue has no room, or the process stops.
    pub fn queue(&self, event: Outgoing) -> Result<Queued, PublishError> {
        let order = event.ordering_key.clone();
        if order.as_ref().is_some_and(OrderingKey::has_ended) {
            return Err(earlier_one_missing());
        }
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + PUBLISH_DEADLINE;
        self.queue
            .try_send(Waiting {
                event,
                answer,
                deadline,
            })
            .map_err(|e| {
                order.inspect(OrderingKey::end);
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
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn event(order: Option<&OrderingKey>) -> Outgoing {
        let (subject, msg_id) = ("message.created.x".to_owned(), String::new());
        Outgoing {
            subject,
            payload: Bytes::new(),
            msg_id,
            headers: HeaderMap::new(),
            unique: None,
            ordering_key: order.cloned(),
        }
    }

    #[tokio::test]
    async fn what_follows_a_lost_event_of_its_order_is_not_sent() {
        let (publisher, mut waiting) = Publisher::new();
        let order = OrderingKey::default();
        let queued: Vec<Queued> = [Some(&order), Some(&order), None]
            .map(|order| publisher.queue(event(order)).unwrap())
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
        assert!(publisher.queue(event(Some(&order))).is_err());
    }

    #[tokio::test]
    async fn an_event_that_nobody_waits_for_is_not_sent_and_ends_its_order() {
        let (publisher, mut waiting) = Publisher::new();
        let order = OrderingKey::default();
        drop(publisher.queue(event(Some(&order))).unwrap());
        assert!(waiting.recv().await.unwrap().if_wanted().is_none());
        assert!(order.has_ended());
    }
}
