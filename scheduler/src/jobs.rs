//! The table of jobs: what runs, how often, and the work itself. Knows nothing of ticks and replicas.

mod sla;

use std::time::Duration;

use nats::Timestamp;
use nats::runtime::connection::Connection;
use nats::runtime::publish::Publisher;
use serde_json::{Value, json};

use crate::Config;

/// Longest run of any job; past it the run is given up as failed.
pub const RUN_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// How soon a job runs that must not wait.
const SOON: Duration = Duration::from_secs(1);

/// A periodic job.
#[derive(Clone, Debug)]
pub struct Job {
    /// A token of a subject and the key in `job-runs`: lower case and dashes. Never ends with [`crate::schedule::CATCH_UP`].
    pub name: &'static str,
    /// From one run to the next, whole seconds.
    pub interval: Duration,
    /// How soon it runs where a run is due: at the very first start, or after ticks were missed.
    pub first_delay: Duration,
    /// What it does.
    pub work: Work,
}

/// What jobs work with. Cloning is cheap.
#[derive(Clone)]
pub struct Tools {
    /// For queries, streams and buckets.
    pub connection: Connection,
    /// For events.
    pub publisher: Publisher,
    /// The time.
    pub clock: fn() -> Timestamp,
}

/// What jobs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// See [`refresh_tokens`].
    RefreshTokens,
    /// See [`sla::sweep`].
    SweepSla,
}

/// Why a run failed; short text for staff.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct JobError(pub String);

impl Work {
    /// Does it. A run may be cut off at any await, and be repeated by another replica.
    ///
    /// # Errors
    /// The run failed; the next tick tries again.
    pub async fn run(self, tools: &Tools) -> Result<Value, JobError> {
        match self {
            Work::RefreshTokens => refresh_tokens(tools).await,
            Work::SweepSla => sla::sweep(tools).await,
        }
    }
}

/// Every job.
pub fn table(config: &Config) -> Vec<Job> {
    vec![
        Job {
            name: "token-refresh",
            interval: config.token_refresh_interval,
            first_delay: config.token_refresh_first_delay,
            work: Work::RefreshTokens,
        },
        Job { name: "sla-sweep", interval: config.sla_sweep_interval, first_delay: SOON, work: Work::SweepSla },
    ]
}

/// Renews the companies' Facebook tokens that are about to expire. No company can connect Facebook before integrations
/// exist, so none is due; finding and exchanging tokens comes with them.
async fn refresh_tokens(_tools: &Tools) -> Result<Value, JobError> {
    Ok(json!({"due": 0}))
}
