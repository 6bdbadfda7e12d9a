//! A batch of the log: its messages, sorted into events by kind, and what became of each. Writes
//! nothing.

use contract::dead_letter::Reason;
use contract::domain::{Contact, Integration, Message, Provider, SlaTargets, User};
use contract::event::{
    BadEvent, CompanyCreated, ContactBotResumed, ContactUpdated, Envelope, Event, Idempotency,
    IntegrationRefreshFailed, MessageDeleted, MessageDelivery, MessageRead, MessageSlaBreached,
    MessageUpdated,
};
use contract::outcome::Outcome;
use contract::{Id, Timestamp};
use mongodb::bson::oid::ObjectId;

use crate::mongo::document::oid;

/// A message of the log.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The message's sequence in the stream.
    pub seq: u64,
    /// The sequence that orders this change among other changes of the same field. It is `seq`, or
    /// for a message that was replayed from a dead letter the sequence of its first copy. A
    /// message's creation, its deletion and read marks are ordered by `seq` instead, because
    /// conversations fold by `seq`.
    pub log_position: u64,
    /// The message's subject.
    pub subject: String,
    /// The message's payload.
    pub payload: bytes::Bytes,
}

/// What became of a message of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The event is in the view. The caller that published the event is told the outcome.
    Applied(Outcome),
    /// The event can never be in the view.
    Rejected(Reason, String),
}

pub const APPLIED: Verdict = Verdict::Applied(Outcome::Applied {
    matched: 1,
    modified: 1,
});

/// The verdict for an event about an entity of another company. An id in an event is only the
/// caller's claim.
pub fn wrong_tenant() -> Verdict {
    Verdict::Rejected(Reason::Malformed, "its id is another company's".into())
}

/// An event with its positions in the batch and in the log.
pub struct Positioned<T> {
    /// The index in the batch.
    pub position: usize,
    pub seq: u64,
    pub occurred_at: Timestamp,
    company: Id,
    pub event: T,
}

impl<T> Positioned<T> {
    pub fn company(&self) -> ObjectId {
        oid(self.company)
    }

    pub fn company_id(&self) -> Id {
        self.company
    }

    /// An event at a fixed time.
    #[cfg(test)]
    pub fn at(position: usize, seq: u64, company: Id, event: T) -> Positioned<T> {
        let occurred_at = Timestamp::from_millis(5);
        let origin = Origin {
            position,
            seq,
            occurred_at,
            company,
        };
        origin.of(event)
    }
}

/// Everything of a [`Positioned`] event but the event.
#[derive(Clone, Copy)]
struct Origin {
    position: usize,
    seq: u64,
    occurred_at: Timestamp,
    company: Id,
}

impl Origin {
    fn of<T>(self, event: T) -> Positioned<T> {
        let Origin {
            position,
            seq,
            occurred_at,
            company,
        } = self;
        Positioned {
            position,
            seq,
            occurred_at,
            company,
            event,
        }
    }
}

/// A change of a company's access to a platform.
pub enum IntegrationChange {
    /// The access was entered or replaced.
    Entered(Integration),
    Removed(Provider),
}

/// The events of a batch by kind.
#[derive(Default)]
pub struct EventsByKind {
    pub created: Vec<Positioned<(Message, Option<Idempotency>)>>,
    pub updated: Vec<Positioned<MessageUpdated>>,
    pub deleted: Vec<Positioned<MessageDeleted>>,
    pub delivery: Vec<Positioned<MessageDelivery>>,
    pub read: Vec<Positioned<MessageRead>>,
    pub contacts: Vec<Positioned<Box<Contact>>>,
    pub contact_edits: Vec<Positioned<Box<ContactUpdated>>>,
    pub resumes: Vec<Positioned<ContactBotResumed>>,
    pub companies: Vec<Positioned<CompanyCreated>>,
    pub users: Vec<Positioned<User>>,
    pub integrations: Vec<Positioned<IntegrationChange>>,
    pub refresh_failures: Vec<Positioned<IntegrationRefreshFailed>>,
    pub breaches: Vec<Positioned<MessageSlaBreached>>,
    pub targets: Vec<Positioned<SlaTargets>>,
}

impl EventsByKind {
    /// Sorts a batch. A message that is no event of this build is rejected in `verdicts`.
    pub fn of(batch: &[Stored], verdicts: &mut [Verdict]) -> EventsByKind {
        let mut events = EventsByKind::default();
        for (position, stored) in batch.iter().enumerate() {
            match Envelope::from_message(&stored.subject, &stored.payload) {
                Ok(envelope) => events.add(position, stored, envelope),
                Err(e) => {
                    let reason = match e {
                        BadEvent::Malformed(_) => Reason::Malformed,
                        BadEvent::Unknown { .. } => Reason::UnknownVersion,
                    };
                    verdicts[position] = Verdict::Rejected(reason, e.to_string());
                }
            }
        }
        events
    }

    fn add(&mut self, position: usize, stored: &Stored, envelope: Envelope) {
        let by_seq = Origin {
            position,
            seq: stored.seq,
            occurred_at: envelope.occurred_at,
            company: envelope.company_id,
        };
        let by_log_position = Origin {
            seq: stored.log_position,
            ..by_seq
        };
        match envelope.event {
            Event::MessageCreated(e) => self.created.push(by_seq.of((e, envelope.idempotency))),
            Event::MessageUpdated(e) => self.updated.push(by_log_position.of(e)),
            Event::MessageDeleted(e) => self.deleted.push(by_seq.of(e)),
            Event::MessageDelivery(e) => self.delivery.push(by_log_position.of(e)),
            Event::MessageRead(e) => self.read.push(by_seq.of(e)),
            Event::MessageSlaBreached(e) => self.breaches.push(by_seq.of(e)),
            Event::ContactCreated(e) => self.contacts.push(by_log_position.of(e)),
            Event::ContactUpdated(e) => self.contact_edits.push(by_log_position.of(e)),
            Event::ContactBotResumed(e) => self.resumes.push(by_log_position.of(e)),
            Event::CompanyCreated(e) => self.companies.push(by_seq.of(e)),
            Event::CompanyUpdated(e) => self
                .targets
                .extend(e.sla.map(|targets| by_log_position.of(targets))),
            Event::UserCreated(e) => self.users.push(by_seq.of(e)),
            Event::IntegrationUpdated(e) => self
                .integrations
                .push(by_log_position.of(IntegrationChange::Entered(e))),
            Event::IntegrationDeleted(e) => self
                .integrations
                .push(by_log_position.of(IntegrationChange::Removed(e.provider))),
            Event::IntegrationRefreshFailed(e) => {
                self.refresh_failures.push(by_log_position.of(e));
            }
        }
    }
}
