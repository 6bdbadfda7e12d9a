//! Writes the folded conversations, each onto the revision that it was read from.

use std::collections::HashMap;

use contract::Id;
use contract::domain::Platform;
use contract::event::MessageRead;
use futures_util::TryStreamExt;
use mongodb::bson::{DateTime, Document, doc, oid::ObjectId};

use super::messages::deleted_at;
use super::{Sorted, View};
use crate::fold::conversation::{Conversation, Effect, floor};
use crate::mongo::document::{date, long, oid};
use crate::mongo::{DatabaseError, limited, update_many};

/// Rounds of reading and writing until no other replica was in between. Each round at least one
/// replica gets through.
const MAX_ROUNDS: usize = 50;

/// Which conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    company: ObjectId,
    contact: ObjectId,
    platform: Platform,
}

impl Key {
    /// A company's contact on a platform.
    pub fn new(company: ObjectId, contact: ObjectId, platform: Platform) -> Key {
        Key {
            company,
            contact,
            platform,
        }
    }

    /// The document's `_id`. The company is part of it: a contact id alone is only the caller's
    /// word.
    pub fn id(&self) -> String {
        format!(
            "{}:{}:{}",
            self.company.to_hex(),
            self.contact.to_hex(),
            self.platform
        )
    }

    /// What a read event marks. One without a platform is a mark on every platform, also on those
    /// without a message so far: the first may be late.
    pub fn of_read(company: Id, read: &MessageRead) -> impl Iterator<Item = Key> {
        let platforms = read
            .platform
            .as_ref()
            .map_or(Platform::ALL, std::slice::from_ref);
        platforms
            .iter()
            .map(move |platform| Key::new(oid(company), oid(read.contact_id), *platform))
    }
}

/// A message created in this batch.
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

/// What a batch does to conversations.
#[derive(Default)]
pub struct Effects {
    by_conversation: HashMap<Key, Vec<Effect>>,
    deleted: HashMap<Key, Vec<DeletedIn>>,
    created: Vec<CreatedIn>,
}

impl Effects {
    /// Adds one.
    pub fn add(&mut self, key: Key, effect: Effect) {
        self.by_conversation.entry(key).or_default().push(effect);
    }

    /// Notes a deleted message. Which of several deletes counts is read only when the conversation
    /// has been.
    pub fn deleted(&mut self, key: Key, id: ObjectId, of: i64, unread: bool) {
        self.by_conversation.entry(key).or_default();
        self.deleted
            .entry(key)
            .or_default()
            .push(DeletedIn { id, of, unread });
    }

    /// Notes a created message, for the read marks that may be there already.
    pub fn created(&mut self, key: Key, seq: i64, id: ObjectId, unread: bool) {
        self.created.push(CreatedIn {
            key,
            seq,
            id,
            unread,
        });
    }

    /// The read events.
    pub fn add_reads(&mut self, sorted: &Sorted) {
        for r in &sorted.read {
            let (company, read) = &r.event;
            for key in Key::of_read(*company, read) {
                self.add(
                    key,
                    Effect::Read {
                        seq: long(r.seq),
                        at: date(r.envelope_at),
                    },
                );
            }
        }
    }
}

/// The conversations as they stand after the batch.
pub struct Folded {
    conversations: HashMap<Key, Conversation>,
    created: Vec<CreatedIn>,
}

impl Folded {
    /// Below this sequence a mark on the conversation has nothing to do.
    pub fn read_to(&self, key: &Key) -> i64 {
        self.conversations.get(key).map_or(0, Conversation::read_to)
    }

    /// Messages of this batch that a read event above them had covered before they came: id, that
    /// event's sequence and time.
    pub fn read_late(&self) -> impl Iterator<Item = (ObjectId, i64, DateTime)> + '_ {
        self.created.iter().filter(|c| c.unread).filter_map(|c| {
            let (seq, at) = self.conversations.get(&c.key)?.read_at(c.seq)?;
            Some((c.id, seq, at))
        })
    }
}

