//! The last run of a scheduler's job, as the bucket `job-runs` keeps it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Timestamp;

/// A tick comes up to this much late: the server's own lateness, and a new leader in a cluster.
/// Only then it counts as missed.
const LATENESS: Duration = Duration::from_secs(10);

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobOutcome {
    /// Under way.
    Running,
    /// Done.
    Ok,
    /// Given up; the next tick tries again.
    Failed,
}

/// One run. Its key in the bucket is the job's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRun {
    /// The job's name, also the key.
    pub job: String,
    /// The tick's sequence in `JOBS`.
    pub tick_seq: u64,
    /// When the server made the tick. Unlike the sequence it goes on growing if the stream is ever
    /// made anew.
    pub tick_at: Timestamp,
    /// When the run began, by the server's clock as `tick_at` is. While it is under way, by the
    /// clock of its replica: then the entry's own time is the server's.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How.
    pub outcome: JobOutcome,
    /// What it did, or why it failed.
    pub detail: Value,
    /// The replica that ran it.
    pub instance: String,
    /// About when the next one is due.
    pub next_at: Timestamp,
}

/// Whether a tick of a job that runs every `interval` was missed: it has not run since
/// `last_began`.
pub fn is_overdue(last_began: Timestamp, interval: Duration, now: Timestamp) -> bool {
    now.since(last_began) > interval.saturating_add(LATENESS)
}
