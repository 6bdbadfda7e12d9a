//! Finds the tokens of all companies that are about to expire, and enqueues each one as a task of
//! its own (see `refresh::queue`). Exchanges no token.

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

use crate::jobs::tools::{JobError, Tools};
use crate::refresh::queue::{self, TokenRef};

const DAY: Duration = Duration::from_secs(86_400);
/// Tokens of Facebook and Instagram are renewed if they expire within this time.
pub const AHEAD: Duration = Duration::from_secs(7 * 86_400);
/// Tokens that expired within this time are enqueued too. They cannot be renewed any more, but
/// staff are told.
const BEHIND: Duration = AHEAD;
/// Tokens of Google, which live for an hour, are renewed if they expire within this time.
const GOOGLE_AHEAD: Duration = Duration::from_secs(15 * 60);
/// How often a token that Google refused is tried again. The reason may have been a mistake in our
/// settings, or may have passed.
const REFUSED_INTERVAL: Duration = Duration::from_secs(3_600);
/// How long a refused token is tried again. After that only connecting again helps.
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
    enqueue_all(tools, |after| ListExpiring {
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
/// The persister or the stream does not answer.
pub async fn of_google(tools: &Tools) -> Result<Value, JobError> {
    let Some(interval) = tools.refreshes_google else {
        return Ok(json!({"skipped": "GOOGLE_CLIENT_ID and GOOGLE_CLIENT_SECRET are not set"}));
    };
    let now = (tools.clock)();
    let (provider, failed_since) = (
        Provider::Google,
        includes_refused(now, interval).then(|| before(now, REFUSED_FOR)),
    );
    let before = now.plus(GOOGLE_AHEAD);
    enqueue_all(tools, |after| ListRefreshable {
        provider,
        before,
        failed_since,
        after,
        limit: MAX_EXPIRING,
    })
    .await
}

/// Whether this run also tries refused tokens: the first run within each [`REFUSED_INTERVAL`] does.
fn includes_refused(now: Timestamp, interval: Duration) -> bool {
    let into = now.millis().rem_euclid(REFUSED_INTERVAL.as_millis() as i64);
    into < interval.as_millis() as i64
}

fn before(now: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_millis(now.millis() - by.as_millis() as i64)
}

/// Asks for the due tokens page by page, and enqueues them.
async fn enqueue_all<Q>(
    tools: &Tools,
    question: impl Fn(Option<IntegrationKey>) -> Q,
) -> Result<Value, JobError>
where
    Q: Query<Answer = ExpiringPage>,
{
    let (mut due, mut enqueued, mut after) = (0, 0, None);
    loop {
        let page = ask(
            &tools.connection,
            &question(after),
            TraceContext::generate(),
        )
        .await
        .map_err(JobError::new)?;
        let all = page.expiring.iter().map(|(key, version)| {
            let token = TokenRef {
                company: key.company_id,
                provider: key.provider,
                version: *version,
            };
            queue::enqueue(&tools.connection, token, (tools.clock)())
        });
        let stored = try_join_all(all).await.map_err(JobError::new)?;
        due += stored.len();
        enqueued += stored.into_iter().filter(|is_new| *is_new).count();
        after = page.next;
        if after.is_none() {
            return Ok(json!({"due": due, "handed_out": enqueued}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_tokens_are_tried_once_an_hour_whatever_the_interval() {
        for interval in [1, 60, 300, 600] {
            let runs = (0..7_200 / interval)
                .map(|n| Timestamp::from_millis(1_764_000_000_000 + 1_000 * n * interval + 700));
            let taken = runs
                .filter(|at| includes_refused(*at, Duration::from_secs(interval as u64)))
                .count();
            assert_eq!(taken, 2, "every {interval} s for two hours");
        }
    }
}
