//! What a conversation's document says beyond its messages: counters, the newest message, read
//! marks. A pure fold over events that gives the same result in any order and however often an
//! event comes. No I/O.
//!
//! Counting is not idempotent by nature, so the fold remembers what it has counted: `tail` has
//! every effect above `floor` with its sequence. `floor` follows the consumer's ack floor, below
//! which no event is outstanding. Effects below `floor` are folded into the base. Such an event can
//! come again only as a repetition, which is ignored.

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document, doc};

use crate::mongo::document::long;

/// Read marks that a conversation keeps at most. Beyond that the oldest is dropped. Only a message
/// that is applied late needs an old mark, and no message is late by this many reads.
const MAX_MARKS: usize = 64;

/// What one event does to a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Created {
        seq: i64,
        id: ObjectId,
        unread: bool,
    },
    /// The message created at `of` was deleted at `seq`, by the first delete that the view knows.
    Deleted { seq: i64, of: i64, unread: bool },
    /// All messages before `seq` were read.
    Read { seq: i64, at: DateTime },
}

/// An effect on the counters with a sequence above the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    seq: i64,
    /// The sequence of the message's creation.
    of: i64,
    /// +1 or -1.
    sign: i64,
    /// Whether the message counts as unread as long as no mark is above `of`.
    unread: bool,
}

/// The state of one conversation on one platform.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// Each write gives another one. A write onto an older revision is refused. 0 means that there is
    /// no document.
    pub revision: i64,
    /// The newest message's sequence and id. `None` if there is no message, or if the newest one was
    /// deleted and its successor must be looked for.
    pub latest: Option<(i64, ObjectId)>,
    /// The newest message was deleted, so the caller must look for the newest one that is left.
    pub latest_is_stale: bool,
    floor: i64,
    base_total: i64,
    base_unread: i64,
    tail: Vec<Entry>,
    marks: Vec<(i64, DateTime)>,
    /// The newest mark at or under the floor. This mark is settled, and so is every message before
    /// it: all of them are in the view, and marked.
    read_to: i64,
}

impl Conversation {
    /// Messages that are not deleted.
    pub fn total(&self) -> i64 {
        self.base_total + self.tail.iter().map(|e| e.sign).sum::<i64>()
    }

    /// Inbound messages that are neither deleted nor read.
    pub fn unread(&self) -> i64 {
        let mark = self.last_mark();
        self.base_unread
            + self
                .tail
                .iter()
                .filter(|e| e.unread && e.of > mark)
                .map(|e| e.sign)
                .sum::<i64>()
    }

    /// The first mark above a message: the mark's sequence and time.
    pub fn read_at(&self, seq: i64) -> Option<(i64, DateTime)> {
        self.marks.iter().find(|(mark, _)| *mark > seq).copied()
    }

    /// Below this sequence every message is marked, and no further message is to come. 0 if that is
    /// not known of any sequence.
    pub fn read_to(&self) -> i64 {
        self.read_to
    }

    fn last_mark(&self) -> i64 {
        self.marks.last().map_or(0, |(seq, _)| *seq)
    }

    /// Applies an effect. Returns false if the effect was known.
    pub fn apply(&mut self, effect: Effect) -> bool {
        match effect {
            Effect::Created { seq, id, unread } => {
                let new = self.count(Entry {
                    seq,
                    of: seq,
                    sign: 1,
                    unread,
                });
                let deleted = self.tail.iter().any(|e| e.of == seq && e.sign < 0);
                if new && !deleted && self.latest.is_none_or(|(latest, _)| latest < seq) {
                    self.latest = Some((seq, id));
                    self.latest_is_stale = false;
                }
                new
            }
            Effect::Deleted { seq, of, unread } => {
                // Only the first of several deletes counts.
                if self
                    .tail
                    .iter()
                    .any(|e| e.of == of && e.sign < 0 && e.seq <= seq)
                {
                    return false;
                }
                self.tail.retain(|e| e.of != of || e.sign > 0);
                let new = self.count(Entry {
                    seq,
                    of,
                    sign: -1,
                    unread,
                });
                if new && self.latest.is_some_and(|(latest, _)| latest == of) {
                    self.latest = None;
                    self.latest_is_stale = true;
                }
                new
            }
            Effect::Read { seq, at } => {
                if seq <= self.floor || self.marks.iter().any(|(mark, _)| *mark == seq) {
                    return false;
                }
                let position = self.marks.partition_point(|(mark, _)| *mark < seq);
                self.marks.insert(position, (seq, at));
                if self.marks.len() > MAX_MARKS {
                    self.marks.remove(0);
                }
                // Every message in the base was created below the floor, and so before this mark.
                self.base_unread = 0;
                true
            }
        }
    }

