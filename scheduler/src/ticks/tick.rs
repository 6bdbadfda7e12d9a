//! From a tick to a recorded run. JetStream gives a tick to one replica, and to another only if
//! that one is gone; the record in `job-runs` keeps a tick that comes again from running again. It
//! keeps no time.

use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{NATS_SCHEDULE_NEXT, NATS_SCHEDULER};
use contract::Timestamp;
use contract::dead_letter::Reason;
use contract::domain::{JobOutcome as Outcome, JobRun};
use contract::{inventory, subject};
use metrics::{counter, histogram};
use runtime::CancellationToken;
use runtime::consume::worker::{Delivery, Settle, Source, Worker};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::jobs::{Job, RUN_TIMEOUT, Tools};
use crate::ticks::runs::{Last, Runs, RunsError, Tick, Turn, turn};
use crate::ticks::schedule::CATCH_UP;

/// Where ticks come from; no more at hand than are in work, so that the others go to other
/// replicas.
pub const SOURCE: Source = Source {
    stream: inventory::JOBS,
    consumer: inventory::SCHEDULER,
    prefetch: 1,
};
/// Ticks in work at once in one replica. Each is of another job: two of the same job wait for one
/// another.
const CONCURRENT_TICKS: usize = 4;
/// A tick comes again after this while a run of its job is under way elsewhere, or the bucket does
/// not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// And after this if another replica was faster, or this one stops.
const HAND_OVER: Duration = Duration::from_millis(100);
/// How long recording the end of a run is tried; after that the run is repeated.
const RECORD_DEADLINE: Duration = Duration::from_secs(10);
/// A job that runs more often does so quietly.
const RARELY: Duration = Duration::from_secs(60);
/// Pause between the tries.
const RECORD_PAUSE: Duration = Duration::from_millis(500);

/// What the work needs. Cloning is cheap.
#[derive(Clone)]
pub struct Ticks {
    /// The table.
    pub jobs: Arc<[Job]>,
    /// What they work with.
    pub tools: Tools,
    /// What has run.
    pub runs: Runs,
    /// This replica.
    pub instance: Arc<str>,
    /// Cuts a run off; another replica begins it anew.
    pub stop: CancellationToken,
    /// The time.
    pub clock: fn() -> Timestamp,
}

impl Ticks {
    /// Takes ticks until stopped.
    pub async fn consume(self, worker: Worker) {
        worker
            .run_each(CONCURRENT_TICKS, |delivery| {
                let ticks = self.clone();
                async move { ticks.take(&delivery).await }
            })
            .await;
    }

    async fn take(&self, delivery: &Delivery) -> Settle {
        let name = subject::job_of_tick(&delivery.subject);
        let Some(job) = self.jobs.iter().find(|job| Some(job.name) == name) else {
            return Settle::Reject(Reason::UnknownVersion, "this build has no such job".into());
        };
        match self.on_tick(job, delivery).await {
            Ok(settle) => settle,
            Err(RunsError::Overtaken) => Settle::Retry(HAND_OVER),
            Err(error @ RunsError::Unavailable(_)) => {
                warn!(job = job.name, %error, "the tick comes again");
                Settle::Retry(LOOK_AGAIN)
            }
        }
    }

