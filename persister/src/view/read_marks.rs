//! Marks messages as read.

use std::collections::HashMap;

use contract::event::MessageRead;
use contract::outcome::Outcome;
use mongodb::Collection;
use mongodb::bson::{DateTime, Document, doc};

use super::conversations::{Folded, Key};
use super::events_by_kind::{EventsByKind, Positioned, Verdict};
use crate::mongo::bulk::{Updated, update_many};
use crate::mongo::client::{DatabaseError, limited};
use crate::mongo::collections::Collections;
use crate::mongo::document::{date, long, oid};

/// Messages that one command marks.
const WINDOW: u64 = 10_000;

/// Marks the messages that this batch's read events cover, and the messages of this batch that
/// earlier-applied read events cover.
pub async fn apply(
    collections: &Collections,
    events: &EventsByKind,
    folded: &Folded,
    verdicts: &mut [Verdict],
) -> Result<(), DatabaseError> {
    let messages = &collections.messages;
    let mut reads: Vec<&Positioned<MessageRead>> = events.read.iter().collect();
    reads.sort_unstable_by_key(|r| r.seq);
    // Each read event begins where the one before it ended, so a message is looked at once, however
    // many read events there are. A message that another replica inserts in between is late. Because
    // the read event is folded already, that replica marks the message.
    let mut marked: HashMap<Key, i64> = HashMap::new();
    for r in reads {
        let seq = long(r.seq);
        let from = Key::of_read(r)
            .map(|key| {
                marked
                    .get(&key)
                    .copied()
                    .unwrap_or_else(|| folded.read_to(&key))
            })
            .min();
        let between = doc! {"$gte": from.unwrap_or_default(), "$lt": seq};
        let mut filter = doc! {"company_id": r.company(), "contact_id": oid(r.event.contact_id), "direction": "inbound", "seq": between};
        if let Some(platform) = r.event.platform {
            filter.insert("platform", platform.as_str());
        }
        filter.extend(unread_at(seq));
        let done = mark_all(messages, filter, set_read(seq, date(r.occurred_at))).await?;
        verdicts[r.position] = Verdict::Applied(Outcome::Applied {
            matched: done.matched,
            modified: done.modified,
        });
        marked.extend(Key::of_read(r).map(|key| (key, seq)));
    }
    let late = folded.read_late().map(|(id, seq, at)| {
        let mut filter = doc! {"_id": id};
        filter.extend(unread_at(seq));
        doc! {"q": filter, "u": set_read(seq, at)}
    });
    let late: Vec<Document> = late.collect();
    if !late.is_empty() {
        update_many(messages, late).await?;
    }
    Ok(())
}

/// Marks what the filter matches, some [`WINDOW`] messages with each command. A conversation may have
/// millions of unread messages, and one command for all of them would keep every other company's
/// events waiting until it times out, again and again.
async fn mark_all(
    messages: &Collection<Document>,
    filter: Document,
    set: Document,
) -> Result<Updated, DatabaseError> {
    let mut all = Updated::default();
    loop {
        let last = limited(async {
            let found = messages
                .find_one(filter.clone())
                .sort(doc! {"seq": 1})
                .skip(WINDOW)
                .projection(doc! {"seq": 1});
            Ok(found.await?)
        });
        let last = last
            .await?
            .and_then(|document| document.get_i64("seq").ok());
        let mut window = filter.clone();
        if let (Some(last), Ok(between)) = (last, window.get_document_mut("seq")) {
            between.insert("$lt", last);
        }
        let mark = doc! {"q": window, "u": set.clone(), "multi": true};
        let done = update_many(messages, vec![mark]).await?;
        all.matched += done.matched;
        all.modified += done.modified;
        if last.is_none() {
            return Ok(all);
        }
    }
}

/// Matches messages that no read event up to this sequence has marked.
fn unread_at(seq: i64) -> Document {
    doc! {"$or": [{"applied.read": {"$exists": false}}, {"applied.read": {"$gt": seq}}]}
}

fn set_read(seq: i64, at: DateTime) -> Document {
    doc! {"$set": {"read": true, "read_at": at, "applied.read": seq}}
}
