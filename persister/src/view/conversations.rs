//! Writes the folded conversations. Each is written only onto the revision from which it was read.

use std::collections::HashMap;

use contract::domain::Platform;
use contract::event::MessageRead;
use futures_util::TryStreamExt;
use mongodb::bson::{DateTime, Document, doc, oid::ObjectId};

use super::events_by_kind::{EventsByKind, Positioned};
use crate::fold::conversation::{Conversation, Effect, floor};
use crate::mongo::bulk::update_many;
use crate::mongo::client::{DatabaseError, limited};
use crate::mongo::collections::Collections;
use crate::mongo::document::{date, deleted_by, long, new_revision, oid};

/// Rounds of reading and writing at most. In each round another replica may have written one of the
/// conversations in between, and at least one replica gets through. Beyond that the batch fails and
/// comes again.
const MAX_ROUNDS: usize = 50;

/// A company's contact on a platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    company: ObjectId,
    contact: ObjectId,
    platform: Platform,
}

impl Key {
    pub fn new(company: ObjectId, contact: ObjectId, platform: Platform) -> Key {
        Key {
            company,
            contact,
            platform,
        }
    }

    /// The document's `_id`. The company is part of it, because a contact id in an event is only the
    /// caller's claim.
    pub fn id(&self) -> String {
        format!(
            "{}:{}:{}",
            self.company.to_hex(),
            self.contact.to_hex(),
            self.platform
        )
    }

    /// The conversations that a read event marks. An event without a platform marks every platform,
    /// also one without a message so far, because the first message may be late.
    pub fn of_read(read: &Positioned<MessageRead>) -> impl Iterator<Item = Key> {
        let (company, contact) = (read.company(), oid(read.event.contact_id));
        let platforms = read
            .event
            .platform
            .as_ref()
            .map_or(Platform::ALL, std::slice::from_ref);
        platforms
            .iter()
            .map(move |platform| Key::new(company, contact, *platform))
    }
}

/// A message that this batch creates.
struct CreatedIn {
    key: Key,
    seq: i64,
    id: ObjectId,
    unread: bool,
}

/// A message that this batch, or an earlier one, deletes.
struct DeletedIn {
    id: ObjectId,
    of: i64,
    unread: bool,
}

/// The effects of a batch on conversations.
#[derive(Default)]
pub struct Effects {
    by_conversation: HashMap<Key, Vec<Effect>>,
    deleted: HashMap<Key, Vec<DeletedIn>>,
    created: Vec<CreatedIn>,
}

impl Effects {
    pub fn add(&mut self, key: Key, effect: Effect) {
        self.by_conversation.entry(key).or_default().push(effect);
    }

    /// Adds a deleted message. Which of several deletes counts is read later, after the conversation.
    pub fn deleted(&mut self, key: Key, id: ObjectId, of: i64, unread: bool) {
        self.by_conversation.entry(key).or_default();
        self.deleted
            .entry(key)
            .or_default()
            .push(DeletedIn { id, of, unread });
    }

    /// Adds a created message, for the read marks that may be there already.
    pub fn created(&mut self, key: Key, seq: i64, id: ObjectId, unread: bool) {
        self.created.push(CreatedIn {
            key,
            seq,
            id,
            unread,
        });
    }

    pub fn add_reads(&mut self, events: &EventsByKind) {
        for r in &events.read {
            for key in Key::of_read(r) {
                self.add(
                    key,
                    Effect::Read {
                        seq: long(r.seq),
                        at: date(r.occurred_at),
                    },
                );
            }
        }
    }
}

/// The conversations as they are after the batch.
pub struct Folded {
    conversations: HashMap<Key, Conversation>,
    created: Vec<CreatedIn>,
}

impl Folded {
    /// Below this sequence every message of the conversation is marked as read.
    pub fn read_to(&self, key: &Key) -> i64 {
        self.conversations.get(key).map_or(0, Conversation::read_to)
    }

    /// Messages of this batch that came after a read event with a higher sequence: the message's id,
    /// and the read event's sequence and time.
    pub fn read_late(&self) -> impl Iterator<Item = (ObjectId, i64, DateTime)> + '_ {
        self.created.iter().filter(|c| c.unread).filter_map(|c| {
            let (seq, at) = self.conversations.get(&c.key)?.read_at(c.seq)?;
            Some((c.id, seq, at))
        })
    }
}

