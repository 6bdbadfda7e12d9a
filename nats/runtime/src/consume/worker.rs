//! Consuming a durable pull consumer for as long as the service runs: lost heartbeats, deletion and
//! server restarts rebuild the pull. Handlers say what became of a message; only this file settles
//! the message. Knows no event.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::AckKind;
use futures_util::{FutureExt, StreamExt, stream};
use metrics::{counter, histogram};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::coop::unconstrained;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::CancellationToken;
use crate::consume::durable::find_or_make;
use crate::consume::pull::{Pull, Pulled};
use crate::dead_letters::store;
use crate::net::connection::{Connection, REQUEST_TIMEOUT};
use crate::service::health::Health;
use contract::Timestamp;
use contract::dead_letter::Reason;

pub use crate::consume::delivery::Delivery;
pub use crate::consume::durable::{Lag, Source, lag, watch_lag};

/// First and longest pause before a pull is rebuilt.
const REBUILD_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How often a loop that receives nothing confirms its health.
const IDLE_BEAT: Duration = Duration::from_millis(500);
/// How often a worker of batches looks for messages that nobody settles.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Looks in a row that must find the same first unsettled message before all messages from there on
/// are taken over. A batch of another replica may take almost as long.
const LOOKS: u32 = 4;
/// The least time between two takeovers by one worker. Otherwise a slow database would be given the
/// same work again and again.
const TAKEOVER_PAUSE: Duration = Duration::from_secs(10);
/// Messages of a batch that are settled at the same time.
const SETTLES_AT_ONCE: usize = 32;
/// Messages in a batch from which on the next batch is gathered. After a smaller batch the next one
/// takes only the messages that are there at once.
const BUSY_BATCH: usize = 32;
/// A message that a stopping worker gives back comes again after this time, at another replica.
const GIVE_BACK: Duration = Duration::from_millis(100);
/// The time that a stopping worker waits for the end of its last request. Messages that arrive
/// later come again after the ack wait.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(4);
/// How often the server is told that a message is in work. It is well below the consumer's ack
/// wait, beyond which the server would deliver the message again.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Processed.
    Done,
    /// To be delivered again, not before this time has passed.
    Retry(Duration),
    /// The message can never be processed: it becomes a dead letter.
    Reject(Reason, String),
}

/// A [`Source`] being consumed.
pub struct Worker {
    connection: Connection,
    source: Source,
    health: Health,
    stop: CancellationToken,
    pull: Option<Pull>,
    pause: Duration,
    /// Looks for messages that nobody settles, where these may be taken over.
    lookout: Option<Lookout>,
}

/// What the last looks have found.
struct Lookout {
    looked: Instant,
    /// No message up to this sequence was unsettled.
    settled_to: u64,
    /// Looks in a row that have found that sequence and unsettled messages behind it.
    looks: u32,
    /// When messages were taken over.
    took_over: Option<Instant>,
}

impl Lookout {
    fn new() -> Lookout {
        Lookout {
            looked: Instant::now(),
            settled_to: 0,
            looks: 0,
            took_over: None,
        }
    }

    fn is_due(&self) -> bool {
        self.looked.elapsed() >= LOOK_EVERY
    }

    /// Takes in a look. Says whether the unsettled messages are to be taken over now.
    fn see(&mut self, found: Lag) -> bool {
        let is_stuck = found.in_work > 0 && found.settled_to == self.settled_to;
        self.settled_to = found.settled_to;
        self.looks = if is_stuck { self.looks + 1 } else { 0 };
        let is_rested = self
            .took_over
            .is_none_or(|at| at.elapsed() >= TAKEOVER_PAUSE);
        if self.looks < LOOKS || !is_rested {
            return false;
        }
        self.looks = 0;
        self.took_over = Some(Instant::now());
        true
    }
}

impl Worker {
    /// Consumes nothing yet.
    pub fn new(
        connection: Connection,
        source: Source,
        health: Health,
        stop: CancellationToken,
    ) -> Worker {
        health.expect(&[source.consumer]);
        Worker {
            connection,
            source,
            health,
            stop,
            pull: None,
            pause: REBUILD_PAUSE.0,
            lookout: None,
        }
    }

