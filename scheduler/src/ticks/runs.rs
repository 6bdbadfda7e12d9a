//! The last run of each job, in the bucket `job-runs`. Every write names the revision that it
//! replaces, so that of two replicas one wins. Decides what a tick means for a job; does not run
//! it.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use contract::domain::{JobOutcome as Outcome, JobRun};
use contract::inventory;
use contract::{Timestamp, domain};
use tracing::warn;

use crate::jobs::{Job, RUN_TIMEOUT};

/// A run that has not ended this much past its limit is nobody's any more.
const ABANDONED_AFTER: Duration = RUN_TIMEOUT.saturating_add(Duration::from_secs(60));

/// A tick.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Sequence in `JOBS`.
    pub seq: u64,
    /// When the server made it.
    pub at: Timestamp,
    /// Made because a run was overdue, not by the recurring schedule.
    pub catch_up: bool,
}

/// What a replica does with a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The job.
    Run,
    /// Nothing: a run has served it, or is about to.
    Skip,
    /// Another run of the job is under way: look again later.
    Wait,
}

/// What `tick` means, given the job's last run.
pub fn turn(job: &Job, last: Option<&JobRun>, tick: Tick, now: Timestamp) -> Turn {
    let Some(last) = last else { return Turn::Run };
    let running = last.outcome == Outcome::Running;
    if running && tick.seq == last.tick_seq && tick.at == last.tick_at {
        // A tick in work is not delivered again, so its replica is gone.
        return Turn::Run;
    }
    // Ticks that were waiting when a run began are served by it, so that a backlog collapses to one
    // run.
    let served = tick.at <= last.tick_at || tick.at <= last.started_at;
    // A tick to catch up says itself, by the server's clock, when the job was overdue.
    if served || (tick.catch_up && !is_overdue(job, Some(last), tick.at)) {
        return Turn::Skip;
    }
    if running && now.since(last.started_at) < ABANDONED_AFTER {
        Turn::Wait
    } else {
        Turn::Run
    }
}

/// Whether a tick was missed: the job has never run, or not within its interval.
pub fn is_overdue(job: &Job, last: Option<&JobRun>, now: Timestamp) -> bool {
    last.is_none_or(|run| domain::is_overdue(run.started_at, job.interval, now))
}

/// Why a run could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RunsError {
    /// Another replica has written since.
    #[error("another replica was faster")]
    Overtaken,
    /// The bucket does not answer, or does not exist yet.
    #[error("the bucket job-runs: {0}")]
    Unavailable(String),
}

/// A run with the revision it was read at.
#[derive(Clone, Debug, Default)]
pub struct Last {
    /// `None` if there was none yet.
    pub run: Option<JobRun>,
    /// 0 if there was none yet.
    pub revision: u64,
}

/// The bucket.
#[derive(Clone)]
pub struct Runs {
    jetstream: Context,
}

impl Runs {
    /// Asks nothing yet.
    pub fn new(jetstream: Context) -> Runs {
        Runs { jetstream }
    }

    /// The job's last run. When it began is by the server's clock.
    ///
    /// # Errors
    /// [`RunsError::Unavailable`].
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

    /// Writes a run in place of what stands at `revision`, and returns the new revision.
    ///
    /// # Errors
    /// [`RunsError::Overtaken`] if something else stands there now. After
    /// [`RunsError::Unavailable`] it may be written all the same.
    pub async fn write(&self, run: &JobRun, revision: u64) -> Result<u64, RunsError> {
        let value = serde_json::to_vec(run).map_err(unavailable)?;
        self.store()
            .await?
            .update(&run.job, value.into(), revision)
            .await
            .map_err(|e| match e.kind() {
                UpdateErrorKind::WrongLastRevision => RunsError::Overtaken,
                _ => unavailable(e),
            })
    }

    async fn store(&self) -> Result<Store, RunsError> {
        self.jetstream
            .get_key_value(inventory::JOB_RUNS)
            .await
            .map_err(unavailable)
    }
}