    async fn on_tick(&self, job: &Job, delivery: &Delivery) -> Result<Settle, RunsError> {
        let catch_up = delivery
            .header(NATS_SCHEDULER.as_ref())
            .is_some_and(|scheduler| scheduler.ends_with(CATCH_UP));
        let tick = Tick {
            seq: delivery.stream_seq,
            at: delivery.stored_at,
            catch_up,
        };
        let Last {
            run: last,
            revision,
        } = self.runs.last(job.name).await?;
        let now = (self.clock)();
        match turn(job, last.as_ref(), tick, now) {
            Turn::Run => {}
            Turn::Wait => return Ok(Settle::Retry(LOOK_AGAIN)),
            Turn::Skip => {
                count(job, "skipped");
                info!(
                    job = job.name,
                    tick = tick.seq,
                    "a run has served this tick"
                );
                return Ok(Settle::Done);
            }
        }
        let next = delivery
            .header(NATS_SCHEDULE_NEXT.as_ref())
            .and_then(|at| at.parse().ok());
        let claim = JobRun {
            job: job.name.to_owned(),
            tick_seq: tick.seq,
            tick_at: tick.at,
            started_at: now,
            finished_at: None,
            outcome: Outcome::Running,
            detail: Value::Null,
            instance: self.instance.to_string(),
            next_at: next.unwrap_or_else(|| now.plus(job.interval)),
        };
        let revision = self.runs.write(&claim, revision).await?;
        let begun = Instant::now();
        let Some((outcome, detail)) = self.work(job).await else {
            info!(
                job = job.name,
                tick = tick.seq,
                "the run is cut off; another replica begins it anew"
            );
            return Ok(Settle::Retry(HAND_OVER));
        };
        let took = begun.elapsed();
        let started_at = self.started_at(&claim, revision).await;
        let ended = JobRun {
            started_at,
            finished_at: Some(started_at.plus(took)),
            outcome,
            detail,
            ..claim
        };
        self.record(&ended, revision).await?;
        Ok(Settle::Done)
    }

    /// When the server stored that the run had begun. If it does not say, this replica's own time
    /// has to do.
    async fn started_at(&self, claim: &JobRun, revision: u64) -> Timestamp {
        match self.runs.last(&claim.job).await {
            Ok(Last {
                run: Some(run),
                revision: read,
            }) if read == revision => run.started_at,
            _ => claim.started_at,
        }
    }

    /// The job itself, within its limit; `None` if the stop cut it off.
    async fn work(&self, job: &Job) -> Option<(Outcome, Value)> {
        let started = Instant::now();
        let result = self
            .stop
            .run_until_cancelled(tokio::time::timeout(RUN_TIMEOUT, job.work.run(&self.tools)))
            .await?;
        histogram!("job_seconds", "job" => job.name).record(started.elapsed().as_secs_f64());
        let why = match result {
            Ok(Ok(detail)) => {
                count(job, "ok");
                match job.interval < RARELY {
                    true => debug!(job = job.name, %detail, "the job is done"),
                    false => info!(job = job.name, %detail, "the job is done"),
                }
                return Some((Outcome::Ok, detail));
            }
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!("not done within {RUN_TIMEOUT:?}"),
        };
        count(job, "failed");
        error!(
            job = job.name,
            why, "the job failed; the next tick tries again"
        );
        Some((Outcome::Failed, json!({"error": why})))
    }

    /// Writes the end of a run; tries for 10 s. If another replica has taken the tick over in the
    /// meantime, its record stands.
    async fn record(&self, ended: &JobRun, revision: u64) -> Result<(), RunsError> {
        let deadline = Instant::now() + RECORD_DEADLINE;
        loop {
            let error = match self.runs.write(ended, revision).await {
                Ok(_) => return Ok(()),
                // An earlier try may have been stored although its answer was lost.
                Err(RunsError::Overtaken)
                    if self.runs.last(&ended.job).await?.run.as_ref() == Some(ended) =>
                {
                    return Ok(());
                }
                Err(RunsError::Overtaken) => {
                    warn!(
                        job = ended.job,
                        tick = ended.tick_seq,
                        "another replica has taken this run over"
                    );
                    return Ok(());
                }
                Err(e) => e,
            };
            if Instant::now() + RECORD_PAUSE >= deadline {
                return Err(error);
            }
            tokio::time::sleep(RECORD_PAUSE).await;
        }
    }
}

fn count(job: &Job, result: &'static str) {
    counter!("job_runs_total", "job" => job.name, "result" => result).increment(1);
}
