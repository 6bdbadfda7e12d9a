//! Lets the bot speak again to contacts whose `botSuspendUntil` has passed, by the event
//! `contact.bot_resumed`. Suspends nobody.
//!
//! A sweep looks for such contacts; there is no schedule (`@at`) for each contact. Because the time
//! is in the view already, nothing must be kept in step with it when staff change or remove it, and
//! a rebuilt view or a server that was down changes nothing. The price is one look at a small index
//! every few seconds.
//!
//! A suspension is lifted once even if a run is repeated. The persister answers only when its view
//! has everything that the log had at the time of the question, so it leaves out the contacts that
//! an earlier run has resumed. Of two runs at once the log keeps one event, because both name
//! contact and time in `Nats-Msg-Id`. An event that is stored twice nevertheless lifts only a
//! suspension until exactly that time.

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

use crate::jobs::tools::{JobError, Tools};

/// How long a run goes on. After that the next run continues, with the contacts whose time has
/// passed meanwhile.
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// One run.
///
/// # Errors
/// The persister or the log does not answer, or the view is too far behind.
pub async fn sweep(tools: &Tools) -> Result<Value, JobError> {
    let (passed, deadline) = ((tools.clock)(), Instant::now() + RUN_LIMIT);
    let (mut resumed, mut after) = (0, None);
    loop {
        let question = ListResumable {
            passed,
            limit: MAX_RESUMABLE,
            after,
        };
        let page = ask(&tools.connection, &question, TraceContext::generate())
            .await
            .map_err(JobError::new)?;
        let stored =
            try_join_all(page.resumable.iter().map(|contact| resume(tools, contact))).await?;
        resumed += stored.into_iter().filter(|is_new| *is_new).count();
        after = page.next;
        if after.is_none() || Instant::now() >= deadline {
            return Ok(json!({"resumed": resumed}));
        }
    }
}

/// Stores the event. Returns false if the log already has it.
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
    let outgoing =
        Outgoing::event(&envelope, msg_id, TraceContext::generate()).map_err(JobError::new)?;
    let receipt = tools
        .publisher
        .publish(outgoing)
        .await
        .map_err(JobError::new)?;
    if !receipt.duplicate {
        counter!("bot_resumes_total").increment(1);
    }
    Ok(!receipt.duplicate)
}
