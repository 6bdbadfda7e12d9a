//! Telling the log how far a message has come: one `message.delivery` event a step.

use std::time::Duration;

use contract::Timestamp;
use contract::dead_letter::Reason;
use contract::domain::{Delivery, DeliveryState, Message};
use contract::event::{Actor, Envelope, Event, MessageDelivery};
use contract::trace::TraceContext;
use metrics::counter;
use runtime::log::publisher::{Outgoing, PublishError, Publisher};
use tokio::time::Instant;
use tracing::debug;

/// How long storing the result of a call is tried. Longer, and a shutdown could not wait for it.
const RESULT_DEADLINE: Duration = Duration::from_secs(8);
/// Pause between the tries; each takes up to the publisher's own deadline.
const RESULT_PAUSE: Duration = Duration::from_millis(500);

/// Which delivery of which message the steps belong to.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The message.
    pub message: &'a Message,
    /// Its sequence in `OUTBOUND`.
    pub stream_seq: u64,
    /// From 1: which delivery by JetStream.
    pub attempt: u64,
    /// Its trace.
    pub trace: TraceContext,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What the message's `delivery` becomes.
    pub delivery: Delivery,
    /// HTTP status of the call that it ends.
    pub status: Option<u16>,
    /// How long that call took.
    pub took: Option<Duration>,
}

impl Step {
    /// A step that no call ends.
    pub fn to(state: DeliveryState, calls: u64) -> Step {
        let attempts = u32::try_from(calls).unwrap_or(u32::MAX);
        Step {
            delivery: Delivery {
                state,
                attempts,
                ..Delivery::queued()
            },
            status: None,
            took: None,
        }
    }
}

/// How a message has ended, while that is not in the log yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its last step.
    pub step: Step,
    /// Why it becomes a dead letter; `None` if it does not, or has one.
    pub letter: Option<Reason>,
}

/// Publishes the step once, within the publisher's deadline.
///
/// # Errors
/// It is not known to be in the log.
pub async fn publish(
    publisher: &Publisher,
    of: Subject<'_>,
    step: &Step,
    now: Timestamp,
) -> Result<(), PublishError> {
    publisher.publish(outgoing(of, step, now)?).await.map(drop)
}

/// Publishes the result of a call; tries for 8 s, because without it the call would be made again.
///
/// # Errors
/// It is not known to be in the log.
pub async fn publish_result(
    publisher: &Publisher,
    of: Subject<'_>,
    step: &Step,
    now: Timestamp,
) -> Result<(), PublishError> {
    let event = outgoing(of, step, now)?;
    let deadline = Instant::now() + RESULT_DEADLINE;
    loop {
        let error = match publisher.publish(event.clone()).await {
            Ok(_) => return Ok(()),
            Err(e) => e,
        };
        counter!("forward_report_retries_total").increment(1);
        debug!(%error, state = step.delivery.state.as_str(), "the result of a call is not stored yet");
        if Instant::now() + RESULT_PAUSE >= deadline {
            return Err(error);
        }
        tokio::time::sleep(RESULT_PAUSE).await;
    }
}

/// A step that is told again after a redelivery carries the same `Nats-Msg-Id`, so the log has it
/// once.
fn outgoing(of: Subject<'_>, step: &Step, now: Timestamp) -> Result<Outgoing, PublishError> {
    let Subject {
        message,
        stream_seq,
        attempt,
        trace,
    } = of;
    let msg_id = MessageDelivery::msg_id(message.id, stream_seq, attempt, step.delivery.state);
    let event = Event::MessageDelivery(MessageDelivery {
        message_id: message.id,
        contact_id: message.contact_id,
        delivery: step.delivery.clone(),
        status: step.status,
        duration_ms: step
            .took
            .map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
    });
    let envelope = Envelope::new(now, Actor::System, message.company_id, event);
    Outgoing::event(&envelope, msg_id, trace.child())
}