    /// Hands batches of at most `max` messages to `handle`, which answers one [`Settle`] a message,
    /// in order. A batch holds the messages that are there at once, or under load those that arrive
    /// within `gather`. Returns when stopped, with every message settled or given back.
    ///
    /// The worker takes over what another replica, or a crashed server, has left unsettled. So a
    /// message may be handled twice at the same time, and settled messages may come again: `handle`
    /// must be idempotent and independent of order.
    pub async fn run_batches<F, Fut>(mut self, max: usize, gather: Duration, mut handle: F)
    where
        F: FnMut(Arc<Vec<Delivery>>) -> Fut,
        Fut: Future<Output = Vec<Settle>>,
    {
        let mut busy = false;
        self.lookout = Some(Lookout::new());
        while let Some(first) = self.next().await {
            let mut batch = vec![first];
            let until = Instant::now() + gather;
            while batch.len() < max {
                let more = match busy {
                    true => unconstrained(tokio::time::timeout_at(until, self.next()))
                        .await
                        .ok()
                        .flatten(),
                    // Unconstrained. Otherwise tokio's cooperative budget would end every batch at
                    // about a hundred messages.
                    false => unconstrained(self.next()).now_or_never().flatten(),
                };
                let Some(more) = more else { break };
                batch.push(more);
            }
            busy = batch.len() >= BUSY_BATCH;
            histogram!("worker_batch_messages").record(batch.len() as f64);
            let batch = Arc::new(batch);
            let settles = with_progress(&batch, handle(batch.clone())).await;
            debug_assert_eq!(settles.len(), batch.len());
            self.settle_all(&batch, settles).await;
        }
        self.give_back().await;
    }

    /// Hands messages to `handle`, up to `concurrency` at a time, each in a task of its own that
    /// keeps the server informed that it is in work. Returns when stopped, once every task has
    /// ended.
    pub async fn run_each<F, Fut>(mut self, concurrency: usize, handle: F)
    where
        F: Fn(Arc<Delivery>) -> Fut,
        Fut: Future<Output = Settle> + Send + 'static,
    {
        let (slots, tasks) = (Arc::new(Semaphore::new(concurrency)), TaskTracker::new());
        loop {
            // The slot first. Otherwise the ack wait of a message would run out while the message
            // waits in this process.
            let Some(slot) = self.slot(&slots).await else {
                break;
            };
            let Some(delivery) = self.next().await else {
                break;
            };
            let delivery = Arc::new(delivery);
            let (work, settler) = (handle(delivery.clone()), self.settler());
            tasks.spawn(async move {
                let settle = with_progress(std::slice::from_ref(&*delivery), work).await;
                settler.settle(&delivery, settle).await;
                drop(slot);
            });
        }
        self.give_back().await;
        tasks.close();
        tasks.wait().await;
    }

