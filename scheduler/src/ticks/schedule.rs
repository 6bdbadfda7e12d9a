//! Keeps each job's schedule on the server, and makes up for missed ticks. Because the server skips
//! the recurring ticks of its own downtime, an overdue job is given a one-shot schedule. All
//! replicas do this at once; they agree because the server keeps one schedule per subject. Runs no
//! job.

use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{NATS_SCHEDULE, NATS_SCHEDULE_TARGET, NATS_SCHEDULE_TTL};
use async_nats::jetstream::message::PublishMessage;
use contract::Timestamp;
use contract::domain::JobOutcome as Outcome;
use contract::{inventory, subject};
use metrics::gauge;
use runtime::CancellationToken;
use runtime::log::direct_get::{self, StoredMessage};
use runtime::net::connection::Connection;
use runtime::service::health::Health;
use serde_json::{Map, Value, json};
use tracing::{info, warn};

use crate::jobs::{Job, JobKind, digest};
use crate::ticks::runs::{Runs, RunsError, is_overdue};

/// The health check of the schedules.
pub const CHECK: &str = "schedules";
/// The ending of a one-shot schedule's name, after the job's name. The server removes such a
/// schedule when it has fired.
pub const CATCH_UP: &str = "-first";
/// How often schedules and last runs are compared. More often than a health check goes stale.
const COMPARE_INTERVAL: Duration = Duration::from_secs(5);
/// First and longest pause while the server does not answer.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long a tick waits for a scheduler. After that the tick is dropped, and its job is overdue.
const TICK_TTL: &str = "168h";

/// Why the schedules could not be compared.
#[derive(Debug, thiserror::Error)]
enum ScheduleError {
    #[error("the stream JOBS: {0}")]
    Jobs(String),
    #[error(transparent)]
    Runs(#[from] RunsError),
}

/// Keeps the schedules for one replica.
pub struct ScheduleKeeper {
    pub connection: Connection,
    pub jobs: Arc<[Job]>,
    pub runs: Runs,
    pub health: Health,
    pub stop: CancellationToken,
    /// Set from the last run of the digest.
    pub gauges: digest::Gauges,
    pub clock: fn() -> Timestamp,
}

impl ScheduleKeeper {
    /// Compares again and again until stopped. A server that does not answer is asked again.
    pub async fn run(mut self) {
        let (mut compared, mut pause) = (false, RETRY_PAUSE.0);
        loop {
            // Only the first comparison replaces a schedule that differs. Otherwise two replicas
            // with different settings would replace each other's schedule for ever, and each time
            // the server would begin to count anew.
            let stop = self.stop.clone();
            let Some(result) = stop.run_until_cancelled(self.compare(!compared)).await else {
                return;
            };
            let wait = match result {
                Ok(detail) => {
                    self.health.good(CHECK, detail);
                    (compared, pause) = (true, RETRY_PAUSE.0);
                    COMPARE_INTERVAL
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

    async fn compare(&mut self, replace: bool) -> Result<Value, ScheduleError> {
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
                .filter(|_| job.kind == JobKind::DigestDeadLetters)
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

    async fn keep_recurring(&self, job: &Job, replace: bool) -> Result<(), ScheduleError> {
        let every = format!("@every {}s", job.interval.as_secs());
        let is_current = match scheduled(&self.connection, job.name).await? {
            Some(have) => !replace || matches(&have, job, &every),
            None => false,
        };
        if !is_current {
            self.publish(job.name, job, &every).await?;
        }
        Ok(())
    }

    /// Schedules a run soon, unless that is done already. A replacement would delay the run.
    async fn catch_up(&self, job: &Job) -> Result<(), ScheduleError> {
        let name = format!("{}{CATCH_UP}", job.name);
        if scheduled(&self.connection, &name).await?.is_none() {
            let at = (self.clock)().plus(job.first_delay);
            self.publish(&name, job, &format!("@at {at}")).await?;
        }
        Ok(())
    }

    async fn publish(&self, name: &str, job: &Job, schedule: &str) -> Result<(), ScheduleError> {
        let message = PublishMessage::build()
            .header(NATS_SCHEDULE, schedule)
            .header(NATS_SCHEDULE_TARGET, subject::job_tick(job.name))
            .header(NATS_SCHEDULE_TTL, TICK_TTL);
        let ack = self
            .connection
            .jetstream
            .send_publish(subject::job_schedule(name), message)
            .await;
        let stored = async { ack?.await }
            .await
            .map_err(|e| ScheduleError::Jobs(e.to_string()))?;
        info!(job = job.name, schedule, seq = stored.sequence, "scheduled");
        Ok(())
    }
}

/// The schedule of this name on the server.
async fn scheduled(
    connection: &Connection,
    name: &str,
) -> Result<Option<StoredMessage>, ScheduleError> {
    direct_get::last(connection, inventory::JOBS, &subject::job_schedule(name))
        .await
        .map_err(|e| ScheduleError::Jobs(e.to_string()))
}

/// Whether the schedule on the server is as this replica would make it.
fn matches(have: &StoredMessage, job: &Job, every: &str) -> bool {
    let header = |name| have.headers.get(name).map(|v| v.as_str());
    header(NATS_SCHEDULE) == Some(every)
        && header(NATS_SCHEDULE_TARGET) == Some(&subject::job_tick(job.name))
        && header(NATS_SCHEDULE_TTL) == Some(TICK_TTL)
}
