//! Reports messages that the bot had not taken when their company's target passed:
//! `message.sla_breached`, once a message.
//!
//! A run looks at the messages whose target passed since the last one, each once: what is not
//! delivered then, or was delivered later, is a breach. How far it has come is kept in `job-runs`
//! beside the job's last run. Once a message also when a run is repeated: the persister answers
//! only when its view has what the log had when it was asked, so it leaves out what an earlier run
//! has reported; and of two runs at once the log keeps one, because both name the message in
//! `Nats-Msg-Id`.

use std::time::Duration;

use async_nats::jetstream::kv::{Operation, Store};
use contract::Timestamp;
use contract::event::{Actor, Envelope, Event, MessageSlaBreached};
use contract::inventory;
use contract::query::{ListOverdue, MAX_OVERDUE, Overdue};
use contract::trace::TraceContext;
use futures_util::future::try_join_all;
use metrics::counter;
use runtime::log::publisher::Outgoing;
use runtime::rpc::query::ask;
use serde_json::{Value, json};

use super::{JobError, Tools};

/// The key of how far the last run came, in `job-runs`.
const CURSOR: &str = "sla-sweep.swept-to";
/// A target counts as passed only so much later: the forwarder's clock may be another, and its
/// report takes a moment to be stored.
const GRACE: Duration = Duration::from_secs(2);
/// How far back the first run looks. A message lives no longer.
const FIRST_LOOK: Duration = Duration::from_secs(86_400);
/// And any run: what is older has left the log.
const LONGEST_LOOK: Duration = inventory::EVENTS_MAX_AGE;
/// So much time is looked at in one go, so that a question stays short after long downtime.
const WINDOW: Duration = Duration::from_secs(600);

/// One run.
///
/// # Errors
/// The persister, the log or the bucket does not answer, or the view is too far behind.
pub async fn sweep(tools: &Tools) -> Result<Value, JobError> {
    let store = tools
        .connection
        .jetstream
        .get_key_value(inventory::JOB_RUNS)
        .await
        .map_err(failed)?;
    let (swept_to, mut revision) = cursor(&store).await?;
    let mut breached = 0;
    for (from, to) in windows(swept_to, (tools.clock)()) {
        breached += sweep_window(tools, from, to).await?;
        // If another replica sweeps too, one of the two ends here, and the other goes on.
        revision = store
            .update(CURSOR, to.to_string().into(), revision)
            .await
            .map_err(failed)?;
    }
    Ok(json!({"breached": breached}))
}

/// Since when, and the revision that says so; 0 if nothing does.
async fn cursor(store: &Store) -> Result<(Option<Timestamp>, u64), JobError> {
    let entry = store.entry(CURSOR).await.map_err(failed)?;
    Ok(entry.map_or((None, 0), |entry| {
        let text = (entry.operation == Operation::Put)
            .then(|| String::from_utf8_lossy(&entry.value).into_owned());
        (text.and_then(|text| text.parse().ok()), entry.revision)
    }))
}

/// The times to look at, one after the other.
fn windows(
    swept_to: Option<Timestamp>,
    now: Timestamp,
) -> impl Iterator<Item = (Timestamp, Timestamp)> {
    let before =
        |duration: Duration| Timestamp::from_millis(now.millis() - duration.as_millis() as i64);
    let end = before(GRACE);
    let mut from = swept_to
        .unwrap_or(before(FIRST_LOOK))
        .max(before(LONGEST_LOOK));
    std::iter::from_fn(move || {
        let window = (from, from.plus(WINDOW).min(end));
        from = window.1;
        (window.0 < window.1).then_some(window)
    })
}

async fn sweep_window(tools: &Tools, from: Timestamp, to: Timestamp) -> Result<u64, JobError> {
    let (mut breached, mut after) = (0, None);
    loop {
        let question = ListOverdue {
            from,
            to,
            limit: MAX_OVERDUE,
            after,
        };
        let page = ask(&tools.connection, &question, TraceContext::generate())
            .await
            .map_err(failed)?;
        let stored: Vec<bool> =
            try_join_all(page.overdue.iter().map(|overdue| report(tools, overdue))).await?;
        breached += stored.into_iter().filter(|is_new| *is_new).count() as u64;
        after = page.next;
        if after.is_none() {
            return Ok(breached);
        }
    }
}

/// Stores the event; false if the log has it already.
async fn report(tools: &Tools, overdue: &Overdue) -> Result<bool, JobError> {
    let Overdue {
        company_id,
        contact_id,
        message_id,
        platform,
        accepted_at,
        target_seconds,
    } = *overdue;
    let event = Event::MessageSlaBreached(MessageSlaBreached {
        message_id,
        contact_id,
        platform,
        target_seconds,
        accepted_at,
    });
    let envelope = Envelope::new((tools.clock)(), Actor::System, company_id, event);
    let outgoing = Outgoing::event(
        &envelope,
        format!("sla-{message_id}"),
        TraceContext::generate(),
    )
    .map_err(failed)?;
    let receipt = tools.publisher.publish(outgoing).await.map_err(failed)?;
    if !receipt.duplicate {
        counter!("sla_breaches_total", "platform" => platform.as_str()).increment(1);
    }
    Ok(!receipt.duplicate)
}

fn failed(error: impl std::fmt::Display) -> JobError {
    JobError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_millis(1_760_000_000_000);

    proptest! {
        #[test]
        fn windows_follow_one_another_up_to_now_and_are_short(ago in prop::option::of(-100_000i64..3_000_000_000)) {
            let swept_to = ago.map(|ms| Timestamp::from_millis(NOW.millis() - ms));
            let all: Vec<_> = windows(swept_to, NOW).collect();
            prop_assert!(all.iter().all(|(from, to)| from < to && to.since(*from) <= WINDOW));
            prop_assert!(all.windows(2).all(|pair| pair[0].1 == pair[1].0));
            let end = Timestamp::from_millis(NOW.millis() - 2_000);
            match all.first() {
                Some((first, _)) => {
                    prop_assert_eq!(all.last().map(|(_, to)| *to), Some(end));
                    let ago = NOW.since(*first);
                    let begins = swept_to.map_or(ago == FIRST_LOOK, |at| *first == at || ago == LONGEST_LOOK);
                    prop_assert!(begins);
                }
                None => prop_assert!(swept_to.is_some_and(|at| at >= end)),
            }
        }
    }
}
