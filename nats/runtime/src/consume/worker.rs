//! Consuming a durable pull consumer for as long as the service runs: lost heartbeats, deletion and
//! server restarts rebuild the pull. Handlers say what became of a message; this is the one place
//! that settles it. Knows no event.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};
use async_nats::jetstream::{AckKind, Context, ErrorCode, Message};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures_util::FutureExt;
use metrics::{counter, gauge, histogram};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::coop::unconstrained;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::CancellationToken;
use crate::consume::pull::{Pull, Pulled};
use crate::dead_letters::store;
use crate::net::connection::Connection;
use crate::service::health::Health;
use crate::setup;
use contract::Timestamp;
use contract::dead_letter::Reason;

/// First and longest pause before a pull is rebuilt.
const REBUILD_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A loop that receives nothing confirms its health so often.
const IDLE_BEAT: Duration = Duration::from_secs(1);
/// After a batch of so many messages the next one is gathered.
const BUSY_BATCH: usize = 32;
/// A message that a stopping worker gives back comes again after this: at another replica, for here
/// nothing is asked for.
const GIVE_BACK: Duration = Duration::from_millis(100);
/// A stopping worker waits no longer than this for the end of its last request.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(4);
/// A message in work says so at this interval, well below the consumer's ack wait.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// A message of a consumer.
pub struct Delivery {
    /// Its subject in the stream.
    pub subject: Subject,
    /// Its headers, empty if none.
    pub headers: HeaderMap,
    /// Its payload.
    pub payload: Bytes,
    /// The stream's name.
    pub stream: String,
    /// Its sequence in the stream.
    pub stream_seq: u64,
    /// From 1: how often it was delivered.
    pub attempt: u64,
    /// When the stream stored it.
    pub stored_at: Timestamp,
    message: Message,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Processed.
    Done,
    /// To be delivered again, not before so long.
    Retry(Duration),
    /// It can never be processed: it becomes a dead letter.
    Reject(Reason, String),
}

/// Which consumer, and how much at once.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The stream.
    pub stream: &'static str,
    /// The durable consumer, made by `runtime::setup`.
    pub consumer: &'static str,
    /// Messages asked of the server ahead of need. Their ack clock runs: keep it small for slow
    /// handlers.
    pub prefetch: usize,
}

