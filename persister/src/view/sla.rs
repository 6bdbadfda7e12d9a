//! What companies promise, and what was not kept.

use contract::domain::Company;
use contract::event::MessageSlaBreached;
use mongodb::bson::{Document, doc};

use super::messages::upsert;
use super::{At, Sorted, Verdict, View, foreign};
use crate::mongo::DatabaseError;
use crate::mongo::document::{self, date, long, oid};

/// Changes of its targets that a company's document keeps. Only those of a message's life matter,
/// which is a day.
const KEPT_CHANGES: i32 = 32;

impl View {
    /// The first breach of a message counts, whichever comes first; so the guard is the other way
    /// round.
    pub(super) async fn note_breaches(
        &self,
        sorted: &Sorted,
        verdicts: &mut [Verdict],
    ) -> Result<(), DatabaseError> {
        let updates = sorted.breaches.iter().map(|b| {
            let (seq, breach) = (long(b.seq), &b.event);
            let sla = doc! {"breached_at": date(b.envelope_at), "target_seconds": i64::from(breach.target_seconds)};
            doc! {
                "q": {"_id": oid(breach.message_id), "company_id": sorted.company(b.position), "applied.sla": {"$not": {"$lte": seq}}},
                "u": {"$set": {"sla": sla, "applied.sla": seq}, "$setOnInsert": {"contact_id": oid(breach.contact_id)}},
                "upsert": true,
            }
        });
        let unsettled = upsert(&self.collections.messages, updates.collect()).await?;
        if unsettled.is_empty() {
            return Ok(());
        }
        let message =
            |b: &At<MessageSlaBreached>| (oid(b.event.message_id), sorted.company(b.position));
        let others = self
            .not_of_these(
                unsettled
                    .iter()
                    .map(|i| message(&sorted.breaches[*i]))
                    .collect(),
            )
            .await?;
        for b in sorted
            .breaches
            .iter()
            .filter(|b| others.contains(&message(b)))
        {
            verdicts[b.position] = foreign();
        }
        Ok(())
    }

    /// A company as it registered, also if its targets were changed before it is here.
    pub(super) async fn enter_company(
        &self,
        company: &Company,
        seq: u64,
    ) -> Result<(), DatabaseError> {
        let enter = doc! {
            "q": {"_id": oid(company.id), "seq": {"$exists": false}}, "u": {"$set": document::company(company, seq)}, "upsert": true,
        };
        upsert(&self.collections.companies, vec![enter])
            .await
            .map(drop)
    }

    /// Each change is kept under its sequence, so that neither order nor repetition matters: the
    /// newest ones of a set.
    pub(super) async fn change_targets(&self, sorted: &Sorted) -> Result<(), DatabaseError> {
        let change = |c: &At<super::NewTargets>| {
            let (company, targets) = c.event;
            let entry = document::targets(targets, c.seq, c.envelope_at);
            doc! {
                "q": {"_id": oid(company), "sla.seq": {"$ne": long(c.seq)}},
                "u": {"$push": {"sla": {"$each": [entry], "$sort": {"seq": 1}, "$slice": -KEPT_CHANGES}}},
                "upsert": true,
            }
        };
        let changes: Vec<Document> = sorted.targets.iter().map(change).collect();
        match changes.is_empty() {
            true => Ok(()),
            false => upsert(&self.collections.companies, changes).await.map(drop),
        }
    }
}
