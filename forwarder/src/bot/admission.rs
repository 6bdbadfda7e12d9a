//! The gate to the bot: what every call passes. Bounds calls at once and calls a second, and stays
//! shut while the breaker is open. Tells in the bucket `bot-health` and in `/health` how it stands.
//! It makes no call, not even the probe: the scheduler does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::domain::{BotHealth, BotStatus, BreakerState, BreakerView};
use contract::inventory;
use contract::{Id, Timestamp};
use metrics::{counter, gauge};
use runtime::CancellationToken;
use runtime::kv::bucket::Bucket;
use runtime::net::connection::Connection;
use runtime::service::health::Health;
use serde_json::json;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::bot::breaker::{Admit, Breaker, Sign, State};

/// How often the probe's last word is asked for, and the breaker's state is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The breaker's entry in `bot-health` is written so often at least, …
const TELL_EVERY: Duration = Duration::from_secs(20);
/// … and is gone after this if its forwarder is.
const TOLD_FOR: Duration = Duration::from_secs(60);
/// A probe that has said nothing for so long says nothing.
const PROBE_TOO_OLD: Duration = Duration::from_secs(15);

/// The gate.
pub struct Gate {
    slots: Arc<Semaphore>,
    /// Who has a slot asks the breaker in turn, so that a call that may begin wakes one, not all.
    turn: tokio::sync::Mutex<()>,
    breaker: Mutex<Breaker>,
    changed: Notify,
}

/// Leave for one call.
pub struct Pass {
    gate: Arc<Gate>,
    trial: bool,
    told: bool,
    _slot: OwnedSemaphorePermit,
}

impl Gate {
    /// `at_once` calls at once, `a_second` calls a second.
    pub fn new(at_once: usize, a_second: u32) -> Arc<Gate> {
        Arc::new(Gate {
            slots: Arc::new(Semaphore::new(at_once)),
            turn: tokio::sync::Mutex::default(),
            breaker: Mutex::new(Breaker::new(f64::from(a_second), Instant::now())),
            changed: Notify::new(),
        })
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for leave, as long as it takes: with the breaker open there is none. First come, first
    /// served.
    pub async fn pass(self: Arc<Gate>) -> Option<Pass> {
        let slot = self.slots.clone().acquire_owned().await.ok()?;
        let turn = self.turn.lock().await;
        let trial = loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let admit = self.breaker().admit(Instant::now());
            match admit {
                Admit::Now { trial } => break trial,
                Admit::Never => changed.await,
                Admit::NotBefore(at) => drop(tokio::time::timeout_at(at, changed).await),
            }
        };
        drop(turn);
        Some(Pass {
            gate: self,
            trial,
            told: false,
            _slot: slot,
        })
    }

    /// Watches the probe and tells how the breaker stands, until stopped.
    pub async fn watch(
        self: Arc<Gate>,
        connection: Connection,
        health: Health,
        stop: CancellationToken,
    ) {
        let bucket = Bucket::new(connection.clone(), inventory::BOT_HEALTH);
        let key = format!("breaker.{}", connection.instance);
        let mut tick = tokio::time::interval(LOOK_EVERY);
        let (mut view, mut told_at, mut seen): (
            Option<BreakerView>,
            Option<Instant>,
            Option<Timestamp>,
        ) = (None, None, None);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let probe = bucket
                .read::<BotHealth>(inventory::META_BOT)
                .await
                .ok()
                .and_then(|entry| entry.value);
            if let Some(probe) = &probe
                && seen.replace(probe.checked_at) != Some(probe.checked_at)
                && Timestamp::now().since(probe.checked_at) < PROBE_TOO_OLD
            {
                self.breaker()
                    .probe(probe.status == BotStatus::Up, Instant::now());
                self.changed.notify_waiters();
            }
            let (state, opened) = {
                let breaker = self.breaker();
                (breaker.state(), breaker.opened())
            };
            let state = match state {
                State::Closed => BreakerState::Closed,
                State::Open { .. } => BreakerState::Open,
                State::HalfOpen { .. } => BreakerState::HalfOpen,
            };
            let changed = view.as_ref().map(|v| v.state) != Some(state);
            let since = view
                .filter(|_| !changed)
                .map_or_else(Timestamp::now, |v| v.since);
            let now = BreakerView {
                state,
                since,
                opened,
            };
            if changed {
                note(&now);
            }
            health.good("meta_bot", json!({"breaker": now, "probe": probe}));
            if (changed || told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY))
                && bucket.put(&key, &now, TOLD_FOR).await.is_ok()
            {
                told_at = Some(Instant::now());
            }
            view = Some(now);
        }
    }
}

fn note(view: &BreakerView) {
    gauge!("breaker_open").set(match view.state {
        BreakerState::Closed => 0.0,
        BreakerState::HalfOpen => 0.5,
        BreakerState::Open => 1.0,
    });
    counter!("breaker_opened_total").absolute(view.opened);
    match view.state {
        BreakerState::Closed => info!("the breaker is closed: messages flow"),
        BreakerState::HalfOpen => info!("the breaker lets one call try"),
        BreakerState::Open => warn!("the breaker is open: messages wait for the bot"),
    }
}

impl Pass {
    /// What the call says about the bot.
    pub fn tell(mut self, sign: Sign, conversation: Id) {
        self.told = true;
        self.gate
            .breaker()
            .record(sign, conversation, self.trial, Instant::now());
        self.gate.changed.notify_waiters();
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.trial && !self.told {
            self.gate.breaker().give_up_trial();
            self.gate.changed.notify_waiters();
        }
    }
}
