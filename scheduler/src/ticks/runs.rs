//! The last run of each job, in the bucket `job-runs`, and the decision whether a tick leads to a
//! run. Every write names the revision that it replaces, so that only one of two replicas succeeds.
//! Runs no job.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{Operation, Store};
use contract::domain::{JobOutcome as Outcome, JobRun};
use contract::inventory;
use contract::{Timestamp, domain};
use runtime::net::connection::is_overtaken;
use tracing::warn;

use crate::jobs::{Job, RUN_TIMEOUT};

/// A run that is still in progress after this time counts as abandoned: its replica is gone.
const ABANDONED_AFTER: Duration = RUN_TIMEOUT.saturating_add(Duration::from_secs(60));

#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// The sequence in `JOBS`.
    pub seq: u64,
    /// When the server made the tick.
    pub at: Timestamp,
    /// Whether the tick was made because a run was overdue, and not by the recurring schedule.
    pub catch_up: bool,
}

/// How a replica handles a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run the job.
    Run,
    /// Acknowledge the tick without a run, because another run serves the tick.
    Skip,
    /// Take the tick again later, because another run of the job is in progress.
    Wait,
}

/// Decides how a tick is handled, given the job's last run.
pub fn action_for(job: &Job, last: Option<&JobRun>, tick: Tick, now: Timestamp) -> Action {
    let Some(last) = last else { return Action::Run };
    let running = last.outcome == Outcome::Running;
    if running && tick.seq == last.tick_seq && tick.at == last.tick_at {
        // A tick in progress is not redelivered, so the replica of that run is gone.
        return Action::Run;
    }
    // A run serves all ticks that were waiting when it began, so that a backlog leads to one run.
    let served = tick.at <= last.tick_at || tick.at <= last.started_at;
    // The time of a catch-up tick says, by the server's clock, when the job was overdue.
    if served || (tick.catch_up && !is_overdue(job, Some(last), tick.at)) {
        return Action::Skip;
    }
    if running && now.since(last.started_at) < ABANDONED_AFTER {
        Action::Wait
    } else {
        Action::Run
    }
}

/// Whether a tick was missed: the job has never run, or not within its interval.
pub fn is_overdue(job: &Job, last: Option<&JobRun>, now: Timestamp) -> bool {
    last.is_none_or(|run| domain::is_overdue(run.started_at, job.interval, now))
}

/// Why a run could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RunsError {
    /// Another replica has written the record since.
    #[error("another replica was faster")]
    Overtaken,
    /// The bucket does not answer, or does not exist yet.
    #[error("the bucket job-runs: {0}")]
    Unavailable(String),
}

/// The record of a job's last run, and its revision.
#[derive(Clone, Debug, Default)]
pub struct Last {
    /// `None` if the job has never run.
    pub run: Option<JobRun>,
    /// 0 if the job has never run.
    pub revision: u64,
}

/// The bucket.
#[derive(Clone)]
pub struct Runs {
    jetstream: Context,
}

impl Runs {
    pub fn new(jetstream: Context) -> Runs {
        Runs { jetstream }
    }

    /// Reads the job's last run. The time of its beginning is by the server's clock.
    ///
    /// # Errors
    /// Only [`RunsError::Unavailable`].
    pub async fn last(&self, job: &str) -> Result<Last, RunsError> {
        let entry = self.store().await?.entry(job).await.map_err(unavailable)?;
        let Some(entry) = entry else {
            return Ok(Last::default());
        };
        let run = match (entry.operation, serde_json::from_slice(&entry.value)) {
            (Operation::Put, Ok(run)) => Some(by_servers_clock(run, entry.created.into())),
            (Operation::Put, Err(error)) => {
                warn!(job, %error, "the last run cannot be read; it counts as none");
                None
            }
            (Operation::Delete | Operation::Purge, _) => None,
        };
        Ok(Last {
            run,
            revision: entry.revision,
        })
    }

    /// Replaces the record that has `revision`, and returns the new revision.
    ///
    /// # Errors
    /// [`RunsError::Overtaken`] if the record has another revision now. After
    /// [`RunsError::Unavailable`] the record may be written nevertheless.
    pub async fn write(&self, run: &JobRun, revision: u64) -> Result<u64, RunsError> {
        let value = serde_json::to_vec(run).map_err(unavailable)?;
        self.store()
            .await?
            .update(&run.job, value.into(), revision)
            .await
            .map_err(|e| match is_overtaken(&e) {
                true => RunsError::Overtaken,
                false => unavailable(e),
            })
    }

    async fn store(&self) -> Result<Store, RunsError> {
        self.jetstream
            .get_key_value(inventory::JOB_RUNS)
            .await
            .map_err(unavailable)
    }
}

/// Gives a run in progress the beginning by the server's clock. Because ticks have their time from
/// the server, the clock of a replica, which may differ, must not be compared with it.
fn by_servers_clock(run: JobRun, stored_at: Timestamp) -> JobRun {
    let started_at = if run.outcome == Outcome::Running {
        stored_at
    } else {
        run.started_at
    };
    JobRun { started_at, ..run }
}

