//! Waiting until the bot has taken a message, or will not: what `Prefer: wait` asks for. It follows
//! the live steps of the conversation; where it may have missed one it asks the persister. It
//! delivers nothing.

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

/// Requests that wait at a time; the next ones are answered at once.
const MAX_WAITS: usize = 256;
/// Subscribing may take so long, and so may a look at the message by query.
const STEP_TIMEOUT: Duration = Duration::from_secs(1);

/// SignedTokens waits.
pub struct DeliveryWaits {
    connection: Connection,
    slots: Arc<Semaphore>,
    stop: CancellationToken,
}

impl DeliveryWaits {
    /// At most [`MAX_WAITS`] at a time and no more than `max`. They end with `stop`.
    pub fn new(connection: Connection, max: usize, stop: CancellationToken) -> DeliveryWaits {
        DeliveryWaits {
            connection,
            slots: Arc::new(Semaphore::new(max.min(MAX_WAITS))),
            stop,
        }
    }

    /// Begins to listen to a conversation; to be done before the message is published. `None` where
    /// it cannot be had.
    pub async fn open(&self, company: Id, contact: Id) -> Option<Wait> {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            counter!("delivery_waits_refused_total").increment(1);
            return None;
        };
        let subscribed = timeout(
            STEP_TIMEOUT,
            self.connection
                .client
                .subscribe(subject::live_delivery(company, contact)),
        )
        .await;
        match subscribed {
            Ok(Ok(steps)) => Some(Wait {
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
pub struct Wait {
    steps: async_nats::Subscriber,
    stop: CancellationToken,
    _slot: OwnedSemaphorePermit,
}

impl Wait {
    /// Where the message's delivery stands once it is settled, or `within` is over. `is_old`: it
    /// was stored before this wait began, so what it is may have happened already.
    pub async fn settled(
        mut self,
        log: &Log,
        message: &Message,
        is_old: bool,
        within: Duration,
        trace: TraceContext,
    ) -> Delivery {
        let mut last = Delivery::queued();
        if is_old && let Some(found) = look(log, message, trace).await {
            last = found;
        }
        if is_settled(&last) {
            return last;
        }
        let stop = self.stop.clone();
        let _ = stop
            .run_until_cancelled(timeout(within, self.follow(message.id, &mut last)))
            .await;
        if !is_settled(&last)
            && let Some(found) = look(log, message, trace).await.filter(is_settled)
        {
            // A step was missed: the connection was lost on the way.
            last = found;
        }
        last
    }

    /// Keeps the last step, up to one that settles the message.
    async fn follow(&mut self, message: Id, last: &mut Delivery) {
        while let Some(step) = self.steps.next().await {
            if let Ok(Envelope {
                event: Event::MessageDelivery(step),
                ..
            }) = Envelope::from_json(&step.payload)
                && step.message_id == message
            {
                *last = step.delivery;
                if is_settled(last) {
                    return;
                }
            }
        }
    }
}

/// Nothing more happens by itself.
fn is_settled(delivery: &Delivery) -> bool {
    matches!(
        delivery.state,
        DeliveryState::Delivered | DeliveryState::Failed | DeliveryState::Held
    )
}

async fn look(log: &Log, message: &Message, trace: TraceContext) -> Option<Delivery> {
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
