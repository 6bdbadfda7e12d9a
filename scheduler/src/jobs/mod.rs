//! The table of jobs: what runs, how often, and the work itself. Knows nothing of ticks and
//! replicas.

mod bot_probe;
mod bot_resume;
pub mod digest;
mod sla;
pub mod tokens;
pub mod tools;

use std::time::Duration;

use serde_json::Value;

use crate::config::Config;
use crate::jobs::tools::{JobError, Tools};
use crate::refresh::queue;

/// How long a run of any job may take. After that the run ends as failed.
pub const RUN_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// The first delay of a job that has no setting for it.
const SOON: Duration = Duration::from_secs(1);

/// A periodic job.
#[derive(Clone, Debug)]
pub struct Job {
    /// A token of a subject and the key in `job-runs`: lower case and dashes. The name must not end
    /// with `-first`, the ending of schedules that make up for a missed tick.
    pub name: &'static str,
    /// The time from one run to the next, in whole seconds.
    pub interval: Duration,
    /// The delay of a run that is already due: at the first start ever, or after missed ticks.
    pub first_delay: Duration,
    pub kind: JobKind,
}

/// The work of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    RefreshTokens,
    RefreshGoogleTokens,
    ProbeBot,
    ResumeBot,
    SweepSla,
    DigestDeadLetters,
}

impl JobKind {
    /// Runs the job once. A run may be cancelled at any await and repeated by another replica.
    ///
    /// # Errors
    /// The run failed. The next tick tries again.
    pub async fn run(self, tools: &Tools) -> Result<Value, JobError> {
        match self {
            JobKind::RefreshTokens => tokens::of_meta(tools).await,
            JobKind::RefreshGoogleTokens => tokens::of_google(tools).await,
            JobKind::ProbeBot => bot_probe::probe(tools).await,
            JobKind::ResumeBot => bot_resume::sweep(tools).await,
            JobKind::SweepSla => sla::sweep(tools).await,
            JobKind::DigestDeadLetters => digest::count(tools).await,
        }
    }
}

/// Every job with its settings.
pub fn table(config: &Config) -> Vec<Job> {
    let job = |name, interval, kind| Job {
        name,
        interval,
        first_delay: SOON,
        kind,
    };
    vec![
        Job {
            first_delay: config.token_refresh_first_delay,
            ..job(
                queue::TOKEN_REFRESH,
                config.token_refresh_interval,
                JobKind::RefreshTokens,
            )
        },
        job(
            queue::GOOGLE_TOKEN_REFRESH,
            config.google_refresh_interval,
            JobKind::RefreshGoogleTokens,
        ),
        job("bot-probe", config.bot_probe_interval, JobKind::ProbeBot),
        job("bot-resume", config.bot_resume_interval, JobKind::ResumeBot),
        job("sla-sweep", config.sla_sweep_interval, JobKind::SweepSla),
        job(
            "dead-letter-digest",
            config.dead_letter_digest_interval,
            JobKind::DigestDeadLetters,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::inventory;
    use runtime::service::settings::Settings;

    #[test]
    fn all_waiting_ticks_can_be_delivered_at_once() {
        let jobs = table(&Config::read(&mut Settings::of([]))).len() as i64;
        assert!(jobs * inventory::JOBS_MAX_PER_SUBJECT < inventory::SCHEDULER_MAX_ACK_PENDING);
    }
}
