//! Lets the bot speak again to contacts whose `botSuspendUntil` has passed: `contact.bot_resumed`.
//!
//! By a sweep and not by a schedule (`@at`) for each contact: the time stands in the view already,
//! so there is nothing to keep in step with it when staff change or remove it, a rebuilt view or a
//! server that was down changes nothing, and the server need not hold a message for each contact.
//! What it costs is one look at a small index every few seconds.
//!
//! Once a suspension, also when a run is repeated: the persister answers only when its view has
//! what the log had when it was asked, so it leaves out what an earlier run has lifted; of two runs
//! at once the log keeps one, because both name contact and time in `Nats-Msg-Id`; and whatever
//! comes all the same lifts nothing but a suspension until that very time.

use std::time::Duration;

use contract::event::{Actor, ContactBotResumed, Envelope, Event};
use contract::query::{ListResumable, MAX_RESUMABLE, Resumable};
use contract::trace::TraceContext;
use futures_util::future::try_join_all;
use metrics::counter;
use runtime::log::publisher::Outgoing;
use runtime::rpc::query::ask;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{JobError, Tools};

/// A run goes no further after this; the next one goes on. Short, so that what has passed meanwhile
/// need not wait.
const LONGEST: Duration = Duration::from_secs(60);

/// One run.
///
/// # Errors
/// The persister or the log does not answer, or the view is too far behind.
pub async fn sweep(tools: &Tools) -> Result<Value, JobError> {
    let (passed, deadline) = ((tools.clock)(), Instant::now() + LONGEST);
    let (mut resumed, mut after) = (0, None);
    loop {
        let question = ListResumable {
            passed,
            limit: MAX_RESUMABLE,
            after,
        };
        let page = ask(&tools.connection, &question, TraceContext::generate())
            .await
            .map_err(failed)?;
        let stored =
            try_join_all(page.resumable.iter().map(|contact| resume(tools, contact))).await?;
        resumed += stored.into_iter().filter(|is_new| *is_new).count();
        after = page.next;
        if after.is_none() || Instant::now() >= deadline {
            return Ok(json!({"resumed": resumed}));
        }
    }
}

/// Stores the event; false if the log has it already.
async fn resume(
    tools: &Tools,
    &Resumable {
        company_id,
        contact_id,
        until,
    }: &Resumable,
) -> Result<bool, JobError> {
    let event = Event::ContactBotResumed(ContactBotResumed { contact_id, until });
    let envelope = Envelope::new((tools.clock)(), Actor::System, company_id, event);
    let msg_id = format!("bot-resumed-{contact_id}-{}", until.millis());
    let outgoing = Outgoing::event(&envelope, msg_id, TraceContext::generate()).map_err(failed)?;
    let receipt = tools.publisher.publish(outgoing).await.map_err(failed)?;
    if !receipt.duplicate {
        counter!("bot_resumes_total").increment(1);
    }
    Ok(!receipt.duplicate)
}

fn failed(error: impl std::fmt::Display) -> JobError {
    JobError(error.to_string())
}
