//! Admission to the bot: every call needs a permit. Bounds calls at once and calls a second, and
//! admits none while the breaker is open. Shows the breaker's state in the bucket `bot-health` and in
//! `/health`. Makes no call itself, not even the health probe: the scheduler probes.

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

use crate::bot::breaker::{Admit, Breaker, Signal, State};

/// Calls to the bot at once in one replica at most. Further calls wait.
pub const CALLS_AT_ONCE: usize = 64;
/// How often the probe's last result and the breaker's state are read.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the breaker's entry in `bot-health` is written at least.
const WRITE_EVERY: Duration = Duration::from_secs(20);
/// How long the breaker's entry in `bot-health` lives. Without a further write the entry is gone
/// after this time, because its forwarder is gone.
const ENTRY_TTL: Duration = Duration::from_secs(60);
/// Probe results older than this are ignored.
const PROBE_TOO_OLD: Duration = Duration::from_secs(15);

/// Grants permits for calls to the bot.
pub struct Admission {
    slots: Arc<Semaphore>,
    /// Holders of a slot ask the breaker one after the other. Otherwise every call that may begin
    /// would wake all of them.
    turn: tokio::sync::Mutex<()>,
    breaker: Mutex<Breaker>,
    changed: Notify,
}

/// Leave for one call.
pub struct Permit {
    admission: Arc<Admission>,
    is_trial: bool,
    is_reported: bool,
    _slot: OwnedSemaphorePermit,
}

impl Admission {
    /// Admits at most `at_once` calls at once, and `a_second` calls a second.
    pub fn new(at_once: usize, a_second: u32) -> Arc<Admission> {
        Arc::new(Admission {
            slots: Arc::new(Semaphore::new(at_once)),
            turn: tokio::sync::Mutex::default(),
            breaker: Mutex::new(Breaker::new(f64::from(a_second), Instant::now())),
            changed: Notify::new(),
        })
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a permit without a time limit, because there is none while the breaker is open.
    /// Callers are served in the order in which they came. Call this function only inside a spawned
    /// task. Otherwise a future that is never polled would keep its turn and block all others.
    pub async fn permit(self: Arc<Admission>) -> Option<Permit> {
        let slot = self.slots.clone().acquire_owned().await.ok()?;
        let turn = self.turn.lock().await;
        let is_trial = loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let admit = self.breaker().admit(Instant::now());
            match admit {
                Admit::Now { is_trial } => break is_trial,
                Admit::Never => changed.await,
                Admit::NotBefore(at) => drop(tokio::time::timeout_at(at, changed).await),
            }
        };
        drop(turn);
        Some(Permit {
            admission: self,
            is_trial,
            is_reported: false,
            _slot: slot,
        })
    }

    /// Passes new probe results to the breaker and shows the breaker's state, until the stop.
    pub async fn watch(
        self: Arc<Admission>,
        connection: Connection,
        health: Health,
        stop: CancellationToken,
    ) {
        let bucket = Bucket::new(connection.clone(), inventory::BOT_HEALTH);
        let key = format!("breaker.{}", connection.instance);
        let mut tick = tokio::time::interval(LOOK_EVERY);
        let mut seen: Option<Timestamp> = None;
        let mut shown: Option<BreakerView> = None;
        let mut written_at: Option<Instant> = None;
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let probe = bucket
                .read::<BotHealth>(inventory::META_BOT)
                .await
                .ok()
                .and_then(|entry| entry.value);
            if let Some(probe) = &probe {
                self.heed(probe, &mut seen);
            }
            let (now, has_changed) = self.view(shown);
            if has_changed {
                record(&now);
            }
            health.good("meta_bot", json!({"breaker": now, "probe": probe}));
            let is_due = written_at.is_none_or(|at| at.elapsed() >= WRITE_EVERY);
            if (has_changed || is_due) && bucket.put(&key, &now, ENTRY_TTL).await.is_ok() {
                written_at = Some(Instant::now());
            }
            shown = Some(now);
        }
    }

    /// Passes a probe result to the breaker, unless the result is too old or was seen before.
    fn heed(&self, probe: &BotHealth, seen: &mut Option<Timestamp>) {
        let is_new = seen.replace(probe.checked_at) != Some(probe.checked_at);
        if is_new && Timestamp::now().since(probe.checked_at) < PROBE_TOO_OLD {
            self.breaker()
                .probe(probe.status == BotStatus::Up, Instant::now());
            self.changed.notify_waiters();
        }
    }

    /// The breaker as it is now, and whether its state is another than the one shown last.
    fn view(&self, shown: Option<BreakerView>) -> (BreakerView, bool) {
        let (state, opened) = {
            let breaker = self.breaker();
            (breaker.state(), breaker.opened())
        };
        let state = match state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        };
        let same = shown.filter(|shown| shown.state == state);
        let now = BreakerView {
            state,
            since: same
                .as_ref()
                .map_or_else(Timestamp::now, |shown| shown.since),
            opened,
        };
        (now, same.is_none())
    }
}

/// Records a change of the breaker's state in metrics and log.
fn record(view: &BreakerView) {
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

impl Permit {
    /// Reports the call's signal about the bot, and gives the permit back.
    pub fn report(mut self, signal: Signal, conversation: Id) {
        self.is_reported = true;
        self.admission
            .breaker()
            .record(signal, conversation, self.is_trial, Instant::now());
        self.admission.changed.notify_waiters();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_trial && !self.is_reported {
            self.admission.breaker().give_up_trial();
            self.admission.changed.notify_waiters();
        }
    }
}