/// A [`Source`] being consumed.
pub struct Worker {
    connection: Connection,
    source: Source,
    health: Health,
    stop: CancellationToken,
    pull: Option<Pull>,
    pause: Duration,
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
        }
    }

    /// Hands batches to `handle`, which answers one [`Settle`] a message, in order. A batch is what
    /// is there at once, or under load what arrives within `gather`, at most `max`. Returns when
    /// stopped, with everything settled or given back.
    pub async fn run_batches<F, Fut>(mut self, max: usize, gather: Duration, mut handle: F)
    where
        F: FnMut(Arc<Vec<Delivery>>) -> Fut,
        Fut: Future<Output = Vec<Settle>>,
    {
        let mut busy = false;
        while let Some(first) = self.next().await {
            let mut batch = vec![first];
            let until = Instant::now() + gather;
            while batch.len() < max {
                let more = match busy {
                    true => unconstrained(tokio::time::timeout_at(until, self.next()))
                        .await
                        .ok()
                        .flatten(),
                    // Unconstrained: tokio's cooperative budget would end every batch at about a
                    // hundred.
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
            for (delivery, settle) in batch.iter().zip(settles) {
                self.settle(delivery, settle).await;
            }
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
            // The slot first: a message that waits in this process would run its ack clock for
            // nothing.
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

    /// A free slot; `None` once stopped. All slots in use is work, not a hang: each of them is
    /// bounded.
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

    /// The next message; `None` once stopped. Never ends otherwise.
    async fn next(&mut self) -> Option<Delivery> {
        loop {
            if self.stop.is_cancelled() {
                return None;
            }
            let Some(pull) = &mut self.pull else {
                self.open().await;
                continue;
            };
            if !pull.is_open()
                && let Err(e) = pull.request(self.source.prefetch).await
            {
                self.lost(&e);
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
                    Err(e) => self.lost(&e),
                },
                Ok(Pulled::Exhausted) => self.beat(),
                Err(e) => self.lost(&e),
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
            Pull::open(&connection, source.stream, source.consumer).await
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

    /// What the server has sent and nobody has begun is another replica's at once, not after the
    /// ack wait.
    async fn give_back(&mut self) {
        let Some(mut pull) = self.pull.take() else {
            return;
        };
        let drain = async {
            while let Ok(Pulled::Message(message)) = pull.next().await {
                if let Err(e) = message.ack_with(AckKind::Nak(Some(GIVE_BACK))).await {
                    warn!(error = %e, "a message could not be given back; it comes again after the ack wait");
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

    async fn settle(&self, delivery: &Delivery, settle: Settle) {
        self.settler().settle(delivery, settle).await;
    }
}

/// Settles messages; the only code that acks, naks or terminates.
struct Settler {
    connection: Connection,
    consumer: &'static str,
}

/// How long a message waits whose dead letter could not be stored.
const DEAD_LETTER_RETRY: Duration = Duration::from_secs(5);

impl Settler {
    async fn settle(&self, delivery: &Delivery, settle: Settle) {
        let (kind, result) = match settle {
            Settle::Done => (AckKind::Ack, "done"),
            Settle::Retry(after) => (AckKind::Nak(Some(after)), "retry"),
            Settle::Reject(reason, why) => {
                match store::store(
                    &self.connection,
                    delivery.into(),
                    reason,
                    &why,
                    Timestamp::now(),
                )
                .await
                {
                    true => (AckKind::Term, "dead"),
                    false => (AckKind::Nak(Some(DEAD_LETTER_RETRY)), "retry"),
                }
            }
        };
        counter!("worker_messages_total", "consumer" => self.consumer, "result" => result)
            .increment(1);
        if let Err(e) = delivery.message.ack_with(kind).await {
            // It comes again; handlers are idempotent.
            warn!(error = %e, stream_seq = delivery.stream_seq, "a message could not be settled");
        }
    }
}

/// The consumer; one that was deleted is made anew, as `setup` makes it. It then begins with the
/// stream's first message, which idempotent handlers bear.
pub(super) async fn find_or_make(
    jetstream: &Context,
    stream: &str,
    consumer: &str,
) -> Result<PullConsumer, ConsumerError> {
    let missing = match jetstream.get_consumer_from_stream(consumer, stream).await {
        Err(e) if matches!(e.kind(), ConsumerErrorKind::JetStream(e) if e.error_code() == ErrorCode::CONSUMER_NOT_FOUND) => {
            e
        }
        found_or_failed => return found_or_failed,
    };
    let Some((stream, config)) = setup::consumers()
        .into_iter()
        .find(|(_, c)| c.durable_name.as_deref() == Some(consumer))
    else {
        return Err(missing);
    };
    warn!(
        consumer,
        "the consumer was deleted; it is made anew and begins with the first message"
    );
    jetstream.create_consumer_on_stream(config, stream).await
}

/// Runs `work` and tells the server meanwhile that these messages are in it.
async fn with_progress<F: Future>(deliveries: &[Delivery], work: F) -> F::Output {
    tokio::pin!(work);
    loop {
        if let Ok(done) = tokio::time::timeout(PROGRESS_EVERY, &mut work).await {
            return done;
        }
        for delivery in deliveries {
            if let Err(e) = delivery.message.ack_with(AckKind::Progress).await {
                warn!(error = %e, "progress could not be reported");
            }
        }
    }
}

impl Delivery {
    fn of(message: Message) -> Result<Delivery, String> {
        let info = message.info().map_err(|e| e.to_string())?;
        let stored_at = info.published.into();
        let (stream, stream_seq, attempt) = (
            info.stream.to_owned(),
            info.stream_sequence,
            info.delivered.max(1) as u64,
        );
        Ok(Delivery {
            subject: message.subject.clone(),
            headers: message.headers.clone().unwrap_or_default(),
            payload: message.payload.clone(),
            stream,
            stream_seq,
            attempt,
            stored_at,
            message,
        })
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.as_str())
    }
}

/// How far a consumer is behind its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Never delivered.
    pub pending: u64,
    /// Delivered and not settled.
    pub in_work: u64,
    /// Everything up to this stream sequence is settled.
    pub settled_to: u64,
    /// The stream sequence delivered last.
    pub delivered_to: u64,
}

/// Asks the server. It is the truth for all replicas together.
///
/// # Errors
/// The server does not answer.
pub async fn lag(connection: &Connection, source: Source) -> Result<Lag, String> {
    let consumer: PullConsumer = connection
        .jetstream
        .get_consumer_from_stream(source.consumer, source.stream)
        .await
        .map_err(|e| e.to_string())?;
    let info = consumer.cached_info();
    let lag = Lag {
        pending: info.num_pending,
        in_work: info.num_ack_pending as u64,
        settled_to: info.ack_floor.stream_sequence,
        delivered_to: info.delivered.stream_sequence,
    };
    gauge!("consumer_pending_messages", "consumer" => source.consumer).set(lag.pending as f64);
    gauge!("consumer_in_work_messages", "consumer" => source.consumer).set(lag.in_work as f64);
    Ok(lag)
}

/// Confirms the check `lag` every two seconds while the server answers; `limit` messages behind is
/// not ready.
pub async fn watch_lag(
    connection: Connection,
    source: Source,
    health: Health,
    limit: u64,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(Duration::from_secs(2));
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        match lag(&connection, source).await {
            Ok(lag) => {
                let detail =
                    json!({"pending": lag.pending, "in_work": lag.in_work, "limit": limit});
                if lag.pending <= limit {
                    health.good("lag", detail)
                } else {
                    health.bad("lag", detail)
                }
            }
            Err(e) => health.bad("lag", json!(e)),
        }
    }
}
