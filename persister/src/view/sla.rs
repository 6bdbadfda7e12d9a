//! Companies with their targets, and messages that missed a target.

use contract::domain::{Company, SlaTargets};
use contract::event::MessageSlaBreached;
use mongodb::bson::{Document, doc};

use super::events_by_kind::{EventsByKind, Positioned, Verdict, wrong_tenant};
use super::message_changes::not_of_these;
use crate::mongo::bulk::upsert;
use crate::mongo::client::DatabaseError;
use crate::mongo::collections::Collections;
use crate::mongo::directory;
use crate::mongo::document::{date, long, oid};

/// Changes of its targets that a company's document keeps. Beyond that the oldest is dropped. Only
/// the changes within a message's life matter, which is a day.
const KEPT_CHANGES: i32 = 32;

/// Records breaches. Because the first breach of a message by sequence counts, the guard is the
/// reverse of that of other fields.
pub async fn record_breaches(
    collections: &Collections,
    events: &EventsByKind,
    verdicts: &mut [Verdict],
) -> Result<(), DatabaseError> {
    let updates = events.breaches.iter().map(|b| {
        let (seq, breach) = (long(b.seq), &b.event);
        let sla = doc! {"breached_at": date(b.occurred_at), "target_seconds": i64::from(breach.target_seconds)};
        doc! {
            "q": {"_id": oid(breach.message_id), "company_id": b.company(), "applied.sla": {"$not": {"$lte": seq}}},
            "u": {"$set": {"sla": sla, "applied.sla": seq}, "$setOnInsert": {"contact_id": oid(breach.contact_id)}},
            "upsert": true,
        }
    });
    let refused = upsert(&collections.messages, updates.collect()).await?;
    if refused.is_empty() {
        return Ok(());
    }
    let message = |b: &Positioned<MessageSlaBreached>| (oid(b.event.message_id), b.company());
    let refused = refused.iter().map(|i| message(&events.breaches[*i]));
    let of_others = not_of_these(collections, refused.collect()).await?;
    for b in &events.breaches {
        if of_others.contains(&message(b)) {
            verdicts[b.position] = wrong_tenant();
        }
    }
    Ok(())
}

/// Enters a company as it registered, also if its targets were changed before.
pub async fn enter_company(
    collections: &Collections,
    company: &Company,
    seq: u64,
) -> Result<(), DatabaseError> {
    let enter = doc! {
        "q": {"_id": oid(company.id), "seq": {"$exists": false}}, "u": {"$set": directory::company(company, seq)}, "upsert": true,
    };
    upsert(&collections.companies, vec![enter]).await.map(drop)
}

/// Keeps the newest changes of targets, each under its sequence. So neither order nor repetition
/// matters.
pub async fn change_targets(
    collections: &Collections,
    events: &EventsByKind,
) -> Result<(), DatabaseError> {
    let change = |c: &Positioned<SlaTargets>| {
        let entry = directory::targets(c.event, c.seq, c.occurred_at);
        doc! {
            "q": {"_id": c.company(), "sla.seq": {"$ne": long(c.seq)}},
            "u": {"$push": {"sla": {"$each": [entry], "$sort": {"seq": 1}, "$slice": -KEPT_CHANGES}}},
            "upsert": true,
        }
    };
    let changes: Vec<Document> = events.targets.iter().map(change).collect();
    match changes.is_empty() {
        true => Ok(()),
        false => upsert(&collections.companies, changes).await.map(drop),
    }
}
