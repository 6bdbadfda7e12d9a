//! Waits until the bot has taken a message, or will not: what `Prefer: wait` asks for. A wait
//! follows the live delivery steps of the conversation. Where it may have missed one it asks the
//! persister. Delivers nothing.

use std::sync::Arc;
use std::time::Duration;

use contract::Id;
use contract::domain::{Delivery, DeliveryState, Message};
use contract::event::{Envelope, Event};
use contract::query::GetMessage;
use contract::subject;
use contract::trace::TraceContext;
use futures_util::StreamExt;
use metrics::counter;
use runtime::CancellationToken;
use runtime::net::connection::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tracing::warn;

use crate::log::Log;

/// Requests that wait at a time. Further ones are answered at once.
const MAX_WAITS: usize = 256;
/// The time that subscribing may take, and that a query for the message may take. Beyond it the
/// wait goes on without.
const STEP_TIMEOUT: Duration = Duration::from_secs(1);

/// Grants waits, within a limit.
pub struct DeliveryWaits {
    connection: Connection,
    slots: Arc<Semaphore>,
    stop: CancellationToken,
}

impl DeliveryWaits {
    /// Grants at most `max` waits at a time, and no more than [`MAX_WAITS`]. All waits end with
    /// `stop`.
    pub fn new(connection: Connection, max: usize, stop: CancellationToken) -> DeliveryWaits {
        DeliveryWaits {
            connection,
            slots: Arc::new(Semaphore::new(max.min(MAX_WAITS))),
            stop,
        }
    }

    /// Begins to listen to a conversation. Call it before the message is published. Otherwise the
    /// first steps may be missed. `None` if no wait is free or the subscription fails.
    pub async fn open(&self, company: Id, contact: Id) -> Option<DeliveryWait> {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            counter!("delivery_waits_refused_total").increment(1);
            return None;
        };
        let subscribed = timeout(
            STEP_TIMEOUT,
            self.connection
                .subscribe(subject::live_delivery(company, contact)),
        )
        .await;
        match subscribed {
            Ok(Ok(steps)) => Some(DeliveryWait {
                steps,
                stop: self.stop.clone(),
                _slot: slot,
            }),
            Ok(Err(e)) => {
                warn!(error = %e, "no subscription for a wait");
                None
            }
            Err(_) => None,
        }
    }
}

/// One request's wait.
pub struct DeliveryWait {
    steps: async_nats::Subscriber,
    stop: CancellationToken,
    _slot: OwnedSemaphorePermit,
}

impl DeliveryWait {
    /// The delivery of the message once it has an outcome, or as it is after `within`. `is_old`:
    /// the message was stored before this wait began, so its steps may have happened already.
    pub async fn outcome(
        mut self,
        log: &Log,
        message: &Message,
        is_old: bool,
        within: Duration,
        trace: TraceContext,
    ) -> Delivery {
        let mut last = Delivery::queued();
        if is_old && let Some(found) = ask(log, message, trace).await {
            last = found;
        }
        if has_outcome(&last) {
            return last;
        }
        let stop = self.stop.clone();
        let _ = stop
            .run_until_cancelled(timeout(within, self.follow(message.id, &mut last)))
            .await;
        if !has_outcome(&last)
            && let Some(found) = ask(log, message, trace).await.filter(has_outcome)
        {
            // A step was missed: the connection was lost on the way.
            last = found;
        }
        last
    }

    /// Follows the steps of the message up to its outcome. The last step is kept in `last`.
    async fn follow(&mut self, message: Id, last: &mut Delivery) {
        while let Some(step) = self.steps.next().await {
            if let Ok(Envelope {
                event: Event::MessageDelivery(step),
                ..
            }) = Envelope::from_json(&step.payload)
                && step.message_id == message
            {
                *last = step.delivery;
                if has_outcome(last) {
                    return;
                }
            }
        }
    }
}

/// Whether no step follows by itself.
fn has_outcome(delivery: &Delivery) -> bool {
    matches!(
        delivery.state,
        DeliveryState::Delivered
            | DeliveryState::Failed
            | DeliveryState::Held
            | DeliveryState::Cancelled
    )
}

async fn ask(log: &Log, message: &Message, trace: TraceContext) -> Option<Delivery> {
    let question = GetMessage {
        company_id: message.company_id,
        id: message.id,
    };
    timeout(STEP_TIMEOUT, log.ask(&question, trace))
        .await
        .ok()?
        .ok()?
        .delivery
}