    fn count(&mut self, entry: Entry) -> bool {
        if entry.seq <= self.floor || self.tail.iter().any(|e| e.seq == entry.seq) {
            return false;
        }
        self.tail.push(entry);
        true
    }

    /// Folds all effects up to `settled_to` into the base. The caller must know that no event up to
    /// there is outstanding: otherwise that event would never be counted.
    pub fn compact(&mut self, settled_to: i64) {
        if settled_to <= self.floor {
            return;
        }
        let mark = self.last_mark();
        let (under, above): (Vec<Entry>, Vec<Entry>) =
            self.tail.iter().partition(|e| e.seq <= settled_to);
        self.base_total += under.iter().map(|e| e.sign).sum::<i64>();
        self.base_unread += under
            .iter()
            .filter(|e| e.unread && e.of > mark)
            .map(|e| e.sign)
            .sum::<i64>();
        self.tail = above;
        self.floor = settled_to;
        // `read_to` is kept beside the marks. Because the oldest marks are dropped, all that are left
        // may be above the floor.
        let settled = self
            .marks
            .iter()
            .rev()
            .find(|(mark, _)| *mark <= settled_to);
        self.read_to = settled.map_or(self.read_to, |(mark, _)| *mark);
    }

    /// The fields to set on the document.
    pub fn to_document(&self) -> Document {
        let tail = self
            .tail
            .iter()
            .map(|e| Bson::from(vec![e.seq, e.of, e.sign, i64::from(e.unread)]))
            .collect::<Vec<_>>();
        let marks = self
            .marks
            .iter()
            .map(|(seq, at)| Bson::from(doc! {"seq": seq, "at": at}))
            .collect::<Vec<_>>();
        doc! {
            "latest": self.latest.map_or(Bson::Null, |(seq, id)| doc! {"seq": seq, "id": id}.into()),
            "total": self.total(),
            "unread": self.unread(),
            "revision": self.revision,
            "fold": {
                "floor": self.floor, "total": self.base_total, "unread": self.base_unread, "tail": tail, "marks": marks, "read_to": self.read_to,
            },
        }
    }

    /// Reads a document back. A damaged document counts anew from the readable part.
    pub fn from_document(document: &Document) -> Conversation {
        let empty = Document::new();
        let fold = document.get_document("fold").unwrap_or(&empty);
        let long_of = |d: &Document, name: &str| d.get_i64(name).unwrap_or_default();
        let entry = |b: &Bson| {
            let [seq, of, sign, unread] = b.as_array()?.as_slice() else {
                return None;
            };
            Some(Entry {
                seq: seq.as_i64()?,
                of: of.as_i64()?,
                sign: sign.as_i64()?,
                unread: unread.as_i64()? != 0,
            })
        };
        let mark = |b: &Bson| {
            let d = b.as_document()?;
            Some((d.get_i64("seq").ok()?, *d.get_datetime("at").ok()?))
        };
        Conversation {
            revision: long_of(document, "revision"),
            latest: document
                .get_document("latest")
                .ok()
                .and_then(|l| Some((l.get_i64("seq").ok()?, l.get_object_id("id").ok()?))),
            latest_is_stale: false,
            floor: long_of(fold, "floor"),
            base_total: long_of(fold, "total"),
            base_unread: long_of(fold, "unread"),
            tail: fold
                .get_array("tail")
                .map(|a| a.iter().filter_map(entry).collect())
                .unwrap_or_default(),
            marks: fold
                .get_array("marks")
                .map(|a| a.iter().filter_map(mark).collect())
                .unwrap_or_default(),
            read_to: long_of(fold, "read_to"),
        }
    }
}

