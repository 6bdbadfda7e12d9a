//! Changes of messages: updates that are guarded by the sequence of their field. Inserts no whole
//! message; a change of a message that is not there yet makes a placeholder.

use std::collections::{HashMap, HashSet};

use contract::Id;
use contract::domain::Direction;
use contract::event::{MessageDelivery, MessageUpdated};
use contract::outcome::Outcome;
use mongodb::bson::{DateTime, Document, doc, oid::ObjectId};

use super::conversations::{Effects, Key};
use super::events_by_kind::{EventsByKind, Positioned, Verdict, wrong_tenant};
use crate::mongo::bulk::{update_many, upsert};
use crate::mongo::client::DatabaseError;
use crate::mongo::collections::Collections;
use crate::mongo::document::{self, date, is_of, long, oid};

/// A change that sets `fields` unless an event of the same or a higher rank has set `guard`.
struct Guarded {
    message: ObjectId,
    contact: ObjectId,
    company: ObjectId,
    guard: &'static str,
    rank: i64,
    fields: Document,
    at: DateTime,
}

impl Guarded {
    /// A later event's guard makes the filter fail, and so does another company. The upsert then
    /// meets the document's `_id` and does nothing.
    fn update(&self) -> Document {
        let guard = format!("applied.{}", self.guard);
        let mut set = self.fields.clone();
        set.insert(&guard, self.rank);
        doc! {
            "q": {"_id": self.message, "company_id": self.company, &guard: {"$not": {"$gte": self.rank}}},
            "u": {"$set": set, "$max": {"updated_at": self.at}, "$setOnInsert": {"contact_id": self.contact}},
            "upsert": true,
        }
    }

    /// Sets `updated_at`, which counts stale changes too.
    fn touch(&self) -> Document {
        doc! {"q": {"_id": self.message, "company_id": self.company}, "u": {"$max": {"updated_at": self.at}}}
    }
}

/// Applies edits and delivery steps.
pub async fn apply(
    collections: &Collections,
    events: &EventsByKind,
    verdicts: &mut [Verdict],
) -> Result<(), DatabaseError> {
    let changes = guarded_changes(events);
    let updates = changes.iter().map(Guarded::update).collect();
    let refused = upsert(&collections.messages, updates).await?;
    if refused.is_empty() {
        return Ok(());
    }
    let refused: Vec<&Guarded> = refused.iter().map(|i| &changes[*i]).collect();
    let touches = refused.iter().map(|g| g.touch()).collect();
    update_many(&collections.messages, touches).await?;
    let refused = refused.iter().map(|g| (g.message, g.company)).collect();
    let of_others = not_of_these(collections, refused).await?;
    let edits = events
        .updated
        .iter()
        .map(|u| (u.position, oid(u.event.message_id), u.company()));
    let steps = events
        .delivery
        .iter()
        .map(|d| (d.position, oid(d.event.message_id), d.company()));
    for (position, message, company) in edits.chain(steps) {
        if of_others.contains(&(message, company)) {
            verdicts[position] = wrong_tenant();
        }
    }
    Ok(())
}

/// The pairs of message and company whose message belongs to another company.
pub async fn not_of_these(
    collections: &Collections,
    messages: Vec<(ObjectId, ObjectId)>,
) -> Result<HashSet<(ObjectId, ObjectId)>, DatabaseError> {
    let ids: Vec<ObjectId> = messages.iter().map(|(id, _)| *id).collect();
    let found = collections
        .find_messages(doc! {"_id": {"$in": ids}}, doc! {"company_id": 1})
        .await?;
    Ok(messages
        .into_iter()
        .filter(|(id, company)| found.get(id).is_some_and(|d| !is_of(d, *company)))
        .collect())
}

/// Deletes messages, and adds the effects on their conversations. Because the first delete of a
/// message by sequence counts, the guard is the reverse of that of other fields.
pub async fn delete(
    collections: &Collections,
    events: &EventsByKind,
    effects: &mut Effects,
    verdicts: &mut [Verdict],
) -> Result<(), DatabaseError> {
    if events.deleted.is_empty() {
        return Ok(());
    }
    let updates = events.deleted.iter().map(|d| {
        let (id, seq, at) = (oid(d.event.message_id), long(d.seq), date(d.occurred_at));
        doc! {
            "q": {"_id": id, "company_id": d.company(), "applied.deleted": {"$not": {"$lte": seq}}},
            "u": {"$set": {"deleted_at": at, "applied.deleted": seq}, "$setOnInsert": {"contact_id": oid(d.event.contact_id)}},
            "upsert": true,
        }
    });
    upsert(&collections.messages, updates.collect()).await?;
    let ids: Vec<ObjectId> = events
        .deleted
        .iter()
        .map(|d| oid(d.event.message_id))
        .collect();
    let fields = doc! {"seq": 1, "direction": 1, "platform": 1, "company_id": 1, "contact_id": 1};
    let found = collections
        .find_messages(doc! {"_id": {"$in": ids}}, fields)
        .await?;
    for d in &events.deleted {
        let id = oid(d.event.message_id);
        let found = found.get(&id);
        if found.is_some_and(|document| !is_of(document, d.company())) {
            verdicts[d.position] = wrong_tenant();
        } else if let Some((key, seq, unread)) = found.and_then(deletable) {
            effects.deleted(key, id, seq, unread);
        } else {
            // The message is not there yet. Its placeholder has the delete, which is counted when
            // the message comes.
            verdicts[d.position] = Verdict::Applied(Outcome::NotFound);
        }
    }
    Ok(())
}

