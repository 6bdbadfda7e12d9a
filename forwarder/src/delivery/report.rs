//! Tells the log how far a message has come: one event `message.delivery` for each step. Decides no
//! step.

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

/// How long storing the result of a call is tried. With a longer time a shutdown could not wait for
/// the result.
const RESULT_DEADLINE: Duration = Duration::from_secs(8);
/// The pause between two tries. Each try takes up to the publisher's own deadline.
const RESULT_PAUSE: Duration = Duration::from_millis(500);

/// The message that a step is about.
#[derive(Clone, Copy)]
pub struct StepContext<'a> {
    pub message: &'a Message,
    /// The message's sequence in `OUTBOUND`.
    pub stream_seq: u64,
    /// The message's log position; `None` for a replay, which is delivered out of order.
    pub position: Option<u64>,
    pub trace: TraceContext,
}

/// One step of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The new value of the message's `delivery`. Its `attempts` is the number of calls to the bot,
    /// the one that this step ends or announces included. This number is a part of the event's
    /// `Nats-Msg-Id`.
    pub delivery: Delivery,
    /// The HTTP status of the call that this step ends.
    pub status: Option<u16>,
    /// How long that call took.
    pub took: Option<Duration>,
}

impl Step {
    /// A step to a state, without the result of a call.
    pub fn to(state: DeliveryState, calls: u32) -> Step {
        Step {
            delivery: Delivery {
                state,
                attempts: calls,
                ..Delivery::queued()
            },
            status: None,
            took: None,
        }
    }
}

/// The last step of a message, while the step is not in the log yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalStep {
    pub step: Step,
    /// The reason for the dead letter that is still to be stored. `None` if there is no dead letter,
    /// or if it is stored.
    pub dead_letter: Option<Reason>,
}

/// Publishes a step once, within the publisher's deadline.
///
/// # Errors
/// The step may not be in the log.
pub async fn publish(
    publisher: &Publisher,
    of: StepContext<'_>,
    step: &Step,
    now: Timestamp,
) -> Result<(), PublishError> {
    publisher.publish(outgoing(of, step, now)?).await.map(drop)
}

/// Publishes a step that ends a call, and repeats this for [`RESULT_DEADLINE`]. Otherwise the call
/// would be made again.
///
/// # Errors
/// The step may not be in the log.
pub async fn publish_result(
    publisher: &Publisher,
    of: StepContext<'_>,
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

/// The event of a step. A step that is told again after a redelivery has the same `Nats-Msg-Id`, so
/// the log has it once.
fn outgoing(of: StepContext<'_>, step: &Step, now: Timestamp) -> Result<Outgoing, PublishError> {
    let StepContext {
        message,
        stream_seq,
        position,
        trace,
    } = of;
    let Delivery {
        state, attempts, ..
    } = step.delivery;
    let msg_id = MessageDelivery::msg_id(message.id, stream_seq, attempts.into(), state);
    let event = Event::MessageDelivery(MessageDelivery {
        message_id: message.id,
        contact_id: message.contact_id,
        message_seq: position,
        delivery: step.delivery.clone(),
        status: step.status,
        duration_ms: step
            .took
            .map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
    });
    let envelope = Envelope::new(now, Actor::System, message.company_id, event);
    Outgoing::event(&envelope, msg_id, trace.child())
}
