//! Scenario `fanout`: messages are created at a fixed rate while every socket of the company
//! listens. Latency counts from the start of a POST to the moment at which the frame was read, on
//! one clock. Lost, repeated and reordered deliveries are counted for each socket.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use memchr::memmem::Finder;
use serde_json::{Value, json};
use tokio::time::{sleep, sleep_until, timeout_at};

use crate::http::{Call, Outcome, Target};
use crate::latency::{Latencies, round};
use crate::message::{MessageFactory, MessageOptions};
use crate::process::{CpuReading, resident_kib};
use crate::websocket::{Dialer, Socket, SocketOptions};
use crate::{Common, Result};

/// Sockets share so many histograms, so that they seldom wait for one another.
const SHARDS: usize = 16;
/// Messages of one run; the memory for their times is taken at the beginning.
const MAX_MESSAGES: u64 = 1_000_000;
/// From the last socket to the first message.
const SETTLE: Duration = Duration::from_millis(500);
/// Warm-up: no more messages a second than this, and how long late deliveries are waited for.
const WARMUP_RATE: f64 = 20.0;
const WARMUP_DRAIN: Duration = Duration::from_secs(5);
/// The search pauses for so long between two trials.
const TRIAL_PAUSE: Duration = Duration::from_secs(1);
/// The search ends once the lowest rate that failed is less than so many times the highest that
/// held.
const SEARCH_PRECISION: f64 = 1.12;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    message: MessageOptions,
    #[command(flatten)]
    socket: SocketOptions,
    /// Sockets that listen
    #[arg(long, default_value_t = 100)]
    sockets: usize,
    /// Messages a second; with --find-max those of the first trial
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 15.0)]
    duration: f64,
    /// Seconds of load before
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// Search the highest rate with nothing lost and p99 under --p99-limit-ms
    #[arg(long)]
    find_max: bool,
    #[arg(long, default_value_t = 250.0)]
    p99_limit_ms: f64,
    /// Seconds of each trial of --find-max
    #[arg(long, default_value_t = 6.0)]
    trial: f64,
    /// No higher rate is tried
    #[arg(long, default_value_t = 4000.0)]
    max_rate: f64,
    /// Seconds that late deliveries are waited for
    #[arg(long, default_value_t = 15.0)]
    drain: f64,
}

/// What the sockets have seen of the current trial.
struct Deliveries {
    begin: Instant,
    marker: Finder<'static>,
    /// When the POST of each message began, in nanoseconds since `begin`.
    posted: Vec<AtomicU64>,
    /// Number of the first message of the trial; an earlier one is late and does not count.
    first: AtomicU64,
    received: AtomicU64,
    repeated: AtomicU64,
    reordered: AtomicU64,
    closed_sockets: AtomicU64,
    /// When the last delivery came, in nanoseconds since `begin`.
    last: AtomicU64,
    shards: Vec<Mutex<Latencies>>,
}

impl Deliveries {
    fn new(marker: &str) -> Deliveries {
        Deliveries {
            begin: Instant::now(),
            marker: Finder::new(marker).into_owned(),
            posted: (0..MAX_MESSAGES).map(|_| AtomicU64::new(0)).collect(),
            first: AtomicU64::new(0),
            received: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            reordered: AtomicU64::new(0),
            closed_sockets: AtomicU64::new(0),
            last: AtomicU64::new(0),
            shards: (0..SHARDS).map(|_| Mutex::new(Latencies::new())).collect(),
        }
    }

    fn begin_trial(&self, first: u64) {
        self.first.store(first, Relaxed);
        for count in [&self.received, &self.repeated, &self.reordered, &self.last] {
            count.store(0, Relaxed);
        }
        for shard in &self.shards {
            lock(shard).reset();
        }
    }

    fn latencies(&self) -> Latencies {
        let mut all = Latencies::new();
        for shard in &self.shards {
            all.merge(&lock(shard));
        }
        all
    }