/// A message's conversation, its sequence, and whether it counts as unread. `None` for a
/// placeholder.
fn deletable(message: &Document) -> Option<(Key, i64, bool)> {
    let platform = message.get_str("platform").ok()?.parse().ok()?;
    let key = Key::new(
        message.get_object_id("company_id").ok()?,
        message.get_object_id("contact_id").ok()?,
        platform,
    );
    let unread = message.get_str("direction").ok()? == Direction::Inbound.as_str();
    Some((key, message.get_i64("seq").ok()?, unread))
}

/// A rank above every sequence.
const DELIVERED: i64 = 1 << 62;

/// The rank of a delivery step. Of two steps of a message the one of higher rank stays. A later step
/// has a higher rank, but the first `delivered` has the highest. Because a forwarder that has lost
/// its partition may report an older step later, a delivered message must stay delivered.
fn rank(step: &MessageDelivery, seq: u64) -> i64 {
    if step.is_delivered() {
        DELIVERED - long(seq)
    } else {
        long(seq)
    }
}

/// The guarded changes of a batch.
fn guarded_changes(events: &EventsByKind) -> Vec<Guarded> {
    let edits = events.updated.iter().flat_map(of_edit);
    of_deliveries(&events.delivery)
        .into_iter()
        .chain(edits)
        .collect()
}

/// The changes by delivery steps: of several steps of a message, only the one that stays.
fn of_deliveries(steps: &[Positioned<MessageDelivery>]) -> Vec<Guarded> {
    // By company and message: the step that stays, and the latest time of all steps.
    let mut last: HashMap<(Id, Id), (&Positioned<MessageDelivery>, DateTime)> = HashMap::new();
    for step in steps {
        let at = date(step.occurred_at);
        let (stays, latest) = last
            .entry((step.company_id(), step.event.message_id))
            .or_insert((step, at));
        if rank(&stays.event, stays.seq) <= rank(&step.event, step.seq) {
            *stays = step;
        }
        *latest = at.max(*latest);
    }
    let guarded = |(step, at): (&Positioned<MessageDelivery>, DateTime)| Guarded {
        message: oid(step.event.message_id),
        contact: oid(step.event.contact_id),
        company: step.company(),
        guard: "delivery",
        rank: rank(&step.event, step.seq),
        fields: doc! {
            "delivery": document::delivery(&step.event.delivery),
            "delivered": step.event.is_delivered(),
        },
        at,
    };
    last.into_values().map(guarded).collect()
}

fn of_edit(edit: &Positioned<MessageUpdated>) -> impl Iterator<Item = Guarded> {
    let patch = &edit.event.patch;
    let content = patch
        .content
        .as_ref()
        .map(|c| ("content", doc! {"content": c.as_str()}));
    let attachments = patch.attachments.as_ref().map(|a| {
        let fields = doc! {"attachments": document::attachments(a)};
        ("attachments", fields)
    });
    content
        .into_iter()
        .chain(attachments)
        .map(|(guard, fields)| Guarded {
            message: oid(edit.event.message_id),
            contact: oid(edit.event.contact_id),
            company: edit.company(),
            guard,
            rank: long(edit.seq),
            fields,
            at: date(edit.occurred_at),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::domain::{Delivery, DeliveryState};
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
            message_seq: None,
            delivery: Delivery {
                state,
                ..Delivery::queued()
            },
            status: None,
            duration_ms: None,
        }
    }

    proptest! {
        /// Plays MongoDB's guard: a step is written if the document has no rank, or a lower one.
        #[test]
        fn a_delivered_message_stays_delivered_in_any_order_of_steps(states in prop::collection::vec(select(DeliveryState::ALL), 1..12), turn in any::<prop::sample::Index>()) {
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
    fn a_step_of_another_company_replaces_no_step_of_this_one_and_matches_none_of_its_documents() {
        let (one, other) = (
            contract::Id::from_bytes([3; 12]),
            contract::Id::from_bytes([4; 12]),
        );
        let delivered = |position, company| {
            let event = step(DeliveryState::Delivered);
            Positioned::at(position, position as u64 + 1, company, event)
        };
        let events = EventsByKind {
            delivery: vec![delivered(0, one), delivered(1, other)],
            ..EventsByKind::default()
        };
        let updates: Vec<Document> = guarded_changes(&events)
            .iter()
            .map(Guarded::update)
            .collect();
        for company in [one, other] {
            let of = |u: &&Document| is_of(u.get_document("q").unwrap(), oid(company));
            assert_eq!(updates.iter().filter(of).count(), 1, "{updates:?}");
        }
    }
}
