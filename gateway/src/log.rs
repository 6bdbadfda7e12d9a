//! The log as the handlers see it: publish an event, ask a query, wait for an outcome. Knows no
//! HTTP.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::{DirectGetErrorKind, RawMessageErrorKind};
use contract::event::{Envelope, Event, MessageDelivery};
use contract::outcome::Outcome;
use contract::query::Query;
use contract::subject::EventSubject;
use contract::trace::TraceContext;
use contract::{Id, Timestamp};
use contract::{header, inventory};
use futures_util::future::join_all;
use runtime::CancellationToken;
use runtime::log::direct_get::{self, ReadError};
use runtime::log::publisher::{Outgoing, PublishError, Publisher, Receipt};
use runtime::net::connection::Connection;
use runtime::rpc::outcome::Inbox;
use runtime::rpc::query::{self, QueryError};
use runtime::service::health::Health;
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::api::response::Raw;
use crate::auth::Caller;

/// Batches of events that are published at a time. Further batches wait, because the publisher's
/// queue must keep room for single events.
const MAX_BATCHES: usize = 4;
/// How long a batch waits for its turn. Beyond it the batch is refused.
const BATCH_WAIT: Duration = Duration::from_secs(2);
/// The time within which the log must answer, and the time between two probes. Beyond it the
/// gateway is not ready.
const PROBE: Duration = Duration::from_secs(1);

/// What the handlers use of NATS. It is cloned for each request, which is cheap.
#[derive(Clone)]
pub struct Log(Arc<Parts>);

struct Parts {
    connection: Connection,
    publisher: Publisher,
    questions: Semaphore,
    batches: Semaphore,
}

/// A command that the log has.
pub struct CommandReceipt {
    /// Where the log has the event.
    pub seq: u64,
    /// What the persister has made of the event. `None` if it was not applied in time; it will be,
    /// because the log has it.
    pub outcome: Option<Outcome>,
}

impl Log {
    /// At most `max_questions` questions to the persister are open at a time. Further ones are
    /// refused.
    pub fn new(connection: Connection, publisher: Publisher, max_questions: usize) -> Log {
        let (questions, batches) = (Semaphore::new(max_questions), Semaphore::new(MAX_BATCHES));
        Log(Arc::new(Parts {
            connection,
            publisher,
            questions,
            batches,
        }))
    }

    /// An envelope of this moment.
    pub fn envelope(caller: &Caller, company_id: Id, event: Event, now: Timestamp) -> Envelope {
        Envelope::new(now, caller.actor(), company_id, event)
    }

    /// Stores an event. The receipt says if an event was stored before under the same message id.
    pub async fn publish(&self, event: Outgoing) -> Result<Receipt, PublishError> {
        self.0.publisher.publish(event).await
    }

    /// Stores events together. The results are in the order of the events.
    pub async fn publish_all(&self, events: Vec<Outgoing>) -> Vec<Result<Receipt, PublishError>> {
        let Ok(Ok(_permit)) = timeout(BATCH_WAIT, self.0.batches.acquire()).await else {
            return events
                .iter()
                .map(|_| Err(PublishError::Overloaded))
                .collect();
        };
        let queued: Vec<_> = events
            .into_iter()
            .map(|event| self.0.publisher.queue(event))
            .collect();
        join_all(
            queued
                .into_iter()
                .map(|queued| async { queued?.receipt().await }),
        )
        .await
    }

    /// Stores an event and waits, within a limit, until it is applied.
    pub async fn command(
        &self,
        envelope: &Envelope,
        msg_id: String,
        trace: TraceContext,
    ) -> Result<(CommandReceipt, Receipt), PublishError> {
        let inbox = Inbox::open(&self.0.connection)
            .await
            .map_err(PublishError::Unavailable)?;
        let mut event = Outgoing::event(envelope, msg_id, trace)?;
        event
            .headers
            .insert(header::OUTCOME_INBOX, inbox.subject.as_str());
        let mut receipt = self.0.publisher.publish(event).await?;
        // A duplicate may be this very event: an acknowledgement was lost, and the repetition found
        // the event.
        receipt.duplicate = receipt.duplicate && self.stored(receipt.seq).await?.id != envelope.id;
        // The outcome of another event was told to its own sender.
        let outcome = if receipt.duplicate {
            None
        } else {
            inbox.wait().await
        };
        Ok((
            CommandReceipt {
                seq: receipt.seq,
                outcome,
            },
            receipt,
        ))
    }

