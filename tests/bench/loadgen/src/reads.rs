//! Scenario `reads`: queries that the server answers a second, one kind after another, in a closed
//! loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tokio::time::{sleep, sleep_until};

use crate::http::{Call, MESSAGES, Outcome, Target};
use crate::latency::{Latencies, round};
use crate::process::CpuReading;
use crate::{Common, Result};

/// The loop pauses for so long after a failure, lest it spins while the server is away.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

#[derive(Copy, Clone, PartialEq, ValueEnum)]
enum Query {
    /// The newest 50 messages of a conversation
    List,
    /// One message by its id
    Get,
    /// The newest 20 conversations of Instagram
    Conversations,
}

impl Query {
    fn name(self) -> &'static str {
        match self {
            Query::List => "list",
            Query::Get => "get",
            Query::Conversations => "conversations",
        }
    }
}

#[derive(Args)]
pub struct Options {
    /// Kinds of query, one after another
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "list,get,conversations"
    )]
    queries: Vec<Query>,
    /// Contact whose messages are read
    #[arg(long, default_value = "c0ffee010000000000000000")]
    contact: String,
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Seconds of each kind that are measured
    #[arg(long, default_value_t = 15.0)]
    duration: f64,
    /// Seconds of load before
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
}

/// What one connection has seen.
struct Tally {
    latency: Latencies,
    /// Answered within the measured seconds.
    in_window: u64,
    errors: u64,
    answer_bytes: usize,
}

pub async fn run(common: &Common, options: &Options) -> Result<Value> {
    let target = Target::new(common).await?;
    let mut result = json!({
        "scenario": "reads", "label": common.label, "connections": options.connections,
        "duration_s": options.duration,
    });
    let contact = &options.contact;
    let list = Call::get(format!("{MESSAGES}?contact_id={contact}&limit=50").parse()?);
    let conversations = Call::post(
        format!("{MESSAGES}/instagram").parse()?,
        r#"{"limit":20,"skip":0}"#,
    );
    for query in &options.queries {
        let calls = match query {
            Query::List => vec![list.clone()],
            Query::Get => by_id(&target, &list).await?,
            Query::Conversations => vec![conversations.clone()],
        };
        result[query.name()] = closed_loop(common, options, &target, calls).await?;
    }
    Ok(result)
}

/// A call for each message that the list has.
async fn by_id(target: &Target, list: &Call) -> Result<Vec<Call>> {
    let Outcome::Answer(200, body) = target.call_pooled(list).await else {
        return Err("the list cannot be read".into());
    };
    let page: Value = serde_json::from_slice(&body)?;
    let messages = page["messages"]
        .as_array()
        .ok_or("the list has no messages")?;
    let calls: Vec<_> = messages
        .iter()
        .filter_map(|message| message["_id"].as_str())
        .map(|id| Ok(Call::get(format!("{MESSAGES}/{id}").parse()?)))
        .collect::<Result<_>>()?;
    if calls.is_empty() {
        return Err("the contact has no messages".into());
    }
    Ok(calls)
}

async fn closed_loop(
    common: &Common,
    options: &Options,
    target: &Arc<Target>,
    calls: Vec<Call>,
) -> Result<Value> {
    let from = Instant::now() + Duration::from_secs_f64(options.warmup);
    let until = from + Duration::from_secs_f64(options.duration);
    let (calls, next) = (Arc::new(calls), Arc::new(AtomicUsize::new(0)));
    let pids = common.server_pid.clone();
    let cpu = tokio::spawn(async move {
        sleep_until(from.into()).await;
        let before = CpuReading::take(&pids);
        sleep_until(until.into()).await;
        CpuReading::take(&pids).cores_since(&before)
    });
    let tasks: Vec<_> = (0..options.connections.max(1))
        .map(|_| {
            let (target, calls, next) = (target.clone(), calls.clone(), next.clone());
            tokio::spawn(async move {
                let mut tally = Tally::new();
                let mut connection = None;
                while Instant::now() < until {
                    let call = &calls[next.fetch_add(1, Relaxed) % calls.len()];
                    let start = Instant::now();
                    let outcome = target.call(&mut connection, call).await;
                    let now = Instant::now();
                    if let Outcome::Answer(200, body) = outcome {
                        // Also if it was sent before: else slow queries lose one a connection.
                        tally.in_window += u64::from((from..until).contains(&now));
                        tally.answer_bytes = tally.answer_bytes.max(body.len());
                        if start >= from {
                            tally.latency.record(now - start);
                        }
                    } else {
                        tally.errors += u64::from(start >= from);
                        sleep(PAUSE_AFTER_FAILURE).await;
                    }
                }
                tally
            })
        })
        .collect();
    let mut total = Tally::new();
    for task in tasks {
        let tally = task.await?;
        total.latency.merge(&tally.latency);
        total.in_window += tally.in_window;
        total.errors += tally.errors;
        total.answer_bytes = total.answer_bytes.max(tally.answer_bytes);
    }
    Ok(json!({
        "req_per_s": round(total.in_window as f64 / options.duration),
        "latency": total.latency.figures(), "errors": total.errors,
        "answer_bytes": total.answer_bytes, "cpu_cores": cpu.await?,
    }))
}

impl Tally {
    fn new() -> Tally {
        Tally {
            latency: Latencies::new(),
            in_window: 0,
            errors: 0,
            answer_bytes: 0,
        }
    }
}
