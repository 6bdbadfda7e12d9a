//! Subjects as types and functions: the only place where a subject is spelt. An event's subject is
//! `<entity>.<event>.<company>.<aggregate>[.<facets>]`. Because the company is a token, a tenant is
//! a subscription filter. Publishes nothing.

use std::fmt;
use std::str::FromStr;

use crate::Id;
use crate::domain::{Platform, Provider};

mod event;

pub use event::{BadSubject, EventSubject, Facets};

/// The filters of the stream `EVENTS`.
pub const EVENTS: &[&str] = &[
    "message.>",
    "contact.>",
    "company.>",
    "user.>",
    "integration.>",
];
/// The filter of the events that the server republishes.
pub const LIVE_SOURCE: &str = ">";
/// The subjects to which the server republishes events. Which of them a service may hear is a
/// matter of its NATS user.
pub const LIVE_DESTINATION: &str = "live.>";
/// The filter of the stream `OUTBOUND`.
pub const OUTBOUND: &str = "outbound.>";
/// The filter of the stream `DEAD`.
pub const DEAD: &str = "dead.>";
/// The filters of the stream `JOBS`: schedules, the ticks that they make, and tasks.
pub const JOBS: &[&str] = &["jobs.schedule.*", "jobs.tick.*", "jobs.work.*.*.*"];
/// The filter of the ticks.
pub const JOB_TICKS: &str = "jobs.tick.*";
/// The filter of the tasks that jobs have enqueued.
pub const JOB_WORK: &str = "jobs.work.>";

/// `live.<subject>`: the subject to which a stored event is republished.
pub fn live(subject: EventSubject) -> String {
    format!("live.{subject}")
}

/// The subject of the live delivery steps of a conversation.
pub fn live_delivery(company: Id, contact: Id) -> String {
    live(EventSubject::MessageDelivery { company, contact })
}

/// The filter of every event about a company's access to a platform.
pub fn integration_of(company: Id, provider: Provider) -> String {
    format!("integration.*.{company}.{provider}")
}

/// The subject of the stored event whose live subject is given; `None` if it is not live.
pub fn from_live(subject: &str) -> Option<&str> {
    subject.strip_prefix("live.")
}

/// The filter of all live events about messages of a company.
pub fn live_of_company(company: Id) -> String {
    format!("live.message.*.{company}.>")
}

/// The filter of all live failures to renew a token of a company.
pub fn live_refresh_failed_of_company(company: Id) -> String {
    format!("live.integration.refresh_failed.{company}.*")
}

/// The filter of everything that `EVENTS` stores of a company.
pub fn of_company(company: Id) -> String {
    format!("*.*.{company}.>")
}

/// `outbound.<partition>.<company>.<contact>.<platform>`: a message that awaits the forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// 0 to [`PARTITIONS`] - 1, by company and contact.
    pub partition: u32,
    /// The tenant.
    pub company: Id,
    /// The conversation.
    pub contact: Id,
    /// The platform that the message goes to.
    pub platform: Platform,
}

/// The partitions among which the conversations of `OUTBOUND` are divided.
pub const PARTITIONS: u32 = 16;

impl Outbound {
    /// The subject of a conversation's message on a platform. The partition is the one that the
    /// server's own `{{partition(16,1,2)}}` computes of company and contact: FNV-1a.
    pub fn of(company: Id, contact: Id, platform: Platform) -> Outbound {
        let (company_text, contact_text) = (company.to_string(), contact.to_string());
        let bytes = company_text.bytes().chain(contact_text.bytes());
        let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        Outbound {
            partition: hash % PARTITIONS,
            company,
            contact,
            platform,
        }
    }
}

/// The filters of the events of `EVENTS` that await the forwarder, one for each forwardable
/// platform.
pub fn forwardable() -> Vec<String> {
    let forwardable = Platform::ALL.iter().filter(|p| p.is_forwardable());
    forwardable
        .map(|platform| format!("message.created.*.*.{platform}.outbound.operator"))
        .collect()
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

/// The filter of `message.created` of a company, or of all.
pub fn created_of(company: Option<Id>) -> String {
    company.map_or("message.created.>".to_owned(), |company| {
        format!("message.created.{company}.>")
    })
}

/// The filter of the delivery steps of a company, or of all.
pub fn deliveries_of(company: Option<Id>) -> String {
    company.map_or("message.delivery.>".to_owned(), |company| {
        format!("message.delivery.{company}.>")
    })
}

/// The filter of the messages of a company, or of all, that await the forwarder.
pub fn outbound_of(company: Option<Id>) -> String {
    company.map_or(OUTBOUND.to_owned(), |company| {
        format!("outbound.*.{company}.>")
    })
}

/// The filter of the messages of one partition of `OUTBOUND`.
pub fn outbound_of_partition(partition: u32) -> String {
    format!("outbound.{partition}.>")
}

/// `dead.<service>.<original subject>`: a dead letter of a service.
pub fn dead(service: &str, original: &str) -> String {
    format!("dead.{service}.{original}")
}

/// The service and the original subject of a dead letter; `None` for another subject.
pub fn from_dead(subject: &str) -> Option<(&str, &str)> {
    subject.strip_prefix("dead.")?.split_once('.')
}

/// The filters of dead letters, of one service or of all, of one company or of all. No dead letter
/// matches two of them. A company needs two filters, because the company's token stands one place
/// further in the subjects of tasks than in those of `EVENTS` and `OUTBOUND`. A dead letter whose
/// subject names no company matches only the filter of all.
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

/// `$KV.<bucket>.<key>`: the subject of a bucket's entry. `key` may be a filter.
pub fn entry(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

/// `jobs.work.<job>.<company>.<provider>`: a task that a job has enqueued.
pub fn job_work(job: &str, company: Id, provider: Provider) -> String {
    format!("jobs.work.{job}.{company}.{provider}")
}

/// The job, the company and the provider of a task; `None` for another subject.
pub fn from_job_work(subject: &str) -> Option<(&str, Id, Provider)> {
    let (job, rest) = subject.strip_prefix("jobs.work.")?.split_once('.')?;
    let (company, provider) = rest.split_once('.')?;
    Some((job, company.parse().ok()?, provider.parse().ok()?))
}

/// The filter of all schedules.
pub const JOB_SCHEDULES: &str = "jobs.schedule.*";

/// `jobs.schedule.<name>`: a schedule. The server keeps one for each subject.
pub fn job_schedule(name: &str) -> String {
    format!("jobs.schedule.{name}")
}

/// `jobs.tick.<job>`: the tick that a schedule makes when it is due.
pub fn job_tick(job: &str) -> String {
    format!("jobs.tick.{job}")
}

/// The name of a schedule, which is the job's except for one-shot schedules; `None` for another
/// subject.
pub fn job_of_schedule(subject: &str) -> Option<&str> {
    subject.strip_prefix("jobs.schedule.")
}

/// The job of a tick; `None` for another subject.
pub fn job_of_tick(subject: &str) -> Option<&str> {
    subject.strip_prefix("jobs.tick.")
}

/// `typing.<company>.<conversation>`: somebody types in a conversation.
pub fn typing(company: Id, conversation: Id) -> String {
    format!("typing.{company}.{conversation}")
}

/// The filter of typing in all conversations of a company.
pub fn typing_of_company(company: Id) -> String {
    format!("typing.{company}.*")
}

/// `presence.<company>`: each realtime node tells the others which users of a company are
/// connected.
pub fn presence_of_company(company: Id) -> String {
    format!("presence.{company}")
}

/// `outcome.<service>.<instance>.<call>`: the subject at which a process waits for the persister's
/// answer to one command.
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