    /// The event at a sequence.
    ///
    /// # Errors
    /// [`PublishError::Refused`] if the log does not keep the event any more.
    pub async fn stored(&self, seq: u64) -> Result<Envelope, PublishError> {
        let unavailable = |e: &dyn std::fmt::Display| PublishError::Unavailable(e.to_string());
        let stream = self
            .0
            .connection
            .jetstream
            .get_stream_no_info(inventory::EVENTS)
            .await
            .map_err(|e| unavailable(&e))?;
        let payload = match stream.direct_get(seq).await {
            Ok(message) => message.payload,
            // The replica that has answered may be behind. The leader is not.
            Err(e) if e.kind() == DirectGetErrorKind::NotFound => {
                match stream.get_raw_message(seq).await {
                    Ok(message) => message.payload,
                    Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => {
                        let why = format!("the log does not keep {seq} any more");
                        return Err(PublishError::Refused(why));
                    }
                    Err(e) => return Err(unavailable(&e)),
                }
            }
            Err(e) => return Err(unavailable(&e)),
        };
        Envelope::from_json(&payload).map_err(|e| PublishError::Refused(e.to_string()))
    }

    /// The last step of a delivery in a conversation. `None` if there is none that can be read.
    ///
    /// # Errors
    /// The log does not answer.
    pub async fn last_step(
        &self,
        company: Id,
        contact: Id,
    ) -> Result<Option<MessageDelivery>, ReadError> {
        let subject = EventSubject::MessageDelivery { company, contact }.to_string();
        let last = direct_get::last(&self.0.connection, inventory::EVENTS, &subject).await?;
        let envelope = last.and_then(|stored| Envelope::from_json(&stored.payload).ok());
        Ok(envelope.and_then(|envelope| match envelope.event {
            Event::MessageDelivery(step) => Some(step),
            _ => None,
        }))
    }

    /// Asks the persister.
    pub async fn ask<Q: Query>(
        &self,
        question: &Q,
        trace: TraceContext,
    ) -> Result<Q::Answer, QueryError> {
        let _permit = self.question()?;
        query::ask(&self.0.connection, question, trace).await
    }

    /// Asks the persister for an answer that is passed on to the client as it is.
    pub async fn ask_raw<Q: Query>(
        &self,
        question: &Q,
        trace: TraceContext,
    ) -> Result<Raw<Q::Answer>, QueryError> {
        let _permit = self.question()?;
        let json = query::ask_raw(&self.0.connection, question, trace).await?;
        Ok(Raw::new(json))
    }

    fn question(&self) -> Result<SemaphorePermit<'_>, QueryError> {
        self.0
            .questions
            .try_acquire()
            .map_err(|_| QueryError::Unavailable("too many questions are open".into()))
    }
}

/// Confirms the check `log` every second while JetStream answers in time.
pub async fn watch(connection: Connection, health: Health, stop: CancellationToken) {
    let mut tick = tokio::time::interval(PROBE);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        match timeout(PROBE, connection.jetstream.get_stream(inventory::EVENTS)).await {
            Ok(Ok(stream)) => {
                let info = stream.cached_info();
                let size = json!({
                    "messages": info.state.messages,
                    "bytes": info.state.bytes,
                    "max_bytes": info.config.max_bytes,
                });
                health.good("log", size);
            }
            Ok(Err(e)) => health.bad("log", json!(e.to_string())),
            Err(_) => health.bad("log", json!(format!("no answer within {PROBE:?}"))),
        }
    }
}
