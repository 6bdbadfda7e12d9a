//! Messages: inserts, and updates guarded by sequence.

use std::collections::{HashMap, HashSet};

use contract::dead_letter::Reason;
use contract::domain::{DeliveryState, Direction};
use contract::event::{MessageDelivery, MessageRead};
use contract::outcome::Outcome;
use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Bson, Document, doc, oid::ObjectId};

use super::conversations::{Effects, Folded, Key};
use super::{At, Sorted, Verdict, View, foreign};
use crate::fold::conversation::Effect;
use crate::mongo::document::{self, date, long, oid};
use crate::mongo::{
    DatabaseError, EXTERNAL_INDEX, REQUEST_INDEX, insert_new, limited, update_many,
};

/// One guarded change: set `fields` if no later event, or none of higher rank, has set `guard` yet.
struct Guarded {
    message: ObjectId,
    contact: ObjectId,
    company: ObjectId,
    guard: &'static str,
    seq: i64,
    fields: Document,
    at: mongodb::bson::DateTime,
}

impl Guarded {
    /// A later event's guard makes the filter fail, and so does another company; the upsert then
    /// meets the document's `_id` and does nothing.
    fn update(&self) -> Document {
        let guard = format!("applied.{}", self.guard);
        let mut set = self.fields.clone();
        set.insert(&guard, self.seq);
        doc! {
            "q": {"_id": self.message, "company_id": self.company, &guard: {"$not": {"$gte": self.seq}}},
            "u": {"$set": set, "$max": {"updated_at": self.at}, "$setOnInsert": {"contact_id": self.contact}},
            "upsert": true,
        }
    }

    /// What even a stale change leaves: when the message was last touched.
    fn touch(&self) -> Document {
        doc! {"q": {"_id": self.message, "company_id": self.company}, "u": {"$max": {"updated_at": self.at}}}
    }
}

