//! Applies events to MongoDB so that order, repetition and several replicas at once make no
//! difference to the documents.
//!
//! `message.created` inserts. Every other change of a message is an update that is guarded by the
//! sequence of its field (`applied.<field>`). An update of a message that is not there yet makes a
//! placeholder, which the insert fills later. Counters and read marks are folded per conversation
//! (`fold::conversation`) and written only onto the revision from which they were read.

mod contacts;
mod conversations;
mod directory;
mod events_by_kind;
mod message_changes;
mod messages;
mod read_marks;
mod sla;

pub use events_by_kind::{Stored, Verdict};

use contract::Timestamp;
use contract::dead_letter::Reason;
use mongodb::Database;
use secrecy::SecretString;

use crate::latency::Latencies;
use crate::mongo::client::{self, DatabaseError};
use crate::mongo::collections::Collections;
use crate::mongo::indexes;
use conversations::Effects;
use events_by_kind::{APPLIED, EventsByKind};

/// MongoDB as a view of the log. Cloning shares the connections.
#[derive(Clone)]
pub struct View {
    database: Database,
    pub(crate) collections: Collections,
    pub(crate) latencies: Latencies,
}

impl View {
    /// Connects lazily.
    ///
    /// # Errors
    /// The URI cannot be used.
    pub async fn open(uri: &SecretString) -> Result<View, DatabaseError> {
        let database = client::open(uri).await?;
        let collections = Collections::of(&database);
        Ok(View {
            database,
            collections,
            latencies: Latencies::default(),
        })
    }

    /// The database of the view.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Makes the indexes. [`View::apply`] relies on the unique ones.
    ///
    /// # Errors
    /// MongoDB is away.
    pub async fn create_indexes(&self) -> Result<(), DatabaseError> {
        indexes::retire(&self.collections).await?;
        indexes::create(&self.collections).await
    }

    /// Applies a batch, in any order relative to other batches, and says what became of each
    /// message. The caller must know that all replicas have settled every message up to
    /// `settled_to`. 0 is always true.
    ///
    /// # Errors
    /// [`DatabaseError::Unavailable`]: apply the same batch again later. A part of the batch may be
    /// applied already, which does no harm. [`DatabaseError::Refused`]: MongoDB will never take
    /// something in this batch, and [`View::apply_one_by_one`] finds out what.
    pub async fn apply(
        &self,
        batch: &[Stored],
        settled_to: u64,
    ) -> Result<Vec<Verdict>, DatabaseError> {
        let collections = &self.collections;
        let mut verdicts = vec![APPLIED; batch.len()];
        let events = EventsByKind::of(batch, &mut verdicts);
        contacts::apply(collections, &events, &mut verdicts).await?;
        directory::apply(collections, &events, &mut verdicts).await?;
        let mut effects = Effects::default();
        messages::insert_created(collections, &events, &mut effects, &mut verdicts).await?;
        // Before the delivery steps, so that a reader who sees a message delivered finds the attempt
        // that delivered it.
        messages::insert_attempts(collections, &events).await?;
        message_changes::apply(collections, &events, &mut verdicts).await?;
        message_changes::delete(collections, &events, &mut effects, &mut verdicts).await?;
        sla::record_breaches(collections, &events, &mut verdicts).await?;
        effects.add_reads(&events);
        let folded = conversations::fold(collections, effects, settled_to).await?;
        read_marks::apply(collections, &events, &folded, &mut verdicts).await?;
        self.count_latencies(&events, &verdicts);
        Ok(verdicts)
    }

    fn count_latencies(&self, events: &EventsByKind, verdicts: &[Verdict]) {
        let now = Timestamp::now();
        for created in &events.created {
            if verdicts[created.position] == APPLIED {
                let (message, _) = &created.event;
                self.latencies.count(
                    message.company_id,
                    message.platform,
                    created.occurred_at,
                    now,
                );
            }
        }
    }

    /// Applies each message by itself. So a message that MongoDB will never take is rejected alone,
    /// and the others are applied.
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
