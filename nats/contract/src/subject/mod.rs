//! Subjects as types. The only place where a subject is spelt; everything else prints and parses
//! through here. `<entity>.<event>.<company>.<aggregate>[.<facets>]`: the company is a token, so a
//! tenant is a subscription filter.

use std::fmt;
use std::str::FromStr;

use crate::Id;
use crate::domain::{Platform, Provider};

mod event;

pub use event::{BadSubject, EventSubject, Facets};

/// What `EVENTS` stores.
pub const EVENTS: &[&str] = &[
    "message.>",
    "contact.>",
    "company.>",
    "user.>",
    "integration.>",
];
/// What the server republishes, …
pub const LIVE_SOURCE: &str = ">";
/// … and where to. Which of it a service may hear is a matter of its NATS user.
pub const LIVE_DESTINATION: &str = "live.>";
/// What `OUTBOUND` holds.
pub const OUTBOUND: &str = "outbound.>";
/// What `DEAD` holds.
pub const DEAD: &str = "dead.>";
/// What `JOBS` holds: schedules and the ticks that they make.
pub const JOBS: &[&str] = &["jobs.schedule.*", "jobs.tick.*", "jobs.work.*.*.*"];
/// The ticks, which a scheduler consumes.
pub const JOB_TICKS: &str = "jobs.tick.*";
/// The single pieces of work that a job has handed out, which a scheduler consumes too.
pub const JOB_WORK: &str = "jobs.work.>";

/// `live.` and the subject: where a stored message is republished.
pub fn live(subject: EventSubject) -> String {
    format!("live.{subject}")
}

/// The live delivery steps of a conversation.
pub fn live_delivery(company: Id, contact: Id) -> String {
    live(EventSubject::MessageDelivery { company, contact })
}

/// Every event about a company's access to a platform, as a filter.
pub fn integration_of(company: Id, provider: Provider) -> String {
    format!("integration.*.{company}.{provider}")
}

/// The stored subject of a live one.
pub fn from_live(subject: &str) -> Option<&str> {
    subject.strip_prefix("live.")
}

/// All live messages of a company.
pub fn live_of_company(company: Id) -> String {
    format!("live.message.*.{company}.>")
}

/// All live failures to renew a company's tokens.
pub fn live_refresh_failed_of_company(company: Id) -> String {
    format!("live.integration.refresh_failed.{company}.*")
}

/// Everything that `EVENTS` stores of a company.
pub fn of_company(company: Id) -> String {
    format!("*.*.{company}.>")
}

/// `outbound.<partition>.<company>.<contact>.<platform>`: awaits the forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// 0 to [`PARTITIONS`] - 1, by company and contact.
    pub partition: u32,
    /// The tenant.
    pub company: Id,
    /// The conversation.
    pub contact: Id,
    /// Where to.
    pub platform: Platform,
}

/// How many partitions share out the conversations of `OUTBOUND`.
pub const PARTITIONS: u32 = 16;

impl Outbound {
    /// The server's subject transforms from `EVENTS`, one a forwardable platform: `(source,
    /// destination)`.
    pub fn transforms() -> Vec<(String, String)> {
        let forwardable = Platform::ALL.iter().filter(|p| p.is_forwardable());
        forwardable
            .map(|platform| {
                let source = format!("message.created.*.*.{platform}.outbound.operator");
                (source, format!("outbound.{{{{partition({PARTITIONS},1,2)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.{platform}"))
            })
            .collect()
    }
}

impl fmt::Display for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outbound {
            partition,
            company,
            contact,
            platform,
        } = self;
        write!(f, "outbound.{partition}.{company}.{contact}.{platform}")
    }
}

impl FromStr for Outbound {
    type Err = BadSubject;

    fn from_str(text: &str) -> Result<Outbound, BadSubject> {
        let bad = || BadSubject(text.to_owned());
        let tokens: Vec<&str> = text.split('.').collect();
        let ["outbound", partition, company, contact, platform] = tokens.as_slice() else {
            return Err(bad());
        };
        let partition = partition
            .parse()
            .ok()
            .filter(|p: &u32| *p < PARTITIONS && p.to_string() == *partition)
            .ok_or_else(bad)?;
        Ok(Outbound {
            partition,
            company: company.parse().map_err(|_| bad())?,
            contact: contact.parse().map_err(|_| bad())?,
            platform: platform.parse().map_err(|_| bad())?,
        })
    }
}