impl View {
    /// Inserts the messages created in this batch and notes what that does to their conversations.
    pub(super) async fn insert_created(
        &self,
        sorted: &Sorted,
        effects: &mut Effects,
        verdicts: &mut [Verdict],
    ) -> Result<(), DatabaseError> {
        let documents: Vec<Document> = sorted
            .created
            .iter()
            .map(|c| document::message(&c.event.0, c.event.1.as_ref(), c.envelope_at, c.seq))
            .collect();
        let refused = insert_new(&self.collections.messages, &documents).await?;
        let refused: HashSet<usize> = refused.into_iter().collect();
        let known = self
            .fill_shells(refused.iter().map(|index| &documents[*index]))
            .await?;
        for (index, created) in sorted.created.iter().enumerate() {
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
                    verdicts[created.position] = foreign();
                    continue;
                }
                if known.get_i64("seq").ok() != Some(seq) {
                    continue; // The same message, published once more; the first to come stays.
                }
                if deleted_at(known).is_some() {
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

    /// Puts messages' own fields under what later events have already set. Returns the documents as
    /// they now are; one is missing where another message holds its external id, or another company
    /// its id.
    async fn fill_shells(
        &self,
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
        // A batch that comes again is mostly whole already.
        let known = self.find_messages(whole(), fields()).await?;
        let fill = |(id, document): &(ObjectId, &Document)| {
            let merged = doc! {"$mergeObjects": [
                {"$literal": *document}, "$$ROOT", {"updated_at": {"$max": [{"$literal": document.get("updated_at")}, "$updated_at"]}},
            ]};
            let shell = doc! {"_id": id, "company_id": document.get("company_id"), "seq": {"$exists": false}};
            doc! {"q": shell, "u": [{"$replaceWith": merged}]}
        };
        let fills: Vec<Document> = documents
            .iter()
            .filter(|(id, _)| !known.contains_key(id))
            .map(fill)
            .collect();
        if fills.is_empty() {
            return Ok(known);
        }
        update_many(&self.collections.messages, fills).await?;
        self.find_messages(whole(), fields()).await
    }

    /// Documents by `_id`, with some of their fields.
    pub(super) async fn find_messages(
        &self,
        filter: Document,
        fields: Document,
    ) -> Result<HashMap<ObjectId, Document>, DatabaseError> {
        let find = async {
            Ok(self
                .collections
                .messages
                .find(filter)
                .projection(fields)
                .await?
                .try_collect::<Vec<_>>()
                .await?)
        };
        Ok(limited(find)
            .await?
            .into_iter()
            .filter_map(|d| Some((d.get_object_id("_id").ok()?, d)))
            .collect())
    }

    /// Edits, deletes and delivery steps.
    pub(super) async fn update_messages(
        &self,
        sorted: &Sorted,
        effects: &mut Effects,
        verdicts: &mut [Verdict],
    ) -> Result<(), DatabaseError> {
        let guarded = guarded_changes(sorted);
        let unsettled = upsert(
            &self.collections.messages,
            guarded.iter().map(Guarded::update).collect(),
        )
        .await?;
        if !unsettled.is_empty() {
            let unsettled: Vec<&Guarded> = unsettled.iter().map(|i| &guarded[*i]).collect();
            update_many(
                &self.collections.messages,
                unsettled.iter().map(|g| g.touch()).collect(),
            )
            .await?;
            let others = self
                .not_of_these(unsettled.iter().map(|g| (g.message, g.company)).collect())
                .await?;
            let edits = sorted
                .updated
                .iter()
                .map(|u| (u.event.message_id, u.position));
            let steps = sorted
                .delivery
                .iter()
                .map(|d| (d.event.message_id, d.position));
            for (_, position) in edits
                .chain(steps)
                .filter(|(id, position)| others.contains(&(oid(*id), sorted.company(*position))))
            {
                verdicts[position] = foreign();
            }
        }
        self.delete_messages(sorted, effects, verdicts).await
    }

    /// Those of these messages that are not of the company beside them.
    pub(super) async fn not_of_these(
        &self,
        messages: Vec<(ObjectId, ObjectId)>,
    ) -> Result<HashSet<(ObjectId, ObjectId)>, DatabaseError> {
        let ids: Vec<ObjectId> = messages.iter().map(|(id, _)| *id).collect();
        let found = self
            .find_messages(doc! {"_id": {"$in": ids}}, doc! {"company_id": 1})
            .await?;
        Ok(messages
            .into_iter()
            .filter(|(id, company)| found.get(id).is_some_and(|d| !is_of(d, *company)))
            .collect())
    }

    /// Keeps what each call to the bot led to. A step that only announces a call is none.
    pub(super) async fn keep_attempts(&self, sorted: &Sorted) -> Result<(), DatabaseError> {
        let of_call = |step: &&At<MessageDelivery>| {
            !matches!(
                step.event.delivery.state,
                DeliveryState::Queued | DeliveryState::Sending
            )
        };
        let attempts =
            sorted.delivery.iter().filter(of_call).map(|s| {
                document::attempt(&s.event, sorted.company(s.position), s.seq, s.envelope_at)
            });
        // One that is there is the same: its `_id` is the sequence.
        insert_new(&self.collections.attempts, &attempts.collect::<Vec<_>>())
            .await
            .map(drop)
    }

    /// The first delete of a message counts, whichever comes first; so the guard is the other way
    /// round.
    async fn delete_messages(
        &self,
        sorted: &Sorted,
        effects: &mut Effects,
        verdicts: &mut [Verdict],
    ) -> Result<(), DatabaseError> {
        if sorted.deleted.is_empty() {
            return Ok(());
        }
        let updates = sorted.deleted.iter().map(|d| {
            let (id, seq, at) = (oid(d.event.message_id), long(d.seq), date(d.envelope_at));
            doc! {
                "q": {"_id": id, "company_id": sorted.company(d.position), "applied.deleted": {"$not": {"$lte": seq}}},
                "u": {"$set": {"deleted_at": at, "applied.deleted": seq}, "$setOnInsert": {"contact_id": oid(d.event.contact_id)}},
                "upsert": true,
            }
        });
        upsert(&self.collections.messages, updates.collect()).await?;
        let ids: Vec<ObjectId> = sorted
            .deleted
            .iter()
            .map(|d| oid(d.event.message_id))
            .collect();
        let fields =
            doc! {"seq": 1, "direction": 1, "platform": 1, "company_id": 1, "contact_id": 1};
        let found = self
            .find_messages(doc! {"_id": {"$in": ids}}, fields)
            .await?;
        for d in &sorted.deleted {
            let id = oid(d.event.message_id);
            if found
                .get(&id)
                .is_some_and(|document| !is_of(document, sorted.company(d.position)))
            {
                verdicts[d.position] = foreign();
                continue;
            }
            let Some((key, seq, unread)) = found.get(&id).and_then(deletable) else {
                // Not there yet: the delete stands in the shell, and is counted when the message
                // comes.
                verdicts[d.position] = Verdict::Applied(Outcome::NotFound);
                continue;
            };
            effects.deleted(key, id, seq, unread);
        }
        Ok(())
    }

    /// Marks what the read events of this batch cover, and what of this batch earlier-applied read
    /// events cover.
    pub(super) async fn mark_read(
        &self,
        sorted: &Sorted,
        folded: &Folded,
        verdicts: &mut [Verdict],
    ) -> Result<(), DatabaseError> {
        let unread_at = |seq: i64| doc! {"$or": [{"applied.read": {"$exists": false}}, {"applied.read": {"$gt": seq}}]};
        let set = |seq: i64, at: mongodb::bson::DateTime| doc! {"$set": {"read": true, "read_at": at, "applied.read": seq}};
        let mut reads: Vec<&At<(contract::Id, MessageRead)>> = sorted.read.iter().collect();
        reads.sort_unstable_by_key(|r| r.seq);
        // Each begins where the one before it has ended, so that however many there are, a message
        // is looked at once. What is inserted in between is late, for the mark is folded already:
        // whoever inserts it marks it.
        let mut marked: HashMap<Key, i64> = HashMap::new();
        for r in reads {
            let (seq, (company, read)) = (long(r.seq), &r.event);
            let from = Key::of_read(*company, read)
                .map(|key| {
                    marked
                        .get(&key)
                        .copied()
                        .unwrap_or_else(|| folded.read_to(&key))
                })
                .min();
            let between = doc! {"$gte": from.unwrap_or_default(), "$lt": seq};
            let mut filter = doc! {"company_id": oid(*company), "contact_id": oid(read.contact_id), "direction": "inbound", "seq": between};
            if let Some(platform) = read.platform {
                filter.insert("platform", platform.as_str());
            }
            filter.extend(unread_at(seq));
            let done = update_many(
                &self.collections.messages,
                vec![doc! {"q": filter, "u": set(seq, date(r.envelope_at)), "multi": true}],
            )
            .await?;
            verdicts[r.position] = Verdict::Applied(Outcome::Applied {
                matched: done.matched,
                modified: done.modified,
            });
            marked.extend(Key::of_read(*company, read).map(|key| (key, seq)));
        }
        let late = folded.read_late().map(|(id, seq, at)| {
            let mut filter = doc! {"_id": id};
            filter.extend(unread_at(seq));
            doc! {"q": filter, "u": set(seq, at)}
        });
        let late: Vec<Document> = late.collect();
        if !late.is_empty() {
            update_many(&self.collections.messages, late).await?;
        }
        Ok(())
    }
}

/// Sends guarded upserts. One that met the `_id` is sent once more without the upsert: either its
/// guard was held by a later event, and it matches nothing; or another replica has inserted the
/// document in between, and it applies now. (MongoDB repeats an upsert by itself only where its
/// filter is nothing but equalities.) Returns the positions of those.
pub(super) async fn upsert(
    collection: &Collection<Document>,
    updates: Vec<Document>,
) -> Result<Vec<usize>, DatabaseError> {
    let met = update_many(collection, updates.clone()).await?.duplicates;
    let again = met.iter().map(|i| {
        let mut update = updates[*i].clone();
        update.remove("upsert");
        update
    });
    if !met.is_empty() {
        update_many(collection, again.collect()).await?;
    }
    Ok(met)
}

fn is_of(document: &Document, company: ObjectId) -> bool {
    document
        .get_object_id("company_id")
        .is_ok_and(|of| of == company)
}

/// The sequence of the delete that removed a message, if one did.
pub(super) fn deleted_at(document: &Document) -> Option<i64> {
    document
        .get_document("applied")
        .ok()?
        .get_i64("deleted")
        .ok()
}

/// What a delete needs to know of a message that is there: its conversation, its sequence, whether
/// it counts as unread.
fn deletable(document: &Document) -> Option<(Key, i64, bool)> {
    let platform = document.get_str("platform").ok()?.parse().ok()?;
    let key = Key::new(
        document.get_object_id("company_id").ok()?,
        document.get_object_id("contact_id").ok()?,
        platform,
    );
    let unread = document.get_str("direction").ok()? == Direction::Inbound.as_str();
    Some((key, document.get_i64("seq").ok()?, unread))
}

/// Above every sequence.
const DELIVERED: i64 = 1 << 62;

/// Which of two delivery steps of a message stays: the one of higher rank. That is the later one,
/// but once delivered a message stays so, as it was delivered first: a forwarder that has lost its
/// conversation may report an older step later.
fn rank(step: &MessageDelivery, seq: u64) -> i64 {
    if step.is_delivered() {
        DELIVERED - long(seq)
    } else {
        long(seq)
    }
}

/// The guarded changes of a batch. Of several delivery steps of a company's message only the one
/// that stays is written.
fn guarded_changes(sorted: &Sorted) -> Vec<Guarded> {
    let mut last: HashMap<(contract::Id, ObjectId), (usize, Bson)> = HashMap::new();
    for (index, step) in sorted.delivery.iter().enumerate() {
        let at = date(step.envelope_at);
        let entry = last
            .entry((step.event.message_id, sorted.company(step.position)))
            .or_insert((index, at.into()));
        let other = &sorted.delivery[entry.0];
        if rank(&other.event, other.seq) <= rank(&step.event, step.seq) {
            entry.0 = index;
        }
        if entry.1.as_datetime().is_some_and(|latest| *latest < at) {
            entry.1 = at.into();
        }
    }
    let deliveries = last.into_values().filter_map(|(index, at)| {
        let step = &sorted.delivery[index];
        Some(Guarded {
            message: oid(step.event.message_id),
            contact: oid(step.event.contact_id),
            company: sorted.company(step.position),
            guard: "delivery",
            seq: rank(&step.event, step.seq),
            fields: delivery_fields(&step.event),
            at: *at.as_datetime()?,
        })
    });
    let edits = sorted.updated.iter().flat_map(|u| {
        let patch = &u.event.patch;
        let content = patch
            .content
            .as_ref()
            .map(|c| ("content", doc! {"content": c.as_str()}));
        let attachments = patch.attachments.as_ref().map(|a| {
            (
                "attachments",
                doc! {"attachments": document::attachments(a)},
            )
        });
        content
            .into_iter()
            .chain(attachments)
            .map(|(guard, fields)| Guarded {
                message: oid(u.event.message_id),
                contact: oid(u.event.contact_id),
                company: sorted.company(u.position),
                guard,
                seq: long(u.seq),
                fields,
                at: date(u.envelope_at),
            })
    });
    deliveries.chain(edits).collect()
}

fn delivery_fields(step: &MessageDelivery) -> Document {
    doc! {"delivery": document::delivery(&step.delivery), "delivered": step.is_delivered()}
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::domain::Delivery;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn step(state: DeliveryState) -> MessageDelivery {
        let (message_id, contact_id) = (
            contract::Id::from_bytes([1; 12]),
            contract::Id::from_bytes([2; 12]),
        );
        MessageDelivery {
            message_id,
            contact_id,
            delivery: Delivery {
                state,
                ..Delivery::queued()
            },
            status: None,
            duration_ms: None,
        }
    }

    proptest! {
        /// The guard as MongoDB has it: a step is written where no rank, or a lower one, stands.
        #[test]
        fn once_delivered_stays_delivered_in_any_order(states in prop::collection::vec(select(DeliveryState::ALL), 1..12), turn in any::<prop::sample::Index>()) {
            let mut steps: Vec<(u64, DeliveryState)> = (1..).zip(states).collect();
            let first_delivered = steps.iter().find(|(_, state)| *state == DeliveryState::Delivered).copied();
            let stays = first_delivered.or(steps.last().copied());
            let by = turn.index(steps.len());
            steps.rotate_left(by);
            if turn.index(2) == 1 {
                steps.reverse();
            }
            let mut document: Option<(i64, (u64, DeliveryState))> = None;
            for (seq, state) in steps.iter().chain(&steps) {
                let rank = rank(&step(*state), *seq);
                if document.is_none_or(|(there, _)| there < rank) {
                    document = Some((rank, (*seq, *state)));
                }
            }
            prop_assert_eq!(document.map(|(_, step)| step), stays);
        }
    }

    #[test]
    fn a_step_of_another_company_is_in_no_place_of_the_own_one_and_meets_no_document_of_it() {
        let at = |position: usize| At {
            position,
            seq: position as u64 + 1,
            envelope_at: contract::Timestamp::from_millis(5),
            event: step(DeliveryState::Delivered),
        };
        let (one, other) = (
            contract::Id::from_bytes([3; 12]),
            contract::Id::from_bytes([4; 12]),
        );
        let sorted = Sorted {
            delivery: vec![at(0), at(1)],
            companies_of: [(0, one), (1, other)].into(),
            ..Sorted::default()
        };
        let updates: Vec<Document> = guarded_changes(&sorted)
            .iter()
            .map(Guarded::update)
            .collect();
        for company in [one, other] {
            let of = |u: &&Document| is_of(u.get_document("q").unwrap(), oid(company));
            assert_eq!(updates.iter().filter(of).count(), 1, "{updates:?}");
        }
    }
}
