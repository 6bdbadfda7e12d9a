//! The table of jobs: what runs, how often, and the work itself. Knows nothing of ticks and
//! replicas.

mod bot_probe;
mod bot_resume;
pub mod digest;
mod sla;
pub mod tokens;

use std::time::Duration;

use contract::Timestamp;
use runtime::log::publisher::Publisher;
use runtime::net::connection::Connection;
use serde_json::Value;

use crate::config::Config;
use crate::platforms::bot::Bot;
use crate::refresh::queue;

/// Longest run of any job; past it the run is given up as failed.
pub const RUN_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// How soon a job runs that must not wait.
const SOON: Duration = Duration::from_secs(1);

/// A periodic job.
#[derive(Clone, Debug)]
pub struct Job {
    /// A token of a subject and the key in `job-runs`: lower case and dashes. Never ends with
    /// [`crate::ticks::schedule::CATCH_UP`].
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
    /// The Meta bot.
    pub bot: Bot,
    /// Whether there is an app that tokens of Facebook and Instagram can be exchanged with.
    pub refreshes_tokens: bool,
    /// How often Google's tokens are looked for; `None` without a client to renew them with.
    pub refreshes_google: Option<Duration>,
    /// The time.
    pub clock: fn() -> Timestamp,
}

/// What jobs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// See [`tokens::of_meta`].
    RefreshTokens,
    /// See [`tokens::of_google`].
    RefreshGoogleTokens,
    /// See [`bot_probe::probe`].
    ProbeBot,
    /// See [`bot_resume::sweep`].
    ResumeBot,
    /// See [`sla::sweep`].
    SweepSla,
    /// See [`digest::count`].
    DigestDeadLetters,
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
            Work::RefreshTokens => tokens::of_meta(tools).await,
            Work::RefreshGoogleTokens => tokens::of_google(tools).await,
            Work::ProbeBot => bot_probe::probe(tools).await,
            Work::ResumeBot => bot_resume::sweep(tools).await,
            Work::SweepSla => sla::sweep(tools).await,
            Work::DigestDeadLetters => digest::count(tools).await,
        }
    }
}

/// Every job.
pub fn table(config: &Config) -> Vec<Job> {
    let job = |name, interval, work| Job {
        name,
        interval,
        first_delay: SOON,
        work,
    };
    vec![
        Job {
            first_delay: config.token_refresh_first_delay,
            ..job(
                queue::TOKEN_REFRESH,
                config.token_refresh_interval,
                Work::RefreshTokens,
            )
        },
        job(
            queue::GOOGLE_TOKEN_REFRESH,
            config.google_refresh_interval,
            Work::RefreshGoogleTokens,
        ),
        job("bot-probe", config.bot_probe_interval, Work::ProbeBot),
        job("bot-resume", config.bot_resume_interval, Work::ResumeBot),
        job("sla-sweep", config.sla_sweep_interval, Work::SweepSla),
        job(
            "dead-letter-digest",
            config.dead_letter_digest_interval,
            Work::DigestDeadLetters,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::inventory;
    use runtime::service::settings::Settings;

    #[test]
    fn all_ticks_that_wait_fit_in_the_hands_of_schedulers() {
        let jobs = table(&Config::read(&mut Settings::of([]))).len() as i64;
        assert!(jobs * inventory::JOBS_MAX_PER_SUBJECT < inventory::SCHEDULER_MAX_ACK_PENDING);
    }
}
