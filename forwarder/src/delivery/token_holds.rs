//! Companies whose access to a platform is refused or missing. Their messages wait until a manager
//! has replaced the token; here is remembered which token was refused, and asked whether there is
//! another. Which messages wait is the lanes' matter.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::Timestamp;
use contract::query::GetIntegration;
use contract::trace::TraceContext;
use metrics::{counter, gauge};
use runtime::CancellationToken;
use runtime::net::connection::Connection;
use runtime::rpc::query::{self, QueryError};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::partition::lane::Scope;

/// How often holds are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Questions at one look; with more holds than these each is looked at less often.
const QUESTIONS: usize = 200;
/// So long after a refusal one message is let through with the same token: the refusal may have
/// been the bot's own mistake.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(15 * 60);

/// Which token: when it was entered; `None` if there is none.
pub type Version = Option<Timestamp>;

/// Whether a message may be called for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Nothing speaks against it.
    Free,
    /// The token was refused, and this one message tries it again.
    Trial,
    /// Not with this token, and why.
    Held(String),
}

#[derive(Clone)]
struct Hold {
    version: Version,
    why: String,
    /// When the token was refused, or tried again.
    since: Instant,
    /// One lane is still to be woken for the trial.
    wake: bool,
    /// The trial is still to be made.
    trial: bool,
}

/// What is held now. Cloning shares it.
#[derive(Clone)]
pub struct Holds {
    held: Arc<Mutex<BTreeMap<Scope, Hold>>>,
    released: Arc<watch::Sender<u64>>,
}

impl Default for Holds {
    fn default() -> Holds {
        Holds {
            held: Arc::default(),
            released: Arc::new(watch::Sender::new(0)),
        }
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
            held.insert(
                scope,
                Hold {
                    version,
                    why: why.to_owned(),
                    since: Instant::now(),
                    wake: false,
                    trial: false,
                },
            );
        }
        gauge!("holds").set(held.len() as f64);
    }

    /// Whether a message may be called for with this token.
    pub fn ask(&self, scope: Scope, version: Version) -> Leave {
        let mut held = self.held();
        let Some(hold) = held.get_mut(&scope).filter(|h| h.version == version) else {
            return Leave::Free;
        };
        if std::mem::take(&mut hold.trial) {
            Leave::Trial
        } else {
            Leave::Held(hold.why.clone())
        }
    }

    /// Whether [`Holds::may_go`] lets some lane of the scope go.
    pub fn lets_some_go(&self, scope: Scope) -> bool {
        self.held().get(&scope).is_none_or(|hold| hold.wake)
    }

    /// Whether a lane that was held may go on: all may once the scope is free, one of them for a
    /// trial.
    pub fn may_go(&self, scope: Scope) -> bool {
        self.held()
            .get_mut(&scope)
            .is_none_or(|hold| std::mem::take(&mut hold.wake))
    }

    /// The refused token has been taken.
    pub fn works(&self, scope: Scope, version: Version) {
        if self
            .held()
            .get(&scope)
            .is_some_and(|h| h.version == version)
        {
            self.release(scope, "the same token works again");
        }
    }

    /// Begins a trial if it is time for one.
    fn try_again(&self, scope: Scope) -> bool {
        let mut held = self.held();
        let Some(hold) = held
            .get_mut(&scope)
            .filter(|h| h.since.elapsed() >= TRY_AGAIN_AFTER)
        else {
            return false;
        };
        (hold.since, hold.wake, hold.trial) = (Instant::now(), true, true);
        drop(held);
        info!(company = %scope.0, platform = %scope.1, "one held message tries the same token again");
        self.released.send_modify(|n| *n += 1);
        true
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.held().len()
    }

    /// Changes whenever a lane may go on.
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
                // Without a token there is nothing to try.
                if hold.version.is_some() && self.try_again(scope) {
                    continue;
                }
                let question = GetIntegration {
                    company_id: scope.0,
                    provider: scope.1,
                };
                let Some(answer) = stop
                    .run_until_cancelled(query::ask(
                        &connection,
                        &question,
                        TraceContext::generate(),
                    ))
                    .await
                else {
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
        let rest = held
            .iter()
            .filter(|(scope, _)| after.is_none_or(|last| **scope > last));
        let batch: Vec<_> = rest
            .take(QUESTIONS)
            .map(|(scope, hold)| (*scope, hold.clone()))
            .collect();
        *after = if batch.len() < QUESTIONS {
            None
        } else {
            batch.last().map(|(scope, _)| *scope)
        };
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::Id;
    use contract::domain::Provider;

    const SCOPE: Scope = (Id::from_bytes([1; 12]), Provider::Facebook);
    const TOKEN: Version = Some(Timestamp::from_millis(7));
    const OTHER: Version = Some(Timestamp::from_millis(8));

    #[tokio::test(start_paused = true)]
    async fn after_a_while_one_message_tries_the_same_token_and_the_others_wait_for_what_comes_of_it()
     {
        let (holds, held) = (Holds::default(), || Leave::Held("HTTP 403".into()));
        assert!(holds.ask(SCOPE, TOKEN) == Leave::Free && holds.may_go(SCOPE));
        holds.hold(SCOPE, TOKEN, "HTTP 403");
        assert_eq!(
            (holds.ask(SCOPE, TOKEN), holds.ask(SCOPE, OTHER)),
            (held(), Leave::Free)
        );
        tokio::time::advance(TRY_AGAIN_AFTER - Duration::from_secs(1)).await;
        assert!(!holds.try_again(SCOPE) && !holds.lets_some_go(SCOPE) && !holds.may_go(SCOPE));
        for _ in 0..2 {
            tokio::time::advance(TRY_AGAIN_AFTER).await;
            assert!(holds.try_again(SCOPE) && !holds.try_again(SCOPE));
            assert!(holds.lets_some_go(SCOPE));
            assert_eq!(
                [holds.may_go(SCOPE), holds.may_go(SCOPE)],
                [true, false],
                "one lane"
            );
            assert_eq!(
                [holds.ask(SCOPE, TOKEN), holds.ask(SCOPE, TOKEN)],
                [Leave::Trial, held()],
                "one message"
            );
            // It is refused again.
            holds.hold(SCOPE, TOKEN, "HTTP 403");
            assert_eq!((holds.ask(SCOPE, TOKEN), holds.len()), (held(), 1));
        }
        holds.works(SCOPE, OTHER);
        assert_eq!(holds.len(), 1);
        holds.works(SCOPE, TOKEN);
        assert!(
            holds.ask(SCOPE, TOKEN) == Leave::Free
                && holds.may_go(SCOPE)
                && holds.lets_some_go(SCOPE)
        );
    }
}
