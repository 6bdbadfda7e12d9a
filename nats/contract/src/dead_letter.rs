//! Dead letters: why a message cannot be processed, what its subject says, and what became of the
//! message since. Pure data; the crate `runtime` stores, reads and replays dead letters.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Id, Timestamp};

/// Why a message could not be processed, as `Dead-Reason` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = DeadLetterReason, rename_all = "snake_case"))]
pub enum Reason {
    /// The payload is not an envelope of the contract, or contradicts its subject.
    Malformed,
    /// The event has a type or version that this build does not know.
    UnknownVersion,
    /// Another message of the platform has the same `external_message_id`.
    DuplicateKey,
    /// The contact of the message, or another thing that the message needs, does not exist.
    MissingData,
    /// No forwarder carries messages of this platform.
    UnknownPlatform,
    /// The other side refused the message for good (4xx).
    Refused,
    /// The message was retried until its deadline.
    Expired,
    /// The message failed in a way that no retry mends.
    Failed,
}

impl Reason {
    /// Every reason, in the order of the enum.
    pub const ALL: &[Reason] = &[
        Reason::Malformed,
        Reason::UnknownVersion,
        Reason::DuplicateKey,
        Reason::MissingData,
        Reason::UnknownPlatform,
        Reason::Refused,
        Reason::Expired,
        Reason::Failed,
    ];

    /// The value of the header `Dead-Reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::UnknownVersion => "unknown_version",
            Reason::DuplicateKey => "duplicate_key",
            Reason::MissingData => "missing_data",
            Reason::UnknownPlatform => "unknown_platform",
            Reason::Refused => "refused",
            Reason::Expired => "expired",
            Reason::Failed => "failed",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Reason, UnknownReason> {
        Reason::ALL
            .iter()
            .copied()
            .find(|reason| reason.as_str() == text)
            .ok_or(UnknownReason)
    }
}

/// The text is not one of [`Reason::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {}", Reason::ALL.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(", "))]
pub struct UnknownReason;

/// What has become of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = DeadLetterState))]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing has become of the dead letter yet. It has no entry in the bucket.
    Open,
    /// A replay was begun. Asking for the replay again completes it.
    Replaying,
    /// The message is in its stream again.
    Replayed,
    /// The dead letter is not to be replayed.
    Discarded,
}

impl State {
    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Replaying => "replaying",
            State::Replayed => "replayed",
            State::Discarded => "discarded",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of a dead letter: the bucket `dead-letters` has it by the letter's sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = DeadLetterFate))]
pub struct Resolution {
    /// Never [`State::Open`].
    pub state: State,
    /// Who decided it: `user:<id>`, or `operator`.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why it was discarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where the replayed message is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_to: Option<StreamPosition>,
}

/// A message's place in a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = StreamPlace))]
pub struct StreamPosition {
    /// The stream.
    pub stream: String,
    /// Its sequence there.
    pub seq: u64,
}

/// Whom a message is about, as far as its original subject says that, and what a company may do
/// with its dead letter. Says nothing about the caller who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubjectInfo {
    /// The tenant. A dead letter without one is for operators only.
    pub company: Option<Id>,
    /// The conversation.
    pub contact: Option<Id>,
    /// The payload holds only the company's own words. Managers see no other payload, because it
    /// may hold password hashes and sealed tokens.
    pub is_plain: bool,
    /// A manager may have the message replayed: the message awaits delivery, or gateways store
    /// events of this kind anyway. Messages that only other services store are for operators to
    /// replay.
    pub is_replayable: bool,
}

impl SubjectInfo {
    /// Reads a subject, also one of a later or earlier build, because only the tokens count.
    pub fn of(subject: &str) -> SubjectInfo {
        let tokens: Vec<&str> = subject.split('.').collect();
        let id = |text: &str| text.parse::<Id>().ok();
        match tokens.as_slice() {
            ["outbound", _, company, contact, _] => SubjectInfo {
                company: id(company),
                contact: id(contact),
                is_plain: true,
                is_replayable: true,
            },
            ["jobs", "work", _, company, _] => SubjectInfo {
                company: id(company),
                ..SubjectInfo::default()
            },
            [entity, event, company, aggregate, rest @ ..] => {
                let is_plain = matches!(*entity, "message" | "contact");
                let is_replayable = matches!(
                    (*entity, *event, rest.len()),
                    ("message", "created", 3)
                        | ("message", "updated" | "deleted" | "read", 0)
                        | ("contact" | "company", "created" | "updated", 0)
                        | ("user", "created", 0)
                        | ("integration", "updated" | "deleted", 0)
                );
                let contact = if is_plain { id(aggregate) } else { None };
                SubjectInfo {
                    company: id(company),
                    contact,
                    is_plain,
                    is_replayable,
                }
            }
            _ => SubjectInfo::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPANY: &str = "aaaaaaaaaaaaaaaaaaaaaaaa";
    const CONTACT: &str = "bbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn a_reason_is_read_as_it_is_written() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
        }
        assert_eq!("Refused".parse::<Reason>(), Err(UnknownReason));
    }

    #[test]
    fn the_subject_tells_the_company_and_what_its_managers_may_do() {
        // Subject, knows the company, knows the contact, shows its payload, may be replayed.
        for (subject, company, contact, is_plain, is_replayable) in [
            (
                format!("outbound.3.{COMPANY}.{CONTACT}.facebook"),
                true,
                true,
                true,
                true,
            ),
            (
                format!("outbound.3.{COMPANY}.{CONTACT}.myspace"),
                true,
                true,
                true,
                true,
            ),
            (
                format!("message.created.{COMPANY}.{CONTACT}.web.inbound.user"),
                true,
                true,
                true,
                true,
            ),
            (
                format!("message.created.{COMPANY}.{CONTACT}"),
                true,
                true,
                true,
                false,
            ),
            (
                format!("message.delivery.{COMPANY}.{CONTACT}"),
                true,
                true,
                true,
                false,
            ),
            (
                format!("contact.updated.{COMPANY}.{CONTACT}"),
                true,
                true,
                true,
                true,
            ),
            (
                format!("user.created.{COMPANY}.{CONTACT}"),
                true,
                false,
                false,
                true,
            ),
            (
                format!("company.created.{COMPANY}.{COMPANY}"),
                true,
                false,
                false,
                true,
            ),
            (
                format!("integration.updated.{COMPANY}.facebook"),
                true,
                false,
                false,
                true,
            ),
            (
                format!("integration.refresh_failed.{COMPANY}.facebook"),
                true,
                false,
                false,
                false,
            ),
            (
                format!("jobs.work.token-refresh.{COMPANY}.facebook"),
                true,
                false,
                false,
                false,
            ),
            ("jobs.tick.sla".to_owned(), false, false, false, false),
            (
                "message.created.x.y.web.inbound.user".to_owned(),
                false,
                false,
                true,
                true,
            ),
            (String::new(), false, false, false, false),
        ] {
            let about = SubjectInfo::of(&subject);
            assert_eq!(
                (about.company.is_some(), about.contact.is_some()),
                (company, contact),
                "{subject}"
            );
            assert_eq!(
                (about.is_plain, about.is_replayable),
                (is_plain, is_replayable),
                "{subject}"
            );
        }
    }
}
