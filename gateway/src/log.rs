//! The log as the handlers see it: publish an event, ask a query, wait for an outcome. Knows no HTTP.

use std::sync::Arc;
use std::time::Duration;

use nats::event::{Envelope, Event};
use nats::outcome::Outcome;
use nats::query::{Query, UniqueKey};
use nats::runtime::CancellationToken;
use nats::runtime::connection::Connection;
use nats::runtime::health::Health;
use nats::runtime::outcome::Inbox;
use nats::runtime::publish::{Outgoing, PublishError, Publisher, Receipt};
use nats::runtime::query::{self, QueryError};
use nats::trace::TraceContext;
use nats::{Id, Timestamp, header, stream};
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::auth::Caller;

/// The log must answer a look at it within this, or the gateway is not ready.
const LOOK: Duration = Duration::from_secs(1);

/// What the handlers use of NATS.
#[derive(Clone)]
pub struct Log {
    connection: Connection,
    publisher: Publisher,
    questions: Arc<Semaphore>,
}

/// A command and what the persister said of it, if it did in time.
pub struct Settled {
    /// Where the log has it.
    pub seq: u64,
    /// `None`: it is durable, and will be applied.
    pub outcome: Option<Outcome>,
}

impl Log {
    /// Over this connection, with so many questions to the persister open at a time.
    pub fn new(connection: Connection, publisher: Publisher, max_questions: usize) -> Log {
        Log { connection, publisher, questions: Arc::new(Semaphore::new(max_questions)) }
    }

    /// An envelope of this moment.
    pub fn envelope(caller: &Caller, company_id: Id, event: Event, now: Timestamp) -> Envelope {
        Envelope::new(now, caller.actor(), company_id, event)
    }

    /// Stores an event. The receipt says if it was stored before under the same id. `unique` is a key that no other message
    /// may hold.
    pub async fn publish(
        &self,
        envelope: &Envelope,
        msg_id: String,
        unique: Option<UniqueKey>,
        trace: TraceContext,
    ) -> Result<Receipt, PublishError> {
        self.publisher.publish(Outgoing { unique, ..Outgoing::event(envelope, msg_id, trace)? }).await
    }

    /// Stores an event and waits, bounded, until it is applied.
    pub async fn command(&self, envelope: &Envelope, msg_id: String, trace: TraceContext) -> Result<(Settled, Receipt), PublishError> {
        let inbox = Inbox::open(&self.connection).await.map_err(PublishError::Unavailable)?;
        let mut event = Outgoing::event(envelope, msg_id, trace)?;
        event.headers.insert(header::OUTCOME_INBOX, inbox.subject.as_str());
        let mut receipt = self.publisher.publish(event).await?;
        // A duplicate may be our own event: an acknowledgement was lost, and the repetition found it.
        receipt.duplicate = receipt.duplicate && self.stored(receipt.seq).await?.id != envelope.id;
        // Another's was answered to the one who sent it.
        let outcome = if receipt.duplicate { None } else { inbox.wait().await };
        Ok((Settled { seq: receipt.seq, outcome }, receipt))
    }

    /// The event stored at a sequence: the first one, of a duplicate.
    pub async fn stored(&self, seq: u64) -> Result<Envelope, PublishError> {
        let unavailable = |e: &dyn std::fmt::Display| PublishError::Unavailable(e.to_string());
        let stream = self.connection.jetstream.get_stream_no_info(stream::EVENTS).await.map_err(|e| unavailable(&e))?;
        let message = stream.direct_get(seq).await.map_err(|e| unavailable(&e))?;
        Envelope::from_json(&message.payload).map_err(|e| PublishError::Refused(e.to_string()))
    }

    /// Asks the persister.
    pub async fn ask<Q: Query>(&self, question: &Q, trace: TraceContext) -> Result<Q::Answer, QueryError> {
        let _slot = self.question()?;
        query::ask(&self.connection, question, trace).await
    }

    /// Asks the persister for JSON that is passed on as it is.
    pub async fn ask_raw<Q: Query>(&self, question: &Q, trace: TraceContext) -> Result<bytes::Bytes, QueryError> {
        let _slot = self.question()?;
        query::ask_raw(&self.connection, question, trace).await
    }

    fn question(&self) -> Result<SemaphorePermit<'_>, QueryError> {
        self.questions.try_acquire().map_err(|_| QueryError::Unavailable("too many questions are open".into()))
    }
}

/// Confirms the check `log` every second while JetStream answers in time.
pub async fn watch(connection: Connection, health: Health, stop: CancellationToken) {
    let mut tick = tokio::time::interval(LOOK);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        match tokio::time::timeout(LOOK, connection.jetstream.get_stream(stream::EVENTS)).await {
            Ok(Ok(stream)) => {
                let info = stream.cached_info();
                health.good("log", json!({"messages": info.state.messages, "bytes": info.state.bytes, "max_bytes": info.config.max_bytes}));
            }
            Ok(Err(e)) => health.bad("log", json!(e.to_string())),
            Err(_) => health.bad("log", json!(format!("no answer within {LOOK:?}"))),
        }
    }
}
