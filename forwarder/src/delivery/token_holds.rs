//! Companies whose access to a platform is refused or missing. Their messages wait until a manager
//! has replaced the token. [`TokenHolds`] remembers which token was refused, and asks whether there
//! is another. Does not know which messages wait; the lanes know.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::Timestamp;
use contract::query::GetIntegration;
use contract::trace::TraceContext;
use futures_util::{StreamExt, stream};
use metrics::{counter, gauge};
use runtime::CancellationToken;
use runtime::net::connection::Connection;
use runtime::rpc::query::{self, QueryError};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::delivery::work::Scope;

/// How often the held tokens are asked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Questions at one look at most. With more holds each is looked at less often.
const QUESTIONS: usize = 200;
/// Questions of one look that are open at the same time.
const QUESTIONS_AT_ONCE: usize = 8;
/// How long after a refusal one message tries the same token again, because the refusal may have been
/// the bot's own mistake.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(15 * 60);

/// The time at which a token was entered, which tells tokens apart. `None` if there is no token.
pub type Version = Option<Timestamp>;

/// Whether a message may be sent with a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenState {
    Free,
    /// The token was refused, and this one message tries it again.
    Trial,
    /// The token was refused for this reason.
    Held(String),
}

#[derive(Clone)]
struct Hold {
    version: Version,
    why: String,
    /// When the token was refused, or tried again.
    since: Instant,
    /// Whether a lane is still to be woken for the trial.
    wakes_one: bool,
    /// Whether the trial is still to be made.
    is_trial_open: bool,
}

/// The present holds. Cloning shares them.
#[derive(Clone)]
pub struct TokenHolds {
    held: Arc<Mutex<BTreeMap<Scope, Hold>>>,
    released: Arc<watch::Sender<u64>>,
}

impl Default for TokenHolds {
    fn default() -> TokenHolds {
        TokenHolds {
            held: Arc::default(),
            released: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl TokenHolds {
    fn held(&self) -> MutexGuard<'_, BTreeMap<Scope, Hold>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// TokenHolds a scope, because its token was refused or is missing.
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
                    wakes_one: false,
                    is_trial_open: false,
                },
            );
        }
        gauge!("holds").set(held.len() as f64);
    }

    /// Whether a message may be sent with this token. The answer [`TokenState::Trial`] is given to one
    /// message only.
    pub fn check(&self, scope: Scope, version: Version) -> TokenState {
        let mut held = self.held();
        let Some(hold) = held.get_mut(&scope).filter(|h| h.version == version) else {
            return TokenState::Free;
        };
        if std::mem::take(&mut hold.is_trial_open) {
            TokenState::Trial
        } else {
            TokenState::Held(hold.why.clone())
        }
    }

    /// Whether [`TokenHolds::take_leave`] would let a lane of the scope go on.
    pub fn lets_some_go(&self, scope: Scope) -> bool {
        self.held().get(&scope).is_none_or(|hold| hold.wakes_one)
    }

    /// Whether a lane that was held may go on. All lanes may once the scope is free. For a trial only
    /// the first caller may.
    pub fn take_leave(&self, scope: Scope) -> bool {
        self.held()
            .get_mut(&scope)
            .is_none_or(|hold| std::mem::take(&mut hold.wakes_one))
    }

    /// Ends the hold of a refused token that the bot accepted after all.
    pub fn accept(&self, scope: Scope, version: Version) {
        if self
            .held()
            .get(&scope)
            .is_some_and(|h| h.version == version)
        {
            self.release(scope, "the same token works again");
        }
    }

    /// Begins a trial if it is time for one.
    fn begin_trial(&self, scope: Scope) -> bool {
        let mut held = self.held();
        let Some(hold) = held
            .get_mut(&scope)
            .filter(|h| h.since.elapsed() >= TRY_AGAIN_AFTER)
        else {
            return false;
        };
        (hold.since, hold.wakes_one, hold.is_trial_open) = (Instant::now(), true, true);
        drop(held);
        info!(company = %scope.0, platform = %scope.1, "one held message tries the same token again");
        self.released.send_modify(|n| *n += 1);
        true
    }

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

    /// Releases the scopes that have a new token, until the stop.
    pub async fn watch(self, connection: Connection, stop: CancellationToken) {
        let (mut tick, mut after) = (tokio::time::interval(LOOK_EVERY), None);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let batch = self.next_batch(&mut after);
            // At the same time, and each for itself: a scope that cannot be asked about must not
            // keep the others waiting.
            let looks = stream::iter(batch)
                .map(|(scope, hold)| self.look(&connection, scope, hold))
                .buffer_unordered(QUESTIONS_AT_ONCE)
                .collect::<()>();
            if stop.run_until_cancelled(looks).await.is_none() {
                return;
            }
        }
    }

    /// Releases a scope that has a new token, or begins a trial of the old one if it is time.
    async fn look(&self, connection: &Connection, scope: Scope, hold: Hold) {
        // Without a token there can be no trial.
        if hold.version.is_some() && self.begin_trial(scope) {
            return;
        }
        let question = GetIntegration {
            company_id: scope.0,
            provider: scope.1,
        };
        let version = match query::ask(connection, &question, TraceContext::generate()).await {
            Ok(found) => Some(found.integration.updated_at),
            Err(QueryError::NotFound) => None,
            // The next look asks again.
            Err(error) => {
                debug!(company = %scope.0, platform = %scope.1, %error, "no answer about a token");
                return;
            }
        };
        if version != hold.version {
            self.release(scope, "the token was replaced");
        }
    }

    /// The next holds in order. After the last hold follows the first.
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
    async fn one_message_tries_a_refused_token_again_and_the_others_wait_for_the_result() {
        let (holds, held) = (TokenHolds::default(), || {
            TokenState::Held("HTTP 403".into())
        });
        assert!(holds.check(SCOPE, TOKEN) == TokenState::Free && holds.take_leave(SCOPE));
        holds.hold(SCOPE, TOKEN, "HTTP 403");
        assert_eq!(
            (holds.check(SCOPE, TOKEN), holds.check(SCOPE, OTHER)),
            (held(), TokenState::Free)
        );
        tokio::time::advance(TRY_AGAIN_AFTER - Duration::from_secs(1)).await;
        assert!(
            !holds.begin_trial(SCOPE) && !holds.lets_some_go(SCOPE) && !holds.take_leave(SCOPE)
        );
        for _ in 0..2 {
            tokio::time::advance(TRY_AGAIN_AFTER).await;
            assert!(holds.begin_trial(SCOPE) && !holds.begin_trial(SCOPE));
            assert!(holds.lets_some_go(SCOPE));
            assert_eq!(
                [holds.take_leave(SCOPE), holds.take_leave(SCOPE)],
                [true, false],
                "one lane"
            );
            assert_eq!(
                [holds.check(SCOPE, TOKEN), holds.check(SCOPE, TOKEN)],
                [TokenState::Trial, held()],
                "one message"
            );
            // The token is refused again.
            holds.hold(SCOPE, TOKEN, "HTTP 403");
            assert_eq!((holds.check(SCOPE, TOKEN), holds.len()), (held(), 1));
        }
        holds.accept(SCOPE, OTHER);
        assert_eq!(holds.len(), 1);
        holds.accept(SCOPE, TOKEN);
        assert!(
            holds.check(SCOPE, TOKEN) == TokenState::Free
                && holds.take_leave(SCOPE)
                && holds.lets_some_go(SCOPE)
        );
    }
}