/// An ack floor as a floor of the fold.
pub fn floor(settled_to: u64) -> i64 {
    long(settled_to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet, HashMap};

    /// Effects in the order of their sequences.
    fn history() -> impl Strategy<Value = Vec<Effect>> {
        prop::collection::vec((0..5u8, any::<prop::sample::Index>(), any::<bool>()), 1..30)
            .prop_map(|steps| {
                let mut left: Vec<(i64, bool)> = Vec::new();
                let mut effects = Vec::new();
                for (seq, (kind, which, unread)) in (1..).zip(steps) {
                    match kind {
                        0 if !left.is_empty() => {
                            let (of, unread) = left.remove(which.index(left.len()));
                            effects.push(Effect::Deleted { seq, of, unread });
                        }
                        1 => effects.push(Effect::Read {
                            seq,
                            at: DateTime::from_millis(seq),
                        }),
                        _ => {
                            left.push((seq, unread));
                            effects.push(Effect::Created {
                                seq,
                                id: ObjectId::from_bytes([7; 12]),
                                unread,
                            });
                        }
                    }
                }
                effects
            })
    }

    fn by_hand(history: &[Effect]) -> (i64, i64) {
        let mut left: Vec<(i64, bool)> = Vec::new();
        for effect in history {
            match *effect {
                Effect::Created { seq, unread, .. } => left.push((seq, unread)),
                Effect::Deleted { of, .. } => left.retain(|(seq, _)| *seq != of),
                Effect::Read { .. } => left.iter_mut().for_each(|(_, unread)| *unread = false),
            }
        }
        (
            left.len() as i64,
            left.iter().filter(|(_, unread)| *unread).count() as i64,
        )
    }

    proptest! {
        #[test]
        fn any_order_and_repetition_counts_the_same(history in history(), order in any::<prop::sample::Index>(), shuffle in prop::collection::vec(any::<u32>(), 60)) {
            let mut twice: Vec<Effect> = history.iter().chain(&history).copied().collect();
            twice.rotate_left(order.index(history.len()));
            let mut keyed: Vec<(u32, Effect)> = shuffle.into_iter().cycle().zip(twice).collect();
            keyed.sort_by_key(|(key, _)| *key);
            let mut conversation = Conversation::default();
            for (_, effect) in keyed {
                conversation.apply(effect);
                conversation = Conversation::from_document(&conversation.to_document());
            }
            prop_assert_eq!((conversation.total(), conversation.unread()), by_hand(&history));
        }

        #[test]
        fn compaction_changes_nothing_and_repetition_below_the_floor_is_ignored(history in history(), every in 1usize..5) {
            let mut conversation = Conversation::default();
            for (i, effect) in history.iter().enumerate() {
                conversation.apply(*effect);
                if i % every == 0 {
                    conversation.compact(i as i64 + 1);
                }
            }
            let counted = (conversation.total(), conversation.unread());
            prop_assert_eq!(counted, by_hand(&history));
            conversation.compact(history.len() as i64);
            for effect in &history {
                prop_assert!(!conversation.apply(*effect));
            }
            prop_assert_eq!((conversation.total(), conversation.unread()), counted);
            prop_assert!(conversation.tail.is_empty());
        }
    }

    /// A step of a replica with an event: the time, the event's sequence, and whether this is the
    /// second of the event's two steps.
    type Turn = (i64, i64, bool);

    /// Replicas at work on the events 1 to `count`, each event in two steps, and some with two
    /// replicas.
    fn turns(count: i64, delays: &[(i64, i64, bool)]) -> Vec<Turn> {
        let mut turns: Vec<Turn> = Vec::new();
        for (i, (before, between, again)) in (0..2 * count).zip(delays.iter().cycle()) {
            let (seq, is_second) = (i % count + 1, i >= count);
            if !is_second || *again {
                turns.push((seq + before, seq, false));
                turns.push((seq + before + between, seq, true));
            }
        }
        turns.sort_by_key(|(at, ..)| *at);
        turns
    }

    proptest! {
        /// Messages are inserted, then folded, and then marked if they were late. Marks are folded,
        /// and then mark the messages that are there.
        #[test]
        fn a_mark_that_begins_where_the_last_settled_one_ended_leaves_out_nothing(
            kinds in prop::collection::vec(any::<bool>(), 1..60),
            delays in prop::collection::vec((0i64..8, 0i64..8, any::<bool>()), 1..60),
        ) {
            let kind = |seq: i64| kinds[seq as usize - 1];
            let mut conversation = Conversation::default();
            // The messages that are there, by sequence, each with the mark that read it.
            let mut messages: BTreeMap<i64, Option<i64>> = BTreeMap::new();
            let mut done: BTreeSet<i64> = BTreeSet::new();
            let mut begun: HashMap<i64, i64> = HashMap::new();
            for (_, seq, is_second) in turns(kinds.len() as i64, &delays) {
                let settled = (1..).find(|seq| !done.contains(seq)).map_or(0, |next| next - 1);
                let effect = match kind(seq) {
                    true => Effect::Created { seq, id: ObjectId::from_bytes([7; 12]), unread: true },
                    false => Effect::Read { seq, at: DateTime::from_millis(seq) },
                };
                // The fold is the second step of a message, and the first of a mark.
                if kind(seq) == is_second && conversation.apply(effect) {
                    conversation.compact(settled);
                    conversation = Conversation::from_document(&conversation.to_document());
                }
                match (kind(seq), is_second) {
                    (true, false) => drop(messages.entry(seq).or_default()),
                    (true, true) => {
                        if let (Some((mark, _)), Some(read)) = (conversation.read_at(seq), messages.get_mut(&seq)) {
                            *read = Some(read.map_or(mark, |read| read.min(mark)));
                        }
                    }
                    (false, false) => drop(begun.insert(seq, conversation.read_to())),
                    (false, true) => {
                        let is_open = |read: &Option<i64>| read.is_none_or(|read| read > seq);
                        let all: Vec<i64> = messages.range(..seq).filter(|(_, read)| is_open(read)).map(|(of, _)| *of).collect();
                        prop_assert!(all.iter().all(|of| *of >= begun[&seq]), "{} from {} on: {:?}", seq, begun[&seq], all);
                        messages.extend(all.iter().map(|of| (*of, Some(seq))));
                    }
                }
                if is_second {
                    done.insert(seq);
                }
            }
            let first_above = |of: i64| (of..=kinds.len() as i64).find(|seq| !kind(*seq));
            prop_assert!(messages.iter().all(|(of, read)| *read == first_above(*of)), "{:?}", messages);
        }
    }

    #[test]
    fn the_last_settled_mark_is_known_also_when_more_have_come_than_are_kept() {
        let read = |seq: i64| Effect::Read {
            seq,
            at: DateTime::from_millis(seq),
        };
        let mut conversation = Conversation::default();
        conversation.apply(read(5));
        conversation.compact(4);
        assert_eq!(conversation.read_to(), 0);
        conversation.compact(6);
        assert_eq!(conversation.read_to(), 5);
        for seq in 10..10 + 2 * MAX_MARKS as i64 {
            conversation.apply(read(seq));
        }
        conversation.compact(9);
        assert_eq!(
            Conversation::from_document(&conversation.to_document()).read_to(),
            5
        );
    }
}
