//! Finds the tokens of all companies that are about to expire, and hands each out as a piece of work of its own (see `work`).
//! Exchanges none itself.

use std::time::Duration;

use futures_util::future::try_join_all;
use nats::Timestamp;
use nats::query::{ListExpiring, MAX_EXPIRING};
use nats::runtime::query::ask;
use nats::trace::TraceContext;
use serde_json::{Value, json};

use super::{JobError, Tools};
use crate::refresh::Which;
use crate::work;

/// Tokens are renewed that expire within this.
const AHEAD: Duration = Duration::from_secs(7 * 86_400);
/// And those that expired within this: nobody can renew them any more, but staff shall know.
const BEHIND: Duration = AHEAD;

/// One run.
///
/// # Errors
/// The persister or the stream does not answer.
pub async fn hand_out(tools: &Tools) -> Result<Value, JobError> {
    if !tools.refreshes_tokens {
        return Ok(json!({"skipped": "FACEBOOK_APP_ID and FACEBOOK_APP_SECRET are not set"}));
    }
    let now = (tools.clock)();
    let from = Timestamp::from_millis(now.millis() - BEHIND.as_millis() as i64);
    let (mut due, mut handed_out, mut after) = (0, 0, None);
    loop {
        let question = ListExpiring { from, before: now.plus(AHEAD), after, limit: MAX_EXPIRING };
        let page = ask(&tools.connection, &question, TraceContext::generate()).await.map_err(failed)?;
        let all = page.expiring.iter().map(|(key, version)| {
            let which = Which { company: key.company_id, platform: key.platform, version: *version };
            work::hand_out(&tools.connection, which)
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