    /// A free slot; `None` once stopped. While all slots are in use the health check stays good:
    /// each handler is bounded, so this is work and not a hang.
    async fn slot(&self, slots: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                slot = slots.clone().acquire_owned() => return slot.ok(),
                () = tokio::time::sleep(IDLE_BEAT) => self.beat(),
            }
        }
    }

    /// Has the server send again the messages that it has sent and that nobody settles: those of a
    /// replica that died, and those that were lost with a connection. Otherwise they would come
    /// again only after the ack wait, and reads that must see them would be refused until then.
    async fn look(&mut self) {
        let found = lag(&self.connection, self.source).await;
        let Some(lookout) = &mut self.lookout else {
            return;
        };
        lookout.looked = Instant::now();
        let Ok(found) = found else { return };
        if !lookout.see(found) {
            return;
        }
        let Source {
            stream, consumer, ..
        } = self.source;
        counter!("worker_takeovers_total", "consumer" => consumer).increment(1);
        info!(
            consumer,
            messages = found.in_work,
            "messages that nobody settles are taken over"
        );
        let jetstream = &self.connection.jetstream;
        let reset = async {
            let stream = jetstream.get_stream_no_info(stream).await;
            let stream = stream.map_err(|e| e.to_string())?;
            let reset = stream.reset_consumer(consumer, None).await;
            reset.map(drop).map_err(|e| e.to_string())
        };
        if let Err(error) = self.connection.within(REQUEST_TIMEOUT, reset).await {
            warn!(consumer, %error, "the messages could not be taken over");
        }
    }

    /// The next message; `None` once stopped, and never otherwise.
    async fn next(&mut self) -> Option<Delivery> {
        loop {
            if self.stop.is_cancelled() {
                return None;
            }
            if self.lookout.as_ref().is_some_and(Lookout::is_due) {
                self.look().await;
            }
            let Some(pull) = &mut self.pull else {
                self.open().await;
                continue;
            };
            if !pull.is_open()
                && let Err(e) = pull.request(self.source.prefetch).await
            {
                self.lost(&e.to_string());
                continue;
            }
            let pulled = tokio::select! {
                biased;
                () = self.stop.cancelled() => continue,
                pulled = pull.next() => pulled,
                () = tokio::time::sleep(IDLE_BEAT) => {
                    self.beat();
                    continue;
                }
            };
            match pulled {
                Ok(Pulled::Message(message)) => match Delivery::of(*message) {
                    Ok(delivery) => {
                        self.pause = REBUILD_PAUSE.0;
                        return Some(delivery);
                    }
                    Err(e) => self.lost(&e.to_string()),
                },
                Ok(Pulled::Exhausted) => self.beat(),
                Err(e) => self.lost(&e.to_string()),
            }
        }
    }

    fn beat(&self) {
        self.health.good(
            self.source.consumer,
            json!({"consumer": self.source.consumer}),
        );
    }

    fn lost(&mut self, why: &str) {
        counter!("worker_rebuilds_total", "consumer" => self.source.consumer).increment(1);
        warn!(consumer = self.source.consumer, why, "the pull is rebuilt");
        self.health.bad(self.source.consumer, json!(why));
        self.pull = None;
    }

    async fn open(&mut self) {
        let (stop, source) = (self.stop.clone(), self.source);
        let connection = self.connection.clone();
        let attempt = async move {
            find_or_make(&connection.jetstream, source.stream, source.consumer)
                .await
                .map_err(|e| e.to_string())?;
            let pull = Pull::open(&connection, source.stream, source.consumer).await;
            pull.map_err(|e| e.to_string())
        };
        match stop.run_until_cancelled(attempt).await {
            Some(Ok(pull)) => {
                info!(consumer = source.consumer, "consuming");
                self.pull = Some(pull);
                self.beat();
            }
            Some(Err(e)) => {
                warn!(consumer = source.consumer, error = %e, "the consumer cannot be had");
                self.health.bad(source.consumer, json!(e));
                let _ = stop
                    .run_until_cancelled(tokio::time::sleep(self.pause))
                    .await;
                self.pause = (self.pause * 2).min(REBUILD_PAUSE.1);
            }
            None => {}
        }
    }

    /// Gives messages back that the server has sent and no handler has begun. Otherwise another
    /// replica would get them only after the ack wait.
    async fn give_back(&mut self) {
        let Some(mut pull) = self.pull.take() else {
            return;
        };
        let drain = async {
            while let Ok(Pulled::Message(message)) = pull.next().await {
                if let Err(e) = message.ack_with(AckKind::Nak(Some(GIVE_BACK))).await {
                    warn!(
                        error = %e,
                        "a message could not be given back; it comes again after the ack wait"
                    );
                }
            }
        };
        if tokio::time::timeout(GIVE_BACK_WITHIN, drain).await.is_err() {
            warn!(
                consumer = self.source.consumer,
                "not everything could be given back; it comes again after the ack wait"
            );
        }
    }

    fn settler(&self) -> Settler {
        Settler {
            connection: self.connection.clone(),
            consumer: self.source.consumer,
        }
    }

    /// Settles a batch, several messages at a time. Storing a dead letter that nobody takes lasts for
    /// seconds, so after the first one that fails the others are not tried now.
    async fn settle_all(&self, batch: &[Delivery], settles: Vec<Settle>) {
        let (settler, can_store) = (self.settler(), AtomicBool::new(true));
        stream::iter(batch.iter().zip(settles))
            .for_each_concurrent(SETTLES_AT_ONCE, |(delivery, settle)| {
                let (settler, can_store) = (&settler, &can_store);
                async move {
                    let settle = match settle {
                        Settle::Reject(..) if !can_store.load(Ordering::Relaxed) => {
                            Settle::Retry(DEAD_LETTER_RETRY)
                        }
                        settle => settle,
                    };
                    if !settler.settle(delivery, settle).await {
                        can_store.store(false, Ordering::Relaxed);
                    }
                }
            })
            .await;
    }
}

