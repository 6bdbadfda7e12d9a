//! Lets an echo wait while the bot is called in its conversation: it may be of that very message, whose
//! id on the platform is not known before the bot has answered. Stores nothing.

use std::time::Duration;

use contract::domain::{DeliveryState, Message};
use contract::event::MessageDelivery;
use contract::query::GetMessage;
use contract::trace::TraceContext;
use tokio::time::{Instant, sleep};

use crate::log::Log;

/// How long an echo waits at most: the longest call, and a little for its result to be applied. Then
/// the echo is stored, and may be a second copy of the message.
const LONGEST: Duration = Duration::from_secs(18);
/// First and longest pause between two looks. The pause doubles, because a call that takes long may
/// take very long, and a look costs the log a read.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(800));

/// Waits until no call is under way in the message's conversation, and the database has the result of
/// the last one. Only for an echo: others return at once.
pub async fn await_call(log: &Log, message: &Message, trace: TraceContext) {
    let is_echo = message.sent_elsewhere && message.external_message_id.is_some();
    if !is_echo || !message.platform.is_forwardable() {
        return;
    }
    let deadline = Instant::now() + LONGEST;
    let mut pause = PAUSE.0;
    while Instant::now() < deadline {
        // If the log does not answer, the echo is not stored either.
        let Ok(last) = log.last_step(message.company_id, message.contact_id).await else {
            return;
        };
        match last {
            None => return,
            Some(step) if is_applied(log, message, &step, trace).await => return,
            Some(_) => {
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

/// Whether a step ends a call, and the database knows.
async fn is_applied(
    log: &Log,
    message: &Message,
    step: &MessageDelivery,
    trace: TraceContext,
) -> bool {
    match step.delivery.state {
        DeliveryState::Sending => false,
        DeliveryState::Delivered => {
            let question = GetMessage {
                company_id: message.company_id,
                id: step.message_id,
            };
            match log.ask(&question, trace).await {
                Ok(view) => view.delivery.is_some_and(|delivery| {
                    delivery.external_message_id == step.delivery.external_message_id
                }),
                // It was deleted, or the database is away: then nobody knows its id.
                Err(_) => true,
            }
        }
        _ => true,
    }
}
