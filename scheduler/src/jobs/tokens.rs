//! Finds the tokens of all companies that are about to expire, and hands each out as a piece of
//! work of its own (see `work`). Exchanges none itself.

use std::time::Duration;

use contract::Timestamp;
use contract::domain::Provider;
use contract::query::{
    ExpiringPage, IntegrationKey, ListExpiring, ListRefreshable, MAX_EXPIRING, Query,
};
use contract::trace::TraceContext;
use futures_util::future::try_join_all;
use runtime::rpc::query::ask;
use serde_json::{Value, json};

use super::{JobError, Tools};
use crate::refresh::Which;
use crate::refresh::queue;

const DAY: Duration = Duration::from_secs(86_400);
/// Tokens of Facebook and Instagram are renewed that expire within this.
pub const AHEAD: Duration = Duration::from_secs(7 * 86_400);
/// And those that expired within this: nobody can renew them any more, but staff shall know.
const BEHIND: Duration = AHEAD;
/// Google's, which live for an hour, are renewed that expire within this.
const GOOGLE_AHEAD: Duration = Duration::from_secs(15 * 60);
/// What Google refused is tried again this often: the reason may have been ours, or have passed …
const REFUSED_AGAIN: Duration = Duration::from_secs(3_600);
/// … for so long.
const REFUSED_FOR: Duration = DAY.saturating_mul(7);

/// One run for Facebook and Instagram.
///
/// # Errors
/// The persister or the stream does not answer.
pub async fn of_meta(tools: &Tools) -> Result<Value, JobError> {
    if !tools.refreshes_tokens {
        return Ok(json!({"skipped": "FACEBOOK_APP_ID and FACEBOOK_APP_SECRET are not set"}));
    }
    let now = (tools.clock)();
    let (from, before) = (before(now, BEHIND), now.plus(AHEAD));
    hand_out(tools, |after| ListExpiring {
        from,
        before,
        after,
        limit: MAX_EXPIRING,
    })
    .await
}

/// One run for Google.
///
/// # Errors
/// As [`of_meta`].
pub async fn of_google(tools: &Tools) -> Result<Value, JobError> {
    let Some(interval) = tools.refreshes_google else {
        return Ok(json!({"skipped": "GOOGLE_CLIENT_ID and GOOGLE_CLIENT_SECRET are not set"}));
    };
    let now = (tools.clock)();
    let (provider, failed_since) = (
        Provider::Google,
        is_turn_of_refused(now, interval).then(|| before(now, REFUSED_FOR)),
    );
    let before = now.plus(GOOGLE_AHEAD);
    hand_out(tools, |after| ListRefreshable {
        provider,
        before,
        failed_since,
        after,
        limit: MAX_EXPIRING,
    })
    .await
}

/// Of the runs within [`REFUSED_AGAIN`], the first.
fn is_turn_of_refused(now: Timestamp, interval: Duration) -> bool {
    let into = now.millis().rem_euclid(REFUSED_AGAIN.as_millis() as i64);
    into < interval.as_millis() as i64
}

fn before(now: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_millis(now.millis() - by.as_millis() as i64)
}

/// Page by page.
async fn hand_out<Q>(
    tools: &Tools,
    question: impl Fn(Option<IntegrationKey>) -> Q,
) -> Result<Value, JobError>
where
    Q: Query<Answer = ExpiringPage>,
{
    let (mut due, mut handed_out, mut after) = (0, 0, None);
    loop {
        let page = ask(
            &tools.connection,
            &question(after),
            TraceContext::generate(),
        )
        .await
        .map_err(failed)?;
        let all = page.expiring.iter().map(|(key, version)| {
            let which = Which {
                company: key.company_id,
                provider: key.provider,
                version: *version,
            };
            queue::hand_out(&tools.connection, which, (tools.clock)())
        });
        let stored = try_join_all(all).await.map_err(failed)?;
        due += stored.len();
        handed_out += stored.into_iter().filter(|is_new| *is_new).count();
        after = page.next;
        if after.is_none() {
            return Ok(json!({"due": due, "handed_out": handed_out}));
        }
    }
}

fn failed(error: impl std::fmt::Display) -> JobError {
    JobError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_has_its_turn_once_an_hour() {
        for interval in [1, 60, 300, 600] {
            let runs = (0..7_200 / interval)
                .map(|n| Timestamp::from_millis(1_764_000_000_000 + 1_000 * n * interval + 700));
            let taken = runs
                .filter(|at| is_turn_of_refused(*at, Duration::from_secs(interval as u64)))
                .count();
            assert_eq!(taken, 2, "every {interval} s for two hours");
        }
    }
}