    /// The number of the message that a frame carries, if it is one of this run.
    fn number(&self, frame: &[u8]) -> Option<u64> {
        let at = self.marker.find(frame)? + self.marker.needle().len();
        let number = frame[at..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .fold(0_u64, |number, digit| {
                number
                    .saturating_mul(10)
                    .saturating_add(u64::from(digit - b'0'))
            });
        (number < MAX_MESSAGES).then_some(number)
    }
}

/// Counts what comes on a socket until it is closed.
async fn listen(mut socket: Socket, deliveries: Arc<Deliveries>, index: usize) {
    let mut seen = Vec::new();
    let mut greatest = 0;
    while let Some(frame) = socket.event().await {
        let now = deliveries.begin.elapsed();
        let Some(number) = deliveries.number(frame.as_bytes()) else {
            continue;
        };
        let (word, bit) = ((number / 64) as usize, 1_u64 << (number % 64));
        if seen.len() <= word {
            seen.resize(word + 1, 0);
        }
        if seen[word] & bit != 0 {
            deliveries.repeated.fetch_add(1, Relaxed);
            continue;
        }
        seen[word] |= bit;
        if number < deliveries.first.load(Relaxed) {
            continue;
        }
        if number < greatest {
            deliveries.reordered.fetch_add(1, Relaxed);
        }
        greatest = greatest.max(number);
        let posted = deliveries.posted[number as usize].load(Relaxed);
        let latency = now.saturating_sub(Duration::from_nanos(posted));
        lock(&deliveries.shards[index % SHARDS]).record(latency);
        deliveries.received.fetch_add(1, Relaxed);
        deliveries.last.fetch_max(now.as_nanos() as u64, Relaxed);
    }
    deliveries.closed_sockets.fetch_add(1, Relaxed);
}

struct Posts {
    created: u64,
    failed: u64,
    latency: Latencies,
}

struct Bench<'a> {
    common: &'a Common,
    target: Arc<Target>,
    messages: Arc<MessageFactory>,
    deliveries: Arc<Deliveries>,
    sockets: u64,
    /// Number of the next message.
    next: u64,
}

impl Bench<'_> {
    /// Creates messages at this rate, waits for their deliveries, and returns the figures.
    async fn trial(&mut self, rate: f64, seconds: f64, drain: Duration) -> Result<Value> {
        let (deliveries, pids) = (&self.deliveries, &self.common.server_pid);
        let (first, count) = (self.next, (rate * seconds).max(1.0) as u64);
        self.next += count;
        if self.next > MAX_MESSAGES {
            return Err("too many messages for one run".into());
        }
        deliveries.begin_trial(first);
        let before = CpuReading::take(pids);
        let begin = Instant::now();
        let posts = Arc::new(Mutex::new(Posts {
            created: 0,
            failed: 0,
            latency: Latencies::new(),
        }));
        let mut lag = Latencies::new();
        let mut tasks = Vec::new();
        for index in 0..count {
            let due = begin + Duration::from_secs_f64(index as f64 / rate);
            sleep_until(due.into()).await;
            lag.record(due.elapsed());
            tasks.push(tokio::spawn(self.post(first + index, posts.clone())));
        }
        let after = CpuReading::take(pids);
        let give_up = Instant::now() + drain;
        for task in tasks {
            // A POST without an answer counts as unanswered.
            let _ = timeout_at(give_up.into(), task).await;
        }
        let (created, failed, post_latency) = {
            let posts = lock(&posts);
            (posts.created, posts.failed, posts.latency.figures())
        };
        let expected = created * self.sockets;
        while deliveries.received.load(Relaxed) < expected && Instant::now() < give_up {
            sleep(Duration::from_millis(20)).await;
        }
        let received = deliveries.received.load(Relaxed);
        let last = Duration::from_nanos(deliveries.last.load(Relaxed));
        let span = last.saturating_sub(begin - deliveries.begin).as_secs_f64();
        let per_second = if span > 0.0 {
            received as f64 / span
        } else {
            0.0
        };
        Ok(json!({
            "rate": round(rate), "seconds": seconds, "posts": count,
            "posts_created": created, "posts_failed": failed,
            "posts_unanswered": count - created - failed,
            "deliveries": received, "expected": expected,
            "lost": expected.saturating_sub(received),
            "duplicates": deliveries.repeated.load(Relaxed),
            "out_of_order": deliveries.reordered.load(Relaxed),
            "deliveries_per_s": round(per_second),
            "end_to_end": deliveries.latencies().figures(), "post": post_latency,
            "generator_lag": lag.figures(), "cpu_cores": after.cores_since(&before),
            "server_rss_kib": resident_kib(pids),
        }))
    }

    /// Creates the message of this number and counts what came of it.
    fn post(&self, number: u64, posts: Arc<Mutex<Posts>>) -> impl Future<Output = ()> + use<> {
        let (target, messages) = (self.target.clone(), self.messages.clone());
        let deliveries = self.deliveries.clone();
        async move {
            let body = messages.body(number);
            let start = Instant::now();
            let since_begin = (start - deliveries.begin).as_nanos() as u64;
            deliveries.posted[number as usize].store(since_begin, Relaxed);
            let outcome = target.call_pooled(&Call::create(body)).await;
            let mut posts = lock(&posts);
            if matches!(outcome, Outcome::Answer(201, _)) {
                posts.latency.record(start.elapsed());
                posts.created += 1;
            } else {
                posts.failed += 1;
            }
        }
    }

    /// Searches the highest rate that holds: doubled or halved from the first, then by bisection.
    async fn search(&mut self, options: &Options) -> Result<Value> {
        let drain = Duration::from_secs_f64(options.drain);
        let mut trials = Vec::new();
        let (mut held, mut failed) = (0.0_f64, f64::INFINITY);
        let mut rate = options.rate.min(options.max_rate);
        loop {
            let trial = self.trial(rate, options.trial, drain).await?;
            let p99 = trial["end_to_end"]["p99_ms"].as_f64();
            let holds = p99.is_some_and(|p99| p99 < options.p99_limit_ms)
                && trial["lost"] == 0
                && trial["posts_created"] == trial["posts"];
            eprintln!(
                "          {rate:.1} messages/s: p99 {} ms, lost {}: {}",
                trial["end_to_end"]["p99_ms"],
                trial["lost"],
                if holds { "holds" } else { "too much" }
            );
            trials.push(json!({
                "rate": trial["rate"], "holds": holds, "p50_ms": trial["end_to_end"]["p50_ms"],
                "p99_ms": trial["end_to_end"]["p99_ms"], "lost": trial["lost"],
                "deliveries_per_s": trial["deliveries_per_s"], "cpu_cores": trial["cpu_cores"],
            }));
            if holds {
                held = rate;
            } else {
                failed = rate;
            }
            rate = if failed.is_infinite() {
                if held >= options.max_rate {
                    break;
                }
                (held * 2.0).min(options.max_rate)
            } else if held == 0.0 {
                if failed < 1.0 {
                    break;
                }
                failed / 2.0
            } else {
                if failed / held < SEARCH_PRECISION {
                    break;
                }
                (held + failed) / 2.0
            };
            sleep(TRIAL_PAUSE).await;
        }
        Ok(json!({
            "max_rate": round(held), "max_deliveries_per_s": round(held * self.sockets as f64),
            "above_max_rate": failed.is_infinite(), "p99_limit_ms": options.p99_limit_ms,
            "trials": trials,
        }))
    }
}

