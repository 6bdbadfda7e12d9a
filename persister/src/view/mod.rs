//! Applies events to MongoDB so that order, repetition and several replicas at once make no
//! difference to the documents.
//!
//! How: `message.created` inserts; every other change of a message is an update guarded by the
//! sequence of its field (`applied.<field>`), which makes a shell of a message that is not there
//! yet; the insert then fills the shell. Counters and read marks are folded per conversation
//! (`conversation.rs`) and written only onto the revision they were read from.

mod contacts;
mod conversations;
mod directory;
mod messages;
mod sla;

pub(crate) use directory::integration_id;

use std::collections::BTreeMap;

use contract::dead_letter::Reason;
use contract::event::{BadEvent, Envelope, Event};
use contract::outcome::Outcome;
use mongodb::Database;
use mongodb::bson::oid::ObjectId;
use secrecy::SecretString;

use crate::latency::Latencies;
use crate::mongo::document::oid;
use crate::mongo::{self, Collections, DatabaseError};

/// A message of the log.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its sequence.
    pub seq: u64,
    /// The sequence by which it is later or earlier than other changes of the same: its own, or,
    /// replayed from a dead letter, that of its first copy. A message's creation, deletion and
    /// being read count by their own: conversations fold by those.
    pub place: u64,
    /// Its subject.
    pub subject: String,
    /// Its payload.
    pub payload: bytes::Bytes,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the view, and this is what the one who caused it is told.
    Applied(Outcome),
    /// It can never be.
    Rejected(Reason, String),
}

const APPLIED: Verdict = Verdict::Applied(Outcome::Applied {
    matched: 1,
    modified: 1,
});

/// Of an event about what another company has: an id is only the caller's word.
fn foreign() -> Verdict {
    Verdict::Rejected(Reason::Malformed, "its id is another company's".into())
}

/// MongoDB as a view of the log.
#[derive(Clone)]
pub struct View {
    database: Database,
    pub(crate) collections: Collections,
    pub(crate) latencies: Latencies,
}

/// An event and its place in the log.
struct At<T> {
    position: usize,
    seq: u64,
    envelope_at: contract::Timestamp,
    event: T,
}

/// A company and what it promises from now on.
type NewTargets = (contract::Id, contract::domain::SlaTargets);

/// The events of a batch by kind, each with its position in the batch.
#[derive(Default)]
struct Sorted {
    created: Vec<
        At<(
            contract::domain::Message,
            Option<contract::event::Idempotency>,
        )>,
    >,
    updated: Vec<At<contract::event::MessageUpdated>>,
    deleted: Vec<At<contract::event::MessageDeleted>>,
    delivery: Vec<At<contract::event::MessageDelivery>>,
    read: Vec<At<(contract::Id, contract::event::MessageRead)>>,
    contacts: Vec<At<Box<contract::domain::Contact>>>,
    contact_edits: Vec<At<Box<contract::event::ContactUpdated>>>,
    resumes: Vec<At<contract::event::ContactBotResumed>>,
    companies: Vec<At<contract::event::CompanyCreated>>,
    users: Vec<At<contract::domain::User>>,
    integrations: Vec<At<directory::IntegrationChange>>,
    refresh_failures: Vec<At<(contract::Id, contract::event::IntegrationRefreshFailed)>>,
    breaches: Vec<At<contract::event::MessageSlaBreached>>,
    targets: Vec<At<NewTargets>>,
    /// The tenant of each event.
    companies_of: BTreeMap<usize, contract::Id>,
}

impl Sorted {
    fn company(&self, position: usize) -> ObjectId {
        self.companies_of
            .get(&position)
            .map(|company| oid(*company))
            .unwrap_or_default()
    }
}