/// Settles messages; the only code that acks, naks or terminates.
struct Settler {
    connection: Connection,
    consumer: &'static str,
}

/// How long a message waits before it is tried again if its dead letter could not be stored.
const DEAD_LETTER_RETRY: Duration = Duration::from_secs(5);

impl Settler {
    /// Says whether a dead letter could be stored, if there was one.
    async fn settle(&self, delivery: &Delivery, settle: Settle) -> bool {
        let mut is_stored = true;
        let (kind, result) = match settle {
            Settle::Done => (AckKind::Ack, "done"),
            Settle::Retry(after) => (AckKind::Nak(Some(after)), "retry"),
            Settle::Reject(reason, why) => {
                is_stored = store::store(
                    &self.connection,
                    delivery.into(),
                    reason,
                    &why,
                    Timestamp::now(),
                )
                .await;
                match is_stored {
                    true => (AckKind::Term, "dead"),
                    false => (AckKind::Nak(Some(DEAD_LETTER_RETRY)), "retry"),
                }
            }
        };
        counter!("worker_messages_total", "consumer" => self.consumer, "result" => result)
            .increment(1);
        if let Err(e) = delivery.ack_with(kind).await {
            // The message comes again, and handlers are idempotent.
            warn!(error = %e, stream_seq = delivery.stream_seq, "a message could not be settled");
        }
        is_stored
    }
}

/// Runs `work`, and tells the server meanwhile that these messages are in work.
async fn with_progress<F: Future>(deliveries: &[Delivery], work: F) -> F::Output {
    tokio::pin!(work);
    loop {
        if let Ok(done) = tokio::time::timeout(PROGRESS_EVERY, &mut work).await {
            return done;
        }
        for delivery in deliveries {
            if let Err(e) = delivery.ack_with(AckKind::Progress).await {
                warn!(error = %e, "progress could not be reported");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUCK: Lag = Lag {
        pending: 3,
        in_work: 2,
        settled_to: 7,
        delivered_to: 9,
    };

    /// What a row of looks decides.
    fn see(lookout: &mut Lookout, found: &[Lag]) -> Vec<bool> {
        found.iter().map(|found| lookout.see(*found)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn messages_that_stay_unsettled_are_taken_over_once_in_a_while() {
        let mut lookout = Lookout::new();
        let found = see(&mut lookout, &[STUCK; 7]);
        assert_eq!(found, [false, false, false, false, true, false, false]);
        assert_eq!(see(&mut lookout, &[STUCK; 9]), [false; 9]);
        tokio::time::advance(TAKEOVER_PAUSE).await;
        assert!(lookout.see(STUCK));
    }

    #[tokio::test]
    async fn messages_that_are_settled_one_after_another_are_left() {
        let mut lookout = Lookout::new();
        let moving: Vec<Lag> = (0..20)
            .map(|n| Lag {
                settled_to: n,
                ..STUCK
            })
            .collect();
        let idle = Lag {
            in_work: 0,
            ..STUCK
        };
        assert!(!see(&mut lookout, &moving).contains(&true));
        assert!(!see(&mut lookout, &[idle; 20]).contains(&true));
    }
}
