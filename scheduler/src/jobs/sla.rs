//! Reports each message that was not delivered to the bot within its company's target, once, as
//! `message.sla_breached`. Delivers nothing.
//!
//! A run looks once at each message whose target passed since the last run. A message that is not
//! delivered then, or was delivered later, is a breach. The time up to which runs have looked is
//! kept in `job-runs` beside the job's last run.
//!
//! A message is reported once even if a run is repeated. The persister answers only when its view
//! has everything that the log had at the time of the question, so it leaves out the messages that
//! an earlier run has reported. Of two runs at once the log keeps one event, because both name the
//! message in `Nats-Msg-Id`.

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

use crate::jobs::tools::{JobError, Tools};

/// The key in `job-runs` of the time up to which runs have looked.
const CURSOR: &str = "sla-sweep.swept-to";
/// How long after its target a message is looked at. The forwarder's clock may differ from this
/// replica's, and its report takes a moment to be stored.
const GRACE: Duration = Duration::from_secs(2);
/// How far back the first run looks. Older messages have expired.
const FIRST_LOOK: Duration = Duration::from_secs(86_400);
/// How far back any run looks. Older messages have left the log.
const LONGEST_LOOK: Duration = inventory::EVENTS_MAX_AGE;
/// The time that one question covers, so that questions stay short after a long downtime.
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
        .map_err(JobError::new)?;
    let (swept_to, mut revision) = cursor(&store).await?;
    let mut breached = 0;
    for (from, to) in windows(swept_to, (tools.clock)()) {
        breached += sweep_window(tools, from, to).await?;
        // If another replica sweeps at the same time, the slower of the two fails here.
        revision = store
            .update(CURSOR, to.to_string().into(), revision)
            .await
            .map_err(JobError::new)?;
    }
    Ok(json!({"breached": breached}))
}

/// The time up to which runs have looked, and its revision; 0 if there is none.
async fn cursor(store: &Store) -> Result<(Option<Timestamp>, u64), JobError> {
    let entry = store.entry(CURSOR).await.map_err(JobError::new)?;
    Ok(entry.map_or((None, 0), |entry| {
        let text = (entry.operation == Operation::Put)
            .then(|| String::from_utf8_lossy(&entry.value).into_owned());
        (text.and_then(|text| text.parse().ok()), entry.revision)
    }))
}

/// The time ranges to look at, in order.
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
            .map_err(JobError::new)?;
        let stored: Vec<bool> =
            try_join_all(page.overdue.iter().map(|overdue| report(tools, overdue))).await?;
        breached += stored.into_iter().filter(|is_new| *is_new).count() as u64;
        after = page.next;
        if after.is_none() {
            return Ok(breached);
        }
    }
}

/// Stores the event. Returns false if the log already has it.
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
    .map_err(JobError::new)?;
    let receipt = tools
        .publisher
        .publish(outgoing)
        .await
        .map_err(JobError::new)?;
    if !receipt.duplicate {
        counter!("sla_breaches_total", "platform" => platform.as_str()).increment(1);
    }
    Ok(!receipt.duplicate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_millis(1_760_000_000_000);

    proptest! {
        #[test]
        fn windows_are_short_and_cover_the_time_until_now_without_gaps(
            ago in prop::option::of(-100_000i64..3_000_000_000),
        ) {
            let swept_to = ago.map(|ms| Timestamp::from_millis(NOW.millis() - ms));
            let all: Vec<_> = windows(swept_to, NOW).collect();
            prop_assert!(all.iter().all(|(from, to)| from < to && to.since(*from) <= WINDOW));
            prop_assert!(all.windows(2).all(|pair| pair[0].1 == pair[1].0));
            let end = Timestamp::from_millis(NOW.millis() - 2_000);
            match all.first() {
                Some((first, _)) => {
                    prop_assert_eq!(all.last().map(|(_, to)| *to), Some(end));
                    let ago = NOW.since(*first);
                    let begins = swept_to.map_or(ago == FIRST_LOOK, |at| {
                        *first == at || ago == LONGEST_LOOK
                    });
                    prop_assert!(begins);
                }
                None => prop_assert!(swept_to.is_some_and(|at| at >= end)),
            }
        }
    }
}
