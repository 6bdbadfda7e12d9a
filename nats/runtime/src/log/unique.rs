//! Which unique keys of a commit group are taken, asked of the persister in one query. It covers
//! what lies outside the log's duplicate window; inside it `Nats-Msg-Id` decides. Where the
//! persister does not answer in time nobody waits for it: messages are accepted, and the unique
//! index has the last word.

use std::collections::HashMap;
use std::time::Duration;

use metrics::counter;
use tokio::time::Instant;
use tracing::warn;

use crate::net::connection::Connection;
use crate::rpc::query;
use contract::query::{FindKeyOwners, KeyOwner, UniqueKey};
use contract::trace::TraceContext;

/// How long a commit group waits for the answer.
const TIMEOUT: Duration = Duration::from_millis(300);
/// After a failure nothing is asked for so long, so that a database that is away slows nobody.
const PAUSE: Duration = Duration::from_secs(2);

/// Asks, unless the last answer failed to come a moment ago.
pub struct UniqueCheck {
    paused_until: Instant,
}

impl UniqueCheck {
    /// Asks from the start.
    pub fn new() -> UniqueCheck {
        UniqueCheck {
            paused_until: Instant::now(),
        }
    }

    /// The taken ones of these keys, each with the message that holds it.
    pub async fn holders(
        &mut self,
        connection: &Connection,
        keys: Vec<UniqueKey>,
    ) -> HashMap<UniqueKey, KeyOwner> {
        if keys.is_empty() {
            return HashMap::new();
        }
        let count = keys.len() as u64;
        if Instant::now() < self.paused_until {
            counter!("unique_checks_skipped_total", "reason" => "paused").increment(count);
            return HashMap::new();
        }
        let question = FindKeyOwners { keys };
        let why = match tokio::time::timeout(
            TIMEOUT,
            query::ask(connection, &question, TraceContext::generate()),
        )
        .await
        {
            Ok(Ok(holders)) => return holders.into_iter().map(|h| (h.key.clone(), h)).collect(),
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!("no answer within {TIMEOUT:?}"),
        };
        warn!(
            why,
            "unique keys cannot be checked against the database for now"
        );
        counter!("unique_checks_skipped_total", "reason" => "failed").increment(count);
        self.paused_until = Instant::now() + PAUSE;
        HashMap::new()
    }
}

impl Default for UniqueCheck {
    fn default() -> UniqueCheck {
        UniqueCheck::new()
    }
}
