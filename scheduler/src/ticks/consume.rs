//! Takes ticks, runs their jobs and records the runs. JetStream gives a tick to one replica, and to
//! another only if the first one is gone. The record in `job-runs` keeps a redelivered tick from
//! running twice. Has no timer of its own.

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

use crate::jobs::tools::Tools;
use crate::jobs::{Job, RUN_TIMEOUT};
use crate::ticks::runs::{Action, Last, Runs, RunsError, Tick, action_for};
use crate::ticks::schedule::CATCH_UP;

/// The consumer of ticks. A prefetch of 1, because a tick that waits in one replica is not given to
/// another.
pub const SOURCE: Source = Source {
    stream: inventory::JOBS,
    consumer: inventory::SCHEDULER,
    prefetch: 1,
};
/// Ticks in progress at once in one replica. Each one belongs to another job, because ticks of the
/// same job wait for one another.
const CONCURRENT_TICKS: usize = 4;
/// When a tick is redelivered while a run of its job is in progress elsewhere, or the bucket does
/// not answer.
const BUSY_PAUSE: Duration = Duration::from_secs(2);
/// When a tick is redelivered after another replica was faster, or because this replica stops.
const HAND_OVER_PAUSE: Duration = Duration::from_millis(100);
/// How long the recording of a finished run is tried. After that the run is repeated.
const RECORD_DEADLINE: Duration = Duration::from_secs(10);
/// The end of a run is logged at level `info` only if the job's interval is at least this.
const QUIET_BELOW: Duration = Duration::from_secs(60);
/// Pause between two tries to record a run.
const RECORD_PAUSE: Duration = Duration::from_millis(500);

/// Takes ticks for one replica. Cloning is cheap.
#[derive(Clone)]
pub struct Ticks {
    pub jobs: Arc<[Job]>,
    pub tools: Tools,
    pub runs: Runs,
    /// The name of this replica.
    pub instance: Arc<str>,
    /// Cancels the runs in progress, which another replica repeats.
    pub stop: CancellationToken,
    pub clock: fn() -> Timestamp,
}

impl Ticks {
    /// Takes ticks until the worker is stopped.
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
            Err(RunsError::Overtaken) => Settle::Retry(HAND_OVER_PAUSE),
            Err(error @ RunsError::Unavailable(_)) => {
                warn!(job = job.name, %error, "the tick comes again");
                Settle::Retry(BUSY_PAUSE)
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
        match action_for(job, last.as_ref(), tick, now) {
            Action::Run => {}
            Action::Wait => return Ok(Settle::Retry(BUSY_PAUSE)),
            Action::Skip => {
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
        let Some((outcome, detail)) = self.run_job(job).await else {
            info!(
                job = job.name,
                tick = tick.seq,
                "the run is cut off; another replica begins it anew"
            );
            return Ok(Settle::Retry(HAND_OVER_PAUSE));
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

    /// When the server stored the beginning of the run. If the server does not answer, this
    /// replica's own time is used.
    async fn started_at(&self, claim: &JobRun, revision: u64) -> Timestamp {
        match self.runs.last(&claim.job).await {
            Ok(Last {
                run: Some(run),
                revision: read,
            }) if read == revision => run.started_at,
            _ => claim.started_at,
        }
    }

    /// Runs the job for at most [`RUN_TIMEOUT`]. Returns `None` if the replica's stop cancelled the
    /// run.
    async fn run_job(&self, job: &Job) -> Option<(Outcome, Value)> {
        let started = Instant::now();
        let result = self
            .stop
            .run_until_cancelled(tokio::time::timeout(RUN_TIMEOUT, job.kind.run(&self.tools)))
            .await?;
        histogram!("job_seconds", "job" => job.name).record(started.elapsed().as_secs_f64());
        let why = match result {
            Ok(Ok(detail)) => {
                count(job, "ok");
                match job.interval < QUIET_BELOW {
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

    /// Records the end of a run, trying for [`RECORD_DEADLINE`]. If another replica has taken the
    /// tick over meanwhile, that replica's record stays.
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