pub async fn run(common: &Common, options: &Options) -> Result<Value> {
    if options.rate <= 0.0 {
        return Err("--rate must be greater than 0".into());
    }
    let messages = Arc::new(MessageFactory::new(common, &options.message)?);
    let deliveries = Arc::new(Deliveries::new(&messages.marker()));
    let dialer = Dialer::new(common, &options.socket).await?;
    let start = Instant::now();
    let (sockets, failed) = dialer.open_many(options.sockets).await;
    let connect_seconds = start.elapsed().as_secs_f64();
    let opened = sockets.len() as u64;
    if opened == 0 {
        return Err("no socket could be opened".into());
    }
    for (index, socket) in sockets.into_iter().enumerate() {
        tokio::spawn(listen(socket, deliveries.clone(), index));
    }
    sleep(SETTLE).await;
    let mut bench = Bench {
        common,
        target: Target::new(common).await?,
        messages,
        deliveries: deliveries.clone(),
        sockets: opened,
        next: 0,
    };
    if options.warmup > 0.0 {
        let rate = options.rate.min(WARMUP_RATE);
        bench.trial(rate, options.warmup, WARMUP_DRAIN).await?;
    }
    let (scenario, figures) = if options.find_max {
        ("fanout-max", bench.search(options).await?)
    } else {
        let drain = Duration::from_secs_f64(options.drain);
        let trial = bench.trial(options.rate, options.duration, drain);
        ("fanout", trial.await?)
    };
    let mut result = json!({
        "scenario": scenario, "label": common.label, "transport": options.socket.transport.path(),
        "sockets": opened, "sockets_failed": failed, "connect_s": round(connect_seconds),
        "sockets_closed": deliveries.closed_sockets.load(Relaxed),
    });
    if let (Value::Object(result), Value::Object(figures)) = (&mut result, figures) {
        result.extend(figures);
    }
    Ok(result)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
