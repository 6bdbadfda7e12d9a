//! Sees to it that the server holds each job's schedule, and makes a tick where one was missed: the
//! server skips the recurring ticks that fall into its own downtime. Any number of replicas do this
//! at once; they agree because the server keeps one schedule a subject. Runs no job.

use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{NATS_SCHEDULE, NATS_SCHEDULE_TARGET, NATS_SCHEDULE_TTL};
use async_nats::jetstream::Context;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use contract::Timestamp;
use contract::domain::JobOutcome as Outcome;
use contract::{inventory, subject};
use metrics::gauge;
use runtime::CancellationToken;
use runtime::service::health::Health;
use serde_json::{Map, Value, json};
use tracing::{info, warn};

use crate::jobs::{Job, Work, digest};
use crate::refresh::store::last_of;
use crate::ticks::runs::{Runs, RunsError, is_overdue};

/// The check that says whether the schedules stand.
pub const CHECK: &str = "schedules";
/// A one-shot schedule is named after its job and this. The server removes it once it has fired.
pub const CATCH_UP: &str = "-first";
/// How often schedules and last runs are looked at, below the time in which a check goes stale.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// First and longest pause while the server does not answer.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long a tick waits for a scheduler; then it is dropped, and the missed run shows as overdue.
const TICK_TTL: &str = "168h";

/// Why the schedules could not be seen to.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("the stream JOBS: {0}")]
    Jobs(String),
    #[error(transparent)]
    Runs(#[from] RunsError),
}

/// What the work needs.
pub struct Keeper {
    /// For schedules.
    pub jetstream: Context,
    /// The table.
    pub jobs: Arc<[Job]>,
    /// What has run.
    pub runs: Runs,
    /// Where [`CHECK`] is confirmed.
    pub health: Health,
    /// Ends it.
    pub stop: CancellationToken,
    /// What the digest has counted.
    pub gauges: digest::Gauges,
    /// The time.
    pub clock: fn() -> Timestamp,
}

impl Keeper {
    /// Looks, until stopped. A server that is away is asked again.
    pub async fn run(mut self) {
        let (mut compared, mut pause) = (false, RETRY_PAUSE.0);
        loop {
            // Only the start replaces a schedule that differs: two replicas with different settings
            // would replace each other's for ever, and each time the server would begin to count
            // anew.
            let stop = self.stop.clone();
            let Some(looked) = stop.run_until_cancelled(self.look(!compared)).await else {
                return;
            };
            let wait = match looked {
                Ok(detail) => {
                    self.health.good(CHECK, detail);
                    (compared, pause) = (true, RETRY_PAUSE.0);
                    LOOK_EVERY
                }
                Err(e) => {
                    warn!(error = %e, "the schedules cannot be seen to");
                    self.health.bad(CHECK, json!(e.to_string()));
                    let wait = pause;
                    pause = (pause * 2).min(RETRY_PAUSE.1);
                    wait
                }
            };
            if self
                .stop
                .run_until_cancelled(tokio::time::sleep(wait))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    async fn look(&mut self, replace: bool) -> Result<Value, KeepError> {
        let mut detail = Map::new();
        for job in self.jobs.clone().iter() {
            self.keep_recurring(job, replace).await?;
            let last = self.runs.last(job.name).await?.run;
            if is_overdue(job, last.as_ref(), (self.clock)()) {
                self.catch_up(job).await?;
            }
            if let Some(finished) = last
                .as_ref()
                .filter(|run| run.outcome == Outcome::Ok)
                .and_then(|run| run.finished_at)
            {
                gauge!("job_last_success_timestamp_seconds", "job" => job.name)
                    .set(finished.millis() as f64 / 1_000.0);
            }
            if let Some(run) = last
                .as_ref()
                .filter(|_| job.work == Work::DigestDeadLetters)
            {
                self.gauges.show(&run.detail);
            }
            detail.insert(
                job.name.into(),
                json!(last.map(|run| json!({"outcome": run.outcome, "next_at": run.next_at}))),
            );
        }
        Ok(detail.into())
    }

    async fn keep_recurring(&self, job: &Job, replace: bool) -> Result<(), KeepError> {
        let every = format!("@every {}s", job.interval.as_secs());
        let stands = match held(&self.jetstream, job.name).await? {
            Some(have) => !replace || says(&have, job, &every),
            None => false,
        };
        if !stands {
            self.publish(job.name, job, &every).await?;
        }
        Ok(())
    }

    /// One that is on its way already is left alone: replacing it would put it off.
    async fn catch_up(&self, job: &Job) -> Result<(), KeepError> {
        let name = format!("{}{CATCH_UP}", job.name);
        if held(&self.jetstream, &name).await?.is_none() {
            let at = (self.clock)().plus(job.first_delay);
            self.publish(&name, job, &format!("@at {at}")).await?;
        }
        Ok(())
    }

    async fn publish(&self, name: &str, job: &Job, schedule: &str) -> Result<(), KeepError> {
        let message = PublishMessage::build()
            .header(NATS_SCHEDULE, schedule)
            .header(NATS_SCHEDULE_TARGET, subject::job_tick(job.name))
            .header(NATS_SCHEDULE_TTL, TICK_TTL);
        let ack = self
            .jetstream
            .send_publish(subject::job_schedule(name), message)
            .await;
        let stored = async { ack?.await }
            .await
            .map_err(|e| KeepError::Jobs(e.to_string()))?;
        info!(job = job.name, schedule, seq = stored.sequence, "scheduled");
        Ok(())
    }
}

/// The schedule that the server holds.
async fn held(jetstream: &Context, name: &str) -> Result<Option<StreamMessage>, KeepError> {
    last_of(jetstream, inventory::JOBS, &subject::job_schedule(name))
        .await
        .map_err(KeepError::Jobs)
}

fn says(have: &StreamMessage, job: &Job, every: &str) -> bool {
    let header = |name| have.headers.get(name).map(|v| v.as_str());
    header(NATS_SCHEDULE) == Some(every)
        && header(NATS_SCHEDULE_TARGET) == Some(&subject::job_tick(job.name))
        && header(NATS_SCHEDULE_TTL) == Some(TICK_TTL)
}