impl View {
    /// Connects lazily.
    ///
    /// # Errors
    /// The URI cannot be used.
    pub async fn open(uri: &SecretString) -> Result<View, DatabaseError> {
        let database = mongo::open(uri).await?;
        let collections = Collections::of(&database);
        Ok(View {
            database,
            collections,
            latencies: Latencies::default(),
        })
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Makes the indexes; [`View::apply`] relies on the unique ones.
    ///
    /// # Errors
    /// MongoDB is away.
    pub async fn create_indexes(&self) -> Result<(), DatabaseError> {
        self.collections.create_indexes().await
    }

    /// Applies a batch, in any order relative to other batches, and says what became of each
    /// message. Everything up to `settled_to` is known to be settled by all replicas; 0 if that is
    /// not known.
    ///
    /// # Errors
    /// MongoDB is away: apply the same batch again later. Part of it may be applied already, which
    /// does no harm. Or it will never take something in this batch: [`View::apply_one_by_one`]
    /// finds out what.
    pub async fn apply(
        &self,
        batch: &[Stored],
        settled_to: u64,
    ) -> Result<Vec<Verdict>, DatabaseError> {
        let mut verdicts = vec![APPLIED; batch.len()];
        let sorted = sort(batch, &mut verdicts);
        self.apply_contacts(&sorted, &mut verdicts).await?;
        self.apply_directory(&sorted, &mut verdicts).await?;
        let mut effects = conversations::Effects::default();
        self.insert_created(&sorted, &mut effects, &mut verdicts)
            .await?;
        // Whoever sees a message delivered finds the attempt that did it.
        self.keep_attempts(&sorted).await?;
        self.update_messages(&sorted, &mut effects, &mut verdicts)
            .await?;
        self.note_breaches(&sorted, &mut verdicts).await?;
        effects.add_reads(&sorted);
        let folded = self.fold(effects, settled_to).await?;
        self.mark_read(&sorted, &folded, &mut verdicts).await?;
        let now = contract::Timestamp::now();
        for c in sorted
            .created
            .iter()
            .filter(|c| verdicts[c.position] == APPLIED)
        {
            self.latencies
                .note(c.event.0.company_id, c.event.0.platform, c.envelope_at, now);
        }
        Ok(verdicts)
    }

    /// Applies each message by itself, so that one that MongoDB will never take is rejected alone
    /// and holds up nobody.
    ///
    /// # Errors
    /// MongoDB is away.
    pub async fn apply_one_by_one(
        &self,
        batch: &[Stored],
        settled_to: u64,
    ) -> Result<Vec<Verdict>, DatabaseError> {
        let mut verdicts = Vec::with_capacity(batch.len());
        for message in batch {
            match self.apply(std::slice::from_ref(message), settled_to).await {
                Ok(mut one) => verdicts.append(&mut one),
                Err(DatabaseError::Refused(why)) => {
                    verdicts.push(Verdict::Rejected(Reason::Failed, why))
                }
                Err(away) => return Err(away),
            }
        }
        Ok(verdicts)
    }
}

fn sort(batch: &[Stored], verdicts: &mut [Verdict]) -> Sorted {
    let mut sorted = Sorted::default();
    for (position, stored) in batch.iter().enumerate() {
        let envelope = match Envelope::from_message(&stored.subject, &stored.payload) {
            Ok(envelope) => envelope,
            Err(e) => {
                let reason = match e {
                    BadEvent::Malformed(_) => Reason::Malformed,
                    BadEvent::Unknown { .. } => Reason::UnknownVersion,
                };
                verdicts[position] = Verdict::Rejected(reason, e.to_string());
                continue;
            }
        };
        sorted.companies_of.insert(position, envelope.company_id);
        let (seq, place) = (stored.seq, stored.place);
        let (envelope_at, company) = (envelope.occurred_at, envelope.company_id);
        macro_rules! push {
            ($list:ident, $event:expr) => {
                push!($list, $event, seq)
            };
            ($list:ident, $event:expr, $seq:ident) => {
                sorted.$list.push(At {
                    position,
                    seq: $seq,
                    envelope_at,
                    event: $event,
                })
            };
        }
        match envelope.event {
            Event::MessageCreated(e) => push!(created, (e, envelope.idempotency)),
            Event::MessageUpdated(e) => push!(updated, e, place),
            Event::MessageDeleted(e) => push!(deleted, e),
            Event::MessageDelivery(e) => push!(delivery, e, place),
            Event::MessageRead(e) => push!(read, (company, e)),
            Event::ContactCreated(e) => push!(contacts, e, place),
            Event::ContactUpdated(e) => push!(contact_edits, e, place),
            Event::CompanyCreated(e) => push!(companies, e),
            Event::UserCreated(e) => push!(users, e),
            Event::IntegrationUpdated(e) => push!(
                integrations,
                directory::IntegrationChange::Entered(e),
                place
            ),
            Event::MessageSlaBreached(e) => push!(breaches, e),
            Event::CompanyUpdated(e) => {
                if let Some(targets) = e.sla {
                    push!(targets, (company, targets), place);
                }
            }
            Event::ContactBotResumed(e) => push!(resumes, e, place),
            Event::IntegrationRefreshFailed(e) => push!(refresh_failures, (company, e), place),
            Event::IntegrationDeleted(e) => push!(
                integrations,
                directory::IntegrationChange::Removed(company, e.provider),
                place
            ),
        }
    }
    sorted
}