impl View {
    /// Applies the effects and writes every conversation that changed.
    pub(super) async fn fold(
        &self,
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
            let mut read = self.read_conversations(&open).await?;
            // After the conversations: a first delete that another replica counts later than this
            // changes their revision.
            let deletes = self.first_deletes(&deleted).await?;
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
                let changed = by_conversation[key]
                    .iter()
                    .copied()
                    .chain(of_deletes)
                    .filter(|e| conversation.apply(*e))
                    .count()
                    > 0;
                if conversation.latest_is_stale {
                    conversation.latest = self.newest_message(key).await?;
                }
                if changed {
                    conversation.compact(floor(settled_to));
                    conversation.revision = known + 1;
                    writes.push(write(key, &conversation, known));
                }
                conversations.insert(*key, conversation);
            }
            let expected = writes.len() as u64;
            let done = update_many(&self.collections.conversations, writes).await?;
            if done.matched == expected && done.duplicates.is_empty() {
                open.clear();
            }
            // Else another replica wrote one of them in between. Which one is not said; all are
            // read again, and those that were written show no change.
        }
        Err(DatabaseError::Unavailable(format!(
            "conversations were changed by others {MAX_ROUNDS} times over"
        )))
    }

    /// The sequence of the first delete of each message.
    async fn first_deletes(
        &self,
        deleted: &HashMap<Key, Vec<DeletedIn>>,
    ) -> Result<HashMap<ObjectId, i64>, DatabaseError> {
        if deleted.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: Vec<ObjectId> = deleted.values().flatten().map(|d| d.id).collect();
        let found = self
            .find_messages(doc! {"_id": {"$in": ids}}, doc! {"applied.deleted": 1})
            .await?;
        Ok(found
            .into_iter()
            .filter_map(|(id, d)| Some((id, deleted_at(&d)?)))
            .collect())
    }

    async fn read_conversations(
        &self,
        keys: &[Key],
    ) -> Result<HashMap<String, Conversation>, DatabaseError> {
        let ids: Vec<String> = keys.iter().map(Key::id).collect();
        let find = async {
            Ok(self
                .collections
                .conversations
                .find(doc! {"_id": {"$in": ids}})
                .await?
                .try_collect::<Vec<Document>>()
                .await?)
        };
        let found = limited(find).await?;
        Ok(found
            .into_iter()
            .filter_map(|d| {
                Some((
                    d.get_str("_id").ok()?.to_owned(),
                    Conversation::from_document(&d),
                ))
            })
            .collect())
    }

    /// The newest message that is left, when the newest was deleted.
    async fn newest_message(&self, key: &Key) -> Result<Option<(i64, ObjectId)>, DatabaseError> {
        let filter = doc! {
            "contact_id": key.contact, "company_id": key.company, "platform": key.platform.as_str(), "seq": {"$exists": true}, "deleted_at": {"$exists": false},
        };
        let find = async {
            Ok(self
                .collections
                .messages
                .find_one(filter)
                .sort(doc! {"seq": -1})
                .projection(doc! {"seq": 1})
                .await?)
        };
        Ok(limited(find)
            .await?
            .and_then(|d| Some((d.get_i64("seq").ok()?, d.get_object_id("_id").ok()?))))
    }
}

fn write(key: &Key, conversation: &Conversation, known: i64) -> Document {
    let mut set = conversation.to_document();
    set.insert("company_id", key.company);
    set.insert("contact_id", key.contact);
    set.insert("platform", key.platform.as_str());
    match known {
        // A new one: if another replica makes it in between, the upsert meets its `_id`.
        0 => doc! {"q": {"_id": key.id(), "revision": 0}, "u": {"$set": set}, "upsert": true},
        known => doc! {"q": {"_id": key.id(), "revision": known}, "u": {"$set": set}},
    }
}