/// Applies the effects and writes every conversation that changed.
pub async fn fold(
    collections: &Collections,
    effects: Effects,
    settled_to: u64,
) -> Result<Folded, DatabaseError> {
    let Effects {
        by_conversation,
        deleted,
        created,
    } = effects;
    let mut conversations = HashMap::with_capacity(by_conversation.len());
    let mut open: Vec<Key> = by_conversation.keys().copied().collect();
    for _ in 0..MAX_ROUNDS {
        if open.is_empty() {
            return Ok(Folded {
                conversations,
                created,
            });
        }
        let mut read = read_conversations(collections, &open).await?;
        // After the conversations: if another replica then counts an earlier delete, the
        // conversation's revision changes, and the write below is refused.
        let deletes = first_deletes(collections, &deleted).await?;
        let mut writes = Vec::new();
        for key in &open {
            let mut conversation = read.remove(&key.id()).unwrap_or_default();
            let known = conversation.revision;
            let of_deletes = deleted.get(key).into_iter().flatten().filter_map(|d| {
                let seq = *deletes.get(&d.id)?;
                Some(Effect::Deleted {
                    seq,
                    of: d.of,
                    unread: d.unread,
                })
            });
            let mut has_changed = false;
            for effect in by_conversation[key].iter().copied().chain(of_deletes) {
                has_changed |= conversation.apply(effect);
            }
            if conversation.latest_is_stale {
                conversation.latest = newest_message(collections, key).await?;
            }
            if has_changed {
                conversation.compact(floor(settled_to));
                conversation.revision = new_revision();
                writes.push(write(key, &conversation, known));
            }
            conversations.insert(*key, conversation);
        }
        let expected = writes.len() as u64;
        let done = update_many(&collections.conversations, writes).await?;
        if done.matched == expected && done.duplicates.is_empty() {
            open.clear();
        }
        // Otherwise another replica wrote one of the conversations in between. Because MongoDB does
        // not say which one, all are read again. Those that were written here show no change then.
    }
    Err(DatabaseError::Unavailable(format!(
        "conversations were changed by others {MAX_ROUNDS} times over"
    )))
}

/// The sequence of the first delete of each message.
async fn first_deletes(
    collections: &Collections,
    deleted: &HashMap<Key, Vec<DeletedIn>>,
) -> Result<HashMap<ObjectId, i64>, DatabaseError> {
    if deleted.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<ObjectId> = deleted.values().flatten().map(|d| d.id).collect();
    let found = collections
        .find_messages(doc! {"_id": {"$in": ids}}, doc! {"applied.deleted": 1})
        .await?;
    Ok(found
        .into_iter()
        .filter_map(|(id, d)| Some((id, deleted_by(&d)?)))
        .collect())
}

async fn read_conversations(
    collections: &Collections,
    keys: &[Key],
) -> Result<HashMap<String, Conversation>, DatabaseError> {
    let ids: Vec<String> = keys.iter().map(Key::id).collect();
    let find = async {
        let found = collections
            .conversations
            .find(doc! {"_id": {"$in": ids}})
            .await?;
        Ok(found.try_collect::<Vec<Document>>().await?)
    };
    let read = |d: Document| {
        let id = d.get_str("_id").ok()?.to_owned();
        Some((id, Conversation::from_document(&d)))
    };
    Ok(limited(find).await?.into_iter().filter_map(read).collect())
}

/// The newest message that is left after the newest was deleted.
async fn newest_message(
    collections: &Collections,
    key: &Key,
) -> Result<Option<(i64, ObjectId)>, DatabaseError> {
    let filter = doc! {
        "contact_id": key.contact, "company_id": key.company, "platform": key.platform.as_str(), "seq": {"$exists": true}, "deleted_at": {"$exists": false},
    };
    let find = collections
        .messages
        .find_one(filter)
        .sort(doc! {"seq": -1})
        .projection(doc! {"seq": 1});
    Ok(limited(async { Ok(find.await?) })
        .await?
        .and_then(|d| Some((d.get_i64("seq").ok()?, d.get_object_id("_id").ok()?))))
}

fn write(key: &Key, conversation: &Conversation, known: i64) -> Document {
    let mut set = conversation.to_document();
    set.insert("company_id", key.company);
    set.insert("contact_id", key.contact);
    set.insert("platform", key.platform.as_str());
    match known {
        // If another replica makes the document in between, the upsert meets its `_id`.
        0 => doc! {"q": {"_id": key.id(), "revision": 0}, "u": {"$set": set}, "upsert": true},
        known => doc! {"q": {"_id": key.id(), "revision": known}, "u": {"$set": set}},
    }
}
