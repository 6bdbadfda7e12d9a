//! Scenario `ingest`: messages that the server creates a second. The loop is closed (each
//! connection sends its next request when it has an answer), or open with a fixed rate; an open
//! loop counts latency from the moment at which a request was due.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{sleep, sleep_until};

use crate::http::{Call, Outcome, Target};
use crate::latency::{Latencies, round};
use crate::message::{MessageFactory, MessageOptions};
use crate::process::{CpuReading, resident_kib};
use crate::{Common, Result};

/// A closed loop pauses for so long after a failure, lest it spins while the server is away.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(20);

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    message: MessageOptions,
    /// Connections of the closed loop; with --rate, requests that may be open at once
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Requests a second (0: closed loop)
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 15.0)]
    duration: f64,
    /// Seconds of load before
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
}

struct Tally {
    created: u64,
    /// Created, and answered within the measured seconds.
    in_window: u64,
    latency: Latencies,
    other_status: u64,
    refused: u64,
    no_answer: u64,
    timeout: u64,
    failed_latency: Latencies,
}

impl Tally {
    fn new() -> Tally {
        Tally {
            created: 0,
            in_window: 0,
            latency: Latencies::new(),
            other_status: 0,
            refused: 0,
            no_answer: 0,
            timeout: 0,
            failed_latency: Latencies::new(),
        }
    }

    fn merge(&mut self, other: &Tally) {
        self.created += other.created;
        self.in_window += other.in_window;
        self.latency.merge(&other.latency);
        self.other_status += other.other_status;
        self.refused += other.refused;
        self.no_answer += other.no_answer;
        self.timeout += other.timeout;
        self.failed_latency.merge(&other.failed_latency);
    }

    fn errors(&self) -> u64 {
        self.other_status + self.refused + self.no_answer + self.timeout
    }
}

struct Run {
    target: Arc<Target>,
    messages: MessageFactory,
    /// Number of the next message.
    next: AtomicU64,
    begin: Instant,
    /// When the measured seconds begin and end.
    window: (Instant, Instant),
}

impl Run {
    fn call(&self, number: u64) -> Call {
        Call::create(self.messages.body(number))
    }

    /// Counts what came of a request; whether it was created.
    fn count(&self, tally: &mut Tally, start: Instant, outcome: &Outcome) -> bool {
        let now = Instant::now();
        let created = matches!(outcome, Outcome::Answer(201, _));
        if created && (self.window.0..self.window.1).contains(&now) {
            tally.in_window += 1;
        }
        if start < self.window.0 {
            return created;
        }
        match outcome {
            Outcome::Answer(201, _) => tally.created += 1,
            Outcome::Answer(..) => tally.other_status += 1,
            Outcome::Refused => tally.refused += 1,
            Outcome::NoAnswer => tally.no_answer += 1,
            Outcome::Timeout => tally.timeout += 1,
        }
        let latency = if created {
            &mut tally.latency
        } else {
            &mut tally.failed_latency
        };
        latency.record(now - start);
        created
    }
}

pub async fn run(common: &Common, options: &Options) -> Result<Value> {
    let target = Target::new(common).await?;
    let messages = MessageFactory::new(common, &options.message)?;
    let begin = Instant::now();
    let from = begin + Duration::from_secs_f64(options.warmup);
    let run = Arc::new(Run {
        target,
        messages,
        next: AtomicU64::new(0),
        begin,
        window: (from, from + Duration::from_secs_f64(options.duration)),
    });
    let pids = common.server_pid.clone();
    let (window_begin, window_end) = run.window;
    let cpu = tokio::spawn(async move {
        sleep_until(window_begin.into()).await;
        let before = CpuReading::take(&pids);
        sleep_until(window_end.into()).await;
        CpuReading::take(&pids).cores_since(&before)
    });
    let mut lag = Latencies::new();
    let tally = if options.rate > 0.0 {
        open_loop(&run, options, &mut lag).await?
    } else {
        closed_loop(&run, options.connections).await?
    };
    let mut result = json!({
        "scenario": "ingest", "label": common.label,
        "loop": if options.rate > 0.0 { "open" } else { "closed" },
        "connections": options.connections, "rate": options.rate, "duration_s": options.duration,
        "body_bytes": run.messages.body(123_456).len(),
        "req_per_s": round(tally.in_window as f64 / options.duration),
        "latency": tally.latency.figures(),
        "created": tally.created, "errors": tally.errors(),
        "other_status": tally.other_status, "refused": tally.refused,
        "no_answer": tally.no_answer, "timeout": tally.timeout,
        "cpu_cores": cpu.await?,
        "server_rss_kib": resident_kib(&common.server_pid),
    });
    if !tally.failed_latency.is_empty() {
        result["failed_latency"] = tally.failed_latency.figures();
    }
    if !lag.is_empty() {
        result["generator_lag"] = lag.figures();
    }
    Ok(result)
}

async fn closed_loop(run: &Arc<Run>, connections: usize) -> Result<Tally> {
    let tasks: Vec<_> = (0..connections.max(1))
        .map(|_| {
            let run = run.clone();
            tokio::spawn(async move {
                let mut tally = Tally::new();
                let mut connection = None;
                while Instant::now() < run.window.1 {
                    let call = run.call(run.next.fetch_add(1, Relaxed));
                    let start = Instant::now();
                    let outcome = run.target.call(&mut connection, &call).await;
                    if !run.count(&mut tally, start, &outcome) {
                        sleep(PAUSE_AFTER_FAILURE).await;
                    }
                }
                tally
            })
        })
        .collect();
    let mut total = Tally::new();
    for task in tasks {
        total.merge(&task.await?);
    }
    Ok(total)
}

/// `lag` is given how much later than due each request was begun.
async fn open_loop(run: &Arc<Run>, options: &Options, lag: &mut Latencies) -> Result<Tally> {
    let permits = Arc::new(Semaphore::new(options.connections.max(1)));
    let tally = Arc::new(Mutex::new(Tally::new()));
    let count = ((run.window.1 - run.begin).as_secs_f64() * options.rate) as u64;
    let mut tasks = Vec::new();
    for number in 0..count {
        let due = run.begin + Duration::from_secs_f64(number as f64 / options.rate);
        sleep_until(due.into()).await;
        lag.record(due.elapsed());
        let permit = permits.clone().acquire_owned().await?;
        let (run, tally, call) = (run.clone(), tally.clone(), run.call(number));
        tasks.push(tokio::spawn(async move {
            let outcome = run.target.call_pooled(&call).await;
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            run.count(&mut tally, due, &outcome);
            drop(permit);
        }));
    }
    for task in tasks {
        task.await?;
    }
    let mut total = Tally::new();
    total.merge(&tally.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(total)
}