/// `message.created` of a company, or of all.
pub fn created_of(company: Option<Id>) -> String {
    company.map_or("message.created.>".to_owned(), |company| {
        format!("message.created.{company}.>")
    })
}

/// What of a company awaits the forwarder, or of all.
pub fn outbound_of(company: Option<Id>) -> String {
    company.map_or(OUTBOUND.to_owned(), |company| {
        format!("outbound.*.{company}.>")
    })
}

/// The messages of one partition of `OUTBOUND`, which one forwarder takes.
pub fn outbound_of_partition(partition: u32) -> String {
    format!("outbound.{partition}.>")
}

/// `dead.<service>.<original subject>`.
pub fn dead(service: &str, original: &str) -> String {
    format!("dead.{service}.{original}")
}

/// Service and original subject of a dead letter.
pub fn from_dead(subject: &str) -> Option<(&str, &str)> {
    subject.strip_prefix("dead.")?.split_once('.')
}

/// Filters of dead letters: of one service or of all, of one company or of all. No letter matches
/// two of them. What concerns one company stands in `OUTBOUND` and in `EVENTS` at the same place of
/// the subject; the work of jobs has it one further. One whose subject names no company is for
/// operators only.
pub fn dead_letters(service: Option<&str>, company: Option<Id>) -> Vec<String> {
    let service = service.unwrap_or("*");
    match company {
        None => vec![format!("dead.{service}.>")],
        Some(company) => vec![
            format!("dead.{service}.*.*.{company}.>"),
            format!("dead.{service}.jobs.work.*.{company}.*"),
        ],
    }
}

/// `$KV.<bucket>.<key>`: the subject of a bucket's entry, also as a filter.
pub fn entry(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

/// `jobs.work.<job>.<company>.<provider>`: one piece of a job's work, with retries of its own.
pub fn job_work(job: &str, company: Id, provider: Provider) -> String {
    format!("jobs.work.{job}.{company}.{provider}")
}

/// Job, company and provider of a piece of work.
pub fn from_job_work(subject: &str) -> Option<(&str, Id, Provider)> {
    let (job, rest) = subject.strip_prefix("jobs.work.")?.split_once('.')?;
    let (company, provider) = rest.split_once('.')?;
    Some((job, company.parse().ok()?, provider.parse().ok()?))
}

/// Every job's schedule.
pub const JOB_SCHEDULES: &str = "jobs.schedule.*";

/// `jobs.schedule.<name>`: holds a job's schedule. The server keeps one a subject.
pub fn job_schedule(name: &str) -> String {
    format!("jobs.schedule.{name}")
}

/// `jobs.tick.<job>`: what the schedule makes when it is due.
pub fn job_tick(job: &str) -> String {
    format!("jobs.tick.{job}")
}

/// The job of a schedule. A one-shot schedule of the job has a name of its own.
pub fn job_of_schedule(subject: &str) -> Option<&str> {
    subject.strip_prefix("jobs.schedule.")
}

/// The job of a tick.
pub fn job_of_tick(subject: &str) -> Option<&str> {
    subject.strip_prefix("jobs.tick.")
}

/// `typing.<company>.<conversation>`.
pub fn typing(company: Id, conversation: Id) -> String {
    format!("typing.{company}.{conversation}")
}

/// Typing in any conversation of a company.
pub fn typing_of_company(company: Id) -> String {
    format!("typing.{company}.*")
}

/// `presence.<company>`: who of a company is connected, as each realtime node tells the others.
pub fn presence_of_company(company: Id) -> String {
    format!("presence.{company}")
}

/// `outcome.<service>.<instance>.<call>`: where one process waits for the persister's answers.
pub fn outcome(service: &str, instance: &str, call: &str) -> String {
    format!("outcome.{service}.{instance}.{call}")
}

/// `members.<service>`: the replicas of a service tell each other that they are there.
pub fn members(service: &str) -> String {
    format!("members.{service}")
}

/// `health.<service>`: each replica's health, for `nats req`.
pub fn health(service: &str) -> String {
    format!("health.{service}")
}

#[cfg(test)]
mod tests;
