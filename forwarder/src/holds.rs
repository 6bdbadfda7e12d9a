//! Companies whose access to a platform is refused or missing. Their messages wait until a manager has replaced the token;
//! here is remembered which token was refused, and asked whether there is another. Which messages wait is the lanes' matter.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{counter, gauge};
use nats::Timestamp;
use nats::query::GetIntegration;
use nats::runtime::CancellationToken;
use nats::runtime::connection::Connection;
use nats::runtime::query::{self, QueryError};
use nats::trace::TraceContext;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::lane::Scope;

/// How often holds are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Questions at one look; with more holds than these each is looked at less often.
const QUESTIONS: usize = 200;
/// A hold is given up after this and the same token tried again: the refusal may have been the bot's own mistake.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(15 * 60);

/// Which token: when it was entered; `None` if there is none.
pub type Version = Option<Timestamp>;

#[derive(Clone)]
struct Hold {
    version: Version,
    why: String,
    since: Instant,
}

/// What is held now. Cloning shares it.
#[derive(Clone)]
pub struct Holds {
    held: Arc<Mutex<BTreeMap<Scope, Hold>>>,
    released: Arc<watch::Sender<u64>>,
}

impl Default for Holds {
    fn default() -> Holds {
        Holds { held: Arc::default(), released: Arc::new(watch::Sender::new(0)) }
    }
}

impl Holds {
    fn held(&self) -> MutexGuard<'_, BTreeMap<Scope, Hold>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token was refused, or is missing.
    pub fn hold(&self, scope: Scope, version: Version, why: &str) {
        let mut held = self.held();
        if held.get(&scope).is_none_or(|h| h.version != version) {
            warn!(company = %scope.0, platform = %scope.1, why, "messages are held until the token is replaced");
            counter!("holds_total").increment(1);
            held.insert(scope, Hold { version, why: why.to_owned(), since: Instant::now() });
        }
        gauge!("holds").set(held.len() as f64);
    }

    /// Why the scope is held, if this very token was refused.
    pub fn why(&self, scope: Scope, version: Version) -> Option<String> {
        self.held().get(&scope).filter(|h| h.version == version).map(|h| h.why.clone())
    }

    /// Whether the scope is held.
    pub fn is_held(&self, scope: Scope) -> bool {
        self.held().contains_key(&scope)
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.held().len()
    }

    /// Changes whenever something was released.
    pub fn released(&self) -> watch::Receiver<u64> {
        self.released.subscribe()
    }

    fn release(&self, scope: Scope, why: &str) {
        let mut held = self.held();
        held.remove(&scope);
        gauge!("holds").set(held.len() as f64);
        drop(held);
        info!(company = %scope.0, platform = %scope.1, why, "held messages go on");
        self.released.send_modify(|n| *n += 1);
    }

    /// Releases what has a new token, until stopped.
    pub async fn watch(self, connection: Connection, stop: CancellationToken) {
        let (mut tick, mut after) = (tokio::time::interval(LOOK_EVERY), None);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let batch = self.next_batch(&mut after);
            for (scope, hold) in batch {
                if hold.since.elapsed() >= TRY_AGAIN_AFTER {
                    self.release(scope, "the same token is tried again");
                    continue;
                }
                let question = GetIntegration { company_id: scope.0, provider: scope.1 };
                let Some(answer) = stop.run_until_cancelled(query::ask(&connection, &question, TraceContext::generate())).await else {
                    return;
                };
                let version = match answer {
                    Ok(found) => Some(found.integration.updated_at),
                    Err(QueryError::NotFound) => None,
                    // Nobody can tell now; the next look may.
                    Err(_) => break,
                };
                if version != hold.version {
                    self.release(scope, "the token was replaced");
                }
            }
        }
    }

    /// The next ones in order, from the first again after the last.
    fn next_batch(&self, after: &mut Option<Scope>) -> Vec<(Scope, Hold)> {
        let held = self.held();
        let rest = held.iter().filter(|(scope, _)| after.is_none_or(|last| **scope > last));
        let batch: Vec<_> = rest.take(QUESTIONS).map(|(scope, hold)| (*scope, hold.clone())).collect();
        *after = if batch.len() < QUESTIONS { None } else { batch.last().map(|(scope, _)| *scope) };
        batch
    }
}