fn unavailable(error: impl std::fmt::Display) -> RunsError {
    RunsError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::JobKind;
    use serde_json::Value;

    const JOB: Job = Job {
        name: "token-refresh",
        interval: Duration::from_secs(3_600),
        first_delay: Duration::from_secs(10),
        kind: JobKind::RefreshTokens,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(1_760_000_000_000 + 1_000 * second)
    }

    /// Tick 7 of second 100, begun in second 101.
    fn last(outcome: Outcome) -> JobRun {
        JobRun {
            job: JOB.name.into(),
            tick_seq: 7,
            tick_at: at(100),
            started_at: at(101),
            finished_at: (outcome != Outcome::Running).then(|| at(102)),
            outcome,
            detail: Value::Null,
            instance: "scheduler-1".into(),
            next_at: at(3_700),
        }
    }

    fn tick(seq: u64, second: i64) -> Tick {
        Tick {
            seq,
            at: at(second),
            catch_up: false,
        }
    }

    #[test]
    fn a_tick_leads_to_a_run_unless_another_run_serves_it() {
        let rows = [
            ("the first tick ever", None, tick(1, 0), at(0), Action::Run),
            (
                "the next tick",
                Some(Outcome::Ok),
                tick(8, 3_700),
                at(3_700),
                Action::Run,
            ),
            (
                "the next tick, days late",
                Some(Outcome::Ok),
                tick(8, 3_700),
                at(900_000),
                Action::Run,
            ),
            (
                "the next tick after a failure",
                Some(Outcome::Failed),
                tick(8, 3_700),
                at(3_700),
                Action::Run,
            ),
            (
                "redelivered after it was done",
                Some(Outcome::Ok),
                tick(7, 100),
                at(130),
                Action::Skip,
            ),
            (
                "redelivered after it was given up",
                Some(Outcome::Failed),
                tick(7, 100),
                at(130),
                Action::Skip,
            ),
            (
                "an older one, redelivered",
                Some(Outcome::Ok),
                tick(6, 90),
                at(130),
                Action::Skip,
            ),
            (
                "was waiting when the run began",
                Some(Outcome::Ok),
                tick(8, 101),
                at(130),
                Action::Skip,
            ),
            (
                "was waiting when the run began that is under way",
                Some(Outcome::Running),
                tick(8, 101),
                at(103),
                Action::Skip,
            ),
            (
                "its replica is gone",
                Some(Outcome::Running),
                tick(7, 100),
                at(131),
                Action::Run,
            ),
            (
                "the run is under way elsewhere",
                Some(Outcome::Running),
                tick(8, 150),
                at(150),
                Action::Wait,
            ),
            (
                "that run is abandoned",
                Some(Outcome::Running),
                tick(8, 3_700),
                at(3_700),
                Action::Run,
            ),
            (
                "the stream was made anew",
                Some(Outcome::Ok),
                tick(1, 3_700),
                at(3_700),
                Action::Run,
            ),
        ];
        for (case, outcome, tick, now, expected) in rows {
            assert_eq!(
                action_for(&JOB, outcome.map(last).as_ref(), tick, now),
                expected,
                "{case}"
            );
        }
    }

    #[test]
    fn a_catch_up_tick_runs_only_a_job_that_is_still_overdue() {
        let catch_up = |seq, second| Tick {
            catch_up: true,
            ..tick(seq, second)
        };
        assert_eq!(action_for(&JOB, None, catch_up(1, 0), at(0)), Action::Run);
        assert_eq!(
            action_for(&JOB, Some(&last(Outcome::Ok)), catch_up(8, 200), at(200)),
            Action::Skip
        );
        assert_eq!(
            action_for(
                &JOB,
                Some(&last(Outcome::Running)),
                catch_up(8, 200),
                at(200)
            ),
            Action::Skip
        );
        assert_eq!(
            action_for(
                &JOB,
                Some(&last(Outcome::Ok)),
                catch_up(8, 9_000),
                at(9_000)
            ),
            Action::Run
        );
        // The catch-up tick's own run was cancelled, so the tick is still due.
        assert_eq!(
            action_for(
                &JOB,
                Some(&last(Outcome::Running)),
                catch_up(7, 100),
                at(131)
            ),
            Action::Run
        );
    }

    #[test]
    fn a_replica_with_a_fast_clock_does_not_serve_future_ticks() {
        let ahead = |outcome| JobRun {
            started_at: at(3_701),
            ..last(outcome)
        };
        let running = by_servers_clock(ahead(Outcome::Running), at(101));
        assert_eq!(
            action_for(&JOB, Some(&running), tick(8, 101), at(103)),
            Action::Skip
        );
        assert_eq!(
            action_for(&JOB, Some(&running), tick(8, 150), at(150)),
            Action::Wait
        );
        // The record of a finished run already has the server's time.
        assert_eq!(
            by_servers_clock(last(Outcome::Ok), at(102)),
            last(Outcome::Ok)
        );
        // A job that is overdue only by this replica's clock is not run.
        let catch_up = Tick {
            catch_up: true,
            ..tick(8, 200)
        };
        assert_eq!(
            action_for(&JOB, Some(&last(Outcome::Ok)), catch_up, at(9_000)),
            Action::Skip
        );
    }

    #[test]
    fn a_run_is_overdue_after_its_interval_and_the_tolerated_delay() {
        assert!(is_overdue(&JOB, None, at(0)));
        assert!(!is_overdue(&JOB, Some(&last(Outcome::Ok)), at(3_711)));
        assert!(is_overdue(&JOB, Some(&last(Outcome::Ok)), at(3_712)));
    }

    #[test]
    fn the_record_is_readable_json() {
        let text = serde_json::to_string(&last(Outcome::Ok)).unwrap();
        assert!(
            text.contains(r#""outcome":"ok""#) && text.contains(r#""tick_seq":7"#),
            "{text}"
        );
        assert_eq!(
            serde_json::from_str::<JobRun>(&text).unwrap(),
            last(Outcome::Ok)
        );
    }
}
