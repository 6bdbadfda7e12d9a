//! Contacts: inserts of new ones, and the fold of edits, each document onto the revision it was read from.

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc, oid::ObjectId};
use nats::outcome::Outcome;

use super::{Sorted, Verdict, View};
use crate::contact::{self, Change};
use crate::database::{DatabaseError, insert_new, limited, update_many};
use crate::document::{self, oid};

/// Rounds of reading and writing until no other replica was in between.
const MAX_ROUNDS: usize = 50;

/// The changes of one contact, each with its sequence.
type Changes<'a> = Vec<(Change<'a>, u64)>;

impl View {
    /// Enters contacts, edits them, and lifts suspensions of the bot.
    pub(super) async fn apply_contacts(&self, sorted: &Sorted, verdicts: &mut [Verdict]) -> Result<(), DatabaseError> {
        let documents: Vec<Document> = sorted.contacts.iter().map(|c| contact::entered(&c.event, c.seq)).collect();
        let refused = insert_new(&self.collections.contacts, &documents).await?;
        // A contact that is there came before, or has been edited before it came.
        let mut open: HashMap<(ObjectId, ObjectId), Changes<'_>> = HashMap::new();
        for c in refused.iter().filter_map(|index| sorted.contacts.get(*index)) {
            let key = (oid(c.event.id), oid(c.event.company_id));
            open.entry(key).or_default().push((Change::Entered(&c.event), c.seq));
        }
        let company = |position: usize| sorted.companies_of.get(&position).map(|c| oid(*c)).unwrap_or_default();
        for edit in &sorted.contact_edits {
            let key = (oid(edit.event.contact_id), company(edit.position));
            open.entry(key).or_default().push((Change::Edited(&edit.event.patch), edit.seq));
        }
        for resume in &sorted.resumes {
            let key = (oid(resume.event.contact_id), company(resume.position));
            open.entry(key).or_default().push((Change::Resumed(document::date(resume.event.until)), resume.seq));
        }
        let whole = self.fold_contacts(open).await?;
        for edit in &sorted.contact_edits {
            if !whole.contains(&oid(edit.event.contact_id)) {
                // Not there yet: the edit stands in the shell.
                verdicts[edit.position] = Verdict::Applied(Outcome::NotFound);
            }
        }
        Ok(())
    }

    /// The ids of those that have been entered.
    async fn fold_contacts(&self, open: HashMap<(ObjectId, ObjectId), Changes<'_>>) -> Result<HashSet<ObjectId>, DatabaseError> {
        if open.is_empty() {
            return Ok(HashSet::new());
        }
        for _ in 0..MAX_ROUNDS {
            let ids: Vec<ObjectId> = open.keys().map(|(id, _)| *id).collect();
            let find =
                async { Ok(self.collections.contacts.find(doc! {"_id": {"$in": ids}}).await?.try_collect::<Vec<Document>>().await?) };
            let found = limited(find).await?;
            let mut known: HashMap<ObjectId, Document> =
                found.into_iter().filter_map(|d| Some((d.get_object_id("_id").ok()?, d))).collect();
            let (mut whole, mut writes) = (HashSet::new(), Vec::new());
            for ((id, company), changes) in &open {
                let found = known.remove(id);
                let is_new = found.is_none();
                let mut document = found.unwrap_or_else(|| doc! {"_id": id, "company_id": company});
                if document.get_object_id("company_id").ok() != Some(*company) {
                    continue; // another company's: its id is only the caller's word
                }
                let changed = changes.iter().filter(|(change, seq)| contact::apply(&mut document, *change, *seq)).count() > 0;
                if document.contains_key("seq") {
                    whole.insert(*id);
                }
                if changed {
                    writes.push(write(*id, document, is_new));
                }
            }
            let expected = writes.len() as u64;
            let done = update_many(&self.collections.contacts, writes).await?;
            if done.matched == expected && done.duplicates.is_empty() {
                return Ok(whole);
            }
            // Else another replica wrote one of them in between; those that were written show no change now.
        }
        Err(DatabaseError::Unavailable(format!("contacts were changed by others {MAX_ROUNDS} times over")))
    }
}

fn write(id: ObjectId, mut document: Document, is_new: bool) -> Document {
    match document.get_i64("revision") {
        Ok(known) => {
            document.insert("revision", known + 1);
            doc! {"q": {"_id": id, "revision": known}, "u": document}
        }
        // New, or as it was entered: if another replica makes or changes it in between, the upsert meets its `_id`. A new one must not
        // match what has been entered since, which has a sequence and no revision.
        Err(_) => {
            document.insert("revision", 1_i64);
            doc! {"q": {"_id": id, "revision": {"$exists": false}, "seq": {"$exists": !is_new}}, "u": document, "upsert": true}
        }
    }
}
