//! Carries out what a client's frame asks for.

use std::time::Duration;

use futures_util::future::BoxFuture;
use metrics::counter;
use nats::event::{Actor, Envelope, Event, MessageRead};
use nats::runtime::publish::{Outgoing, PublishError, Publisher};
use nats::trace::TraceContext;
use nats::{Id, Timestamp, subject};
use serde::Serialize;
use tokio::time::timeout;
use tracing::warn;

use crate::access::Session;
use crate::company::Seat;
use crate::event::Typing;
use crate::frame::{Command, Failure};
use crate::hub::Hub;

/// Longest wait for room in the connection's buffer; typing is not worth more.
const TYPING_DEADLINE: Duration = Duration::from_secs(1);

/// The `data` of an `ack`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Done {
    ok: bool,
    /// Where the log has what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
}

impl Done {
    const OK: Done = Done { ok: true, seq: None };
}

/// How a command ends.
pub type Outcome = Result<Done, Failure>;

/// Done at once, or something to wait for.
pub enum Execution {
    /// It has ended.
    Now(Outcome),
    /// It ends within [`nats::runtime::publish::PUBLISH_DEADLINE`].
    Later(BoxFuture<'static, Outcome>),
}

/// Begins to carry out a command.
pub fn execute(command: Command, session: Session, seat: &Seat, hub: &Hub, publisher: &Publisher) -> Execution {
    match command {
        Command::Join(conversation) => Execution::Now(match seat.join(conversation) {
            Ok(()) => Ok(Done::OK),
            Err(_) => Err(Failure { code: "TOO_MANY_CONVERSATIONS", message: "a socket can join at most 1,000 conversations" }),
        }),
        Command::Leave(conversation) => {
            seat.leave(conversation);
            Execution::Now(Ok(Done::OK))
        }
        Command::Typing { conversation, is_typing } => {
            let typing = Typing { user_id: session.user, is_typing, socket: seat.socket() };
            Execution::Later(Box::pin(publish_typing(hub.clone(), session.company, conversation, typing)))
        }
        Command::Read { conversation, platform } => {
            let read = MessageRead { contact_id: conversation, platform };
            Execution::Later(Box::pin(publish_read(publisher.clone(), session, read)))
        }
    }
}

const UNAVAILABLE: Failure = Failure { code: "UNAVAILABLE", message: "this cannot be done right now; try again" };

async fn publish_typing(hub: Hub, company: Id, conversation: Id, typing: Typing) -> Outcome {
    let client = &hub.connection().client;
    // Without a connection it would lie in the client's buffer and be told when it is no longer true.
    if !hub.connection().is_connected() {
        counter!("realtime_typing_dropped_total").increment(1);
        return Err(UNAVAILABLE);
    }
    let payload = serde_json::to_vec(&typing).map_err(|_| UNAVAILABLE)?;
    match timeout(TYPING_DEADLINE, client.publish(subject::typing(company, conversation), payload.into())).await {
        Ok(Ok(())) => Ok(Done::OK),
        _ => {
            counter!("realtime_typing_dropped_total").increment(1);
            Err(UNAVAILABLE)
        }
    }
}

async fn publish_read(publisher: Publisher, session: Session, read: MessageRead) -> Outcome {
    let now = Timestamp::now();
    let envelope = Envelope::new(now, Actor::User { id: session.user }, session.company, Event::MessageRead(read));
    let stored = match Outgoing::event(&envelope, envelope.id.to_string(), TraceContext::generate()) {
        Ok(event) => publisher.publish(event).await,
        Err(e) => Err(e),
    };
    match stored {
        Ok(receipt) => Ok(Done { ok: true, seq: Some(receipt.seq) }),
        Err(error) => {
            warn!(company = %session.company, user = %session.user, %error, "message:read was not stored");
            Err(match error {
                PublishError::Refused(_) | PublishError::Taken(_) => Failure { code: "REFUSED", message: "the log refuses this" },
                PublishError::Overloaded | PublishError::Unavailable(_) | PublishError::Full => UNAVAILABLE,
            })
        }
    }
}
