//! Inserts messages and the attempts to deliver them. Does not change a message that is there; see
//! `message_changes`.

use std::collections::{HashMap, HashSet};

use contract::dead_letter::Reason;
use contract::domain::{DeliveryState, Direction};
use contract::event::MessageDelivery;
use mongodb::bson::{Document, doc, oid::ObjectId};

use super::conversations::{Effects, Key};
use super::events_by_kind::{EventsByKind, Positioned, Verdict, wrong_tenant};
use crate::fold::conversation::Effect;
use crate::mongo::bulk::{insert_new, update_many};
use crate::mongo::client::DatabaseError;
use crate::mongo::collections::Collections;
use crate::mongo::document::{self, deleted_by, is_of, long, oid};
use crate::mongo::indexes::{EXTERNAL_INDEX, REQUEST_INDEX};

/// Inserts the messages that this batch creates, and adds the effects on their conversations.
pub async fn insert_created(
    collections: &Collections,
    events: &EventsByKind,
    effects: &mut Effects,
    verdicts: &mut [Verdict],
) -> Result<(), DatabaseError> {
    let documents: Vec<Document> = events
        .created
        .iter()
        .map(|c| document::message(&c.event.0, c.event.1.as_ref(), c.occurred_at, c.seq))
        .collect();
    let refused = insert_new(&collections.messages, &documents).await?;
    let refused: HashSet<usize> = refused.into_iter().collect();
    let known =
        fill_placeholders(collections, refused.iter().map(|index| &documents[*index])).await?;
    for (index, created) in events.created.iter().enumerate() {
        let m = &created.event.0;
        let key = Key::new(oid(m.company_id), oid(m.contact_id), m.platform);
        let (seq, unread) = (long(created.seq), m.direction == Direction::Inbound);
        if refused.contains(&index) {
            let Some(known) = known.get(&oid(m.id)) else {
                let why = format!(
                    "another message holds its key ({EXTERNAL_INDEX} or {REQUEST_INDEX}), or another company its id"
                );
                verdicts[created.position] = Verdict::Rejected(Reason::DuplicateKey, why);
                continue;
            };
            if !is_of(known, oid(m.company_id)) {
                verdicts[created.position] = wrong_tenant();
                continue;
            }
            if known.get_i64("seq").ok() != Some(seq) {
                // The same message was published once more. The first copy to come stays.
                continue;
            }
            if deleted_by(known).is_some() {
                effects.deleted(key, oid(m.id), seq, unread);
            }
        }
        effects.add(
            key,
            Effect::Created {
                seq,
                id: oid(m.id),
                unread,
            },
        );
        effects.created(key, seq, oid(m.id), unread);
    }
    Ok(())
}

/// Puts messages' own fields under the fields that later events have set. Returns the documents as
/// they are now. A document is missing if another message has its dedup key, or another company its
/// id.
async fn fill_placeholders(
    collections: &Collections,
    created: impl Iterator<Item = &Document>,
) -> Result<HashMap<ObjectId, Document>, DatabaseError> {
    let documents: Vec<(ObjectId, &Document)> = created
        .filter_map(|d| Some((d.get_object_id("_id").ok()?, d)))
        .collect();
    if documents.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<ObjectId> = documents.iter().map(|(id, _)| *id).collect();
    let fields = || doc! {"company_id": 1, "seq": 1, "applied.deleted": 1};
    let whole = || doc! {"_id": {"$in": &ids}, "seq": {"$exists": true}};
    // Most messages of a batch that comes again are whole already.
    let known = collections.find_messages(whole(), fields()).await?;
    let fill = |(id, document): &(ObjectId, &Document)| {
        let merged = doc! {"$mergeObjects": [
            {"$literal": *document}, "$$ROOT", {"updated_at": {"$max": [{"$literal": document.get("updated_at")}, "$updated_at"]}},
        ]};
        let placeholder =
            doc! {"_id": id, "company_id": document.get("company_id"), "seq": {"$exists": false}};
        doc! {"q": placeholder, "u": [{"$replaceWith": merged}]}
    };
    let fills: Vec<Document> = documents
        .iter()
        .filter(|(id, _)| !known.contains_key(id))
        .map(fill)
        .collect();
    if fills.is_empty() {
        return Ok(known);
    }
    update_many(&collections.messages, fills).await?;
    collections.find_messages(whole(), fields()).await
}

/// Inserts the result of each call to the bot. A delivery step that only announces a call is no
/// attempt.
pub async fn insert_attempts(
    collections: &Collections,
    events: &EventsByKind,
) -> Result<(), DatabaseError> {
    let is_attempt = |step: &&Positioned<MessageDelivery>| {
        !matches!(
            step.event.delivery.state,
            DeliveryState::Queued | DeliveryState::Sending | DeliveryState::Cancelled
        )
    };
    let attempts: Vec<Document> = events
        .delivery
        .iter()
        .filter(is_attempt)
        .map(|s| document::attempt(&s.event, s.company(), s.seq, s.occurred_at))
        .collect();
    // An attempt that is there already is the same, because its `_id` is the sequence.
    insert_new(&collections.attempts, &attempts).await.map(drop)
}