/// A run that is under way began when the server stored that: ticks have their time from it, and a
/// replica's clock may be another.
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
    use crate::jobs::Work;
    use serde_json::Value;

    const JOB: Job = Job {
        name: "token-refresh",
        interval: Duration::from_secs(3_600),
        first_delay: Duration::from_secs(10),
        work: Work::RefreshTokens,
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
    fn every_case() {
        let rows = [
            ("the first tick ever", None, tick(1, 0), at(0), Turn::Run),
            (
                "the next tick",
                Some(Outcome::Ok),
                tick(8, 3_700),
                at(3_700),
                Turn::Run,
            ),
            (
                "the next tick, days late",
                Some(Outcome::Ok),
                tick(8, 3_700),
                at(900_000),
                Turn::Run,
            ),
            (
                "the next tick after a failure",
                Some(Outcome::Failed),
                tick(8, 3_700),
                at(3_700),
                Turn::Run,
            ),
            (
                "redelivered after it was done",
                Some(Outcome::Ok),
                tick(7, 100),
                at(130),
                Turn::Skip,
            ),
            (
                "redelivered after it was given up",
                Some(Outcome::Failed),
                tick(7, 100),
                at(130),
                Turn::Skip,
            ),
            (
                "an older one, redelivered",
                Some(Outcome::Ok),
                tick(6, 90),
                at(130),
                Turn::Skip,
            ),
            (
                "was waiting when the run began",
                Some(Outcome::Ok),
                tick(8, 101),
                at(130),
                Turn::Skip,
            ),
            (
                "was waiting when the run began that is under way",
                Some(Outcome::Running),
                tick(8, 101),
                at(103),
                Turn::Skip,
            ),
            (
                "its replica is gone",
                Some(Outcome::Running),
                tick(7, 100),
                at(131),
                Turn::Run,
            ),
            (
                "the run is under way elsewhere",
                Some(Outcome::Running),
                tick(8, 150),
                at(150),
                Turn::Wait,
            ),
            (
                "that run is abandoned",
                Some(Outcome::Running),
                tick(8, 3_700),
                at(3_700),
                Turn::Run,
            ),
            (
                "the stream was made anew",
                Some(Outcome::Ok),
                tick(1, 3_700),
                at(3_700),
                Turn::Run,
            ),
        ];
        for (case, outcome, tick, now, expected) in rows {
            assert_eq!(
                turn(&JOB, outcome.map(last).as_ref(), tick, now),
                expected,
                "{case}"
            );
        }
    }

    #[test]
    fn a_catch_up_runs_only_what_is_still_overdue() {
        let catch_up = |seq, second| Tick {
            catch_up: true,
            ..tick(seq, second)
        };
        assert_eq!(turn(&JOB, None, catch_up(1, 0), at(0)), Turn::Run);
        assert_eq!(
            turn(&JOB, Some(&last(Outcome::Ok)), catch_up(8, 200), at(200)),
            Turn::Skip
        );
        assert_eq!(
            turn(
                &JOB,
                Some(&last(Outcome::Running)),
                catch_up(8, 200),
                at(200)
            ),
            Turn::Skip
        );
        assert_eq!(
            turn(
                &JOB,
                Some(&last(Outcome::Ok)),
                catch_up(8, 9_000),
                at(9_000)
            ),
            Turn::Run
        );
        // Its own run was cut off: it is still due.
        assert_eq!(
            turn(
                &JOB,
                Some(&last(Outcome::Running)),
                catch_up(7, 100),
                at(131)
            ),
            Turn::Run
        );
    }

    #[test]
    fn a_replica_whose_clock_is_ahead_serves_no_tick_that_is_to_come() {
        let ahead = |outcome| JobRun {
            started_at: at(3_701),
            ..last(outcome)
        };
        let running = by_servers_clock(ahead(Outcome::Running), at(101));
        assert_eq!(
            turn(&JOB, Some(&running), tick(8, 101), at(103)),
            Turn::Skip
        );
        assert_eq!(
            turn(&JOB, Some(&running), tick(8, 150), at(150)),
            Turn::Wait
        );
        // It has ended: the record has the server's time already.
        assert_eq!(
            by_servers_clock(last(Outcome::Ok), at(102)),
            last(Outcome::Ok)
        );
        // Nor does it run what only it takes for overdue.
        let catch_up = Tick {
            catch_up: true,
            ..tick(8, 200)
        };
        assert_eq!(
            turn(&JOB, Some(&last(Outcome::Ok)), catch_up, at(9_000)),
            Turn::Skip
        );
    }

    #[test]
    fn a_run_is_overdue_after_its_interval_and_the_usual_lateness() {
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
