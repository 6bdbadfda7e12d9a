//! The last run of a scheduler's job, as the bucket `job-runs` keeps it. Runs nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Timestamp;

/// How late a tick may come. The server's own lateness and the election of a leader in a cluster
/// take that long. A later tick counts as missed.
const LATENESS: Duration = Duration::from_secs(10);

/// The outcome of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobOutcome {
    /// The run is under way.
    Running,
    /// The run did its work.
    Ok,
    /// The run was given up. The next tick tries again.
    Failed,
}

/// One run. The key in the bucket is the job's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRun {
    /// The job's name.
    pub job: String,
    /// The tick's sequence in `JOBS`.
    pub tick_seq: u64,
    /// When the server made the tick. Unlike the sequence, this time goes on growing if the stream
    /// is ever made anew.
    pub tick_at: Timestamp,
    /// When the run began, by the server's clock. While the run is under way this is the replica's
    /// clock; the server's is then the time at which the bucket stored the entry.
    pub started_at: Timestamp,
    /// When the run ended; `None` while it is under way.
    pub finished_at: Option<Timestamp>,
    /// How the run ended, or that it has not.
    pub outcome: JobOutcome,
    /// What the run did, or why it failed: an object of the job.
    pub detail: Value,
    /// The instance of the scheduler that ran the job.
    pub instance: String,
    /// About when the next run is due.
    pub next_at: Timestamp,
}

/// Whether a job missed a tick, if the job runs every `interval` and has not run since
/// `last_began`.
pub fn is_overdue(last_began: Timestamp, interval: Duration, now: Timestamp) -> bool {
    now.since(last_began) > interval.saturating_add(LATENESS)
}
