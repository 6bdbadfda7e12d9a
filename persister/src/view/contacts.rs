//! Contacts: inserts of new ones, and the fold of edits, each document onto the revision it was
//! read from.

use std::collections::{HashMap, HashSet};

use contract::outcome::Outcome;
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc, oid::ObjectId};

use super::{Sorted, Verdict, View, foreign};
use crate::fold::contact::{self, Change};
use crate::mongo::document::{self, oid};
use crate::mongo::{DatabaseError, insert_new, limited, update_many};

/// Rounds of reading and writing until no other replica was in between.
const MAX_ROUNDS: usize = 50;

/// A change of a contact, as the log has it.
struct Told<'a> {
    position: usize,
    company: ObjectId,
    change: Change<'a>,
    seq: u64,
}

/// By contact. An id is one document, whichever companies speak of it.
type Changes<'a> = HashMap<ObjectId, Vec<Told<'a>>>;

/// What becomes of changes, given what is there.
#[derive(Default)]
struct Folded {
    writes: Vec<Document>,
    /// Contacts that have been entered.
    whole: HashSet<ObjectId>,
    /// Positions of changes by companies that do not have the contact.
    foreign: Vec<usize>,
}

impl View {
    /// Enters contacts, edits them, and lifts suspensions of the bot.
    pub(super) async fn apply_contacts(
        &self,
        sorted: &Sorted,
        verdicts: &mut [Verdict],
    ) -> Result<(), DatabaseError> {
        let documents: Vec<Document> = sorted
            .contacts
            .iter()
            .map(|c| contact::entered(&c.event, c.seq))
            .collect();
        let refused = insert_new(&self.collections.contacts, &documents).await?;
        let mut changes = Changes::new();
        let mut tell = |id, position, seq, change| {
            let told = Told {
                position,
                company: sorted.company(position),
                change,
                seq,
            };
            changes.entry(oid(id)).or_default().push(told);
        };
        // A contact that is there came before, or has been edited before it came.
        for c in refused
            .iter()
            .filter_map(|index| sorted.contacts.get(*index))
        {
            tell(c.event.id, c.position, c.seq, Change::Entered(&c.event));
        }
        for edit in &sorted.contact_edits {
            tell(
                edit.event.contact_id,
                edit.position,
                edit.seq,
                Change::Edited(&edit.event.patch),
            );
        }
        for resume in &sorted.resumes {
            tell(
                resume.event.contact_id,
                resume.position,
                resume.seq,
                Change::Resumed(document::date(resume.event.until)),
            );
        }
        let folded = self.fold_contacts(&changes).await?;
        for edit in &sorted.contact_edits {
            if !folded.whole.contains(&oid(edit.event.contact_id)) {
                // Not there yet: the edit stands in the shell.
                verdicts[edit.position] = Verdict::Applied(Outcome::NotFound);
            }
        }
        for position in folded.foreign {
            verdicts[position] = foreign();
        }
        Ok(())
    }

    async fn fold_contacts(&self, changes: &Changes<'_>) -> Result<Folded, DatabaseError> {
        if changes.is_empty() {
            return Ok(Folded::default());
        }
        for _ in 0..MAX_ROUNDS {
            let ids: Vec<ObjectId> = changes.keys().copied().collect();
            let find = async {
                Ok(self
                    .collections
                    .contacts
                    .find(doc! {"_id": {"$in": ids}})
                    .await?
                    .try_collect::<Vec<Document>>()
                    .await?)
            };
            let found = limited(find).await?;
            let mut folded = fold(
                changes,
                found
                    .into_iter()
                    .filter_map(|d| Some((d.get_object_id("_id").ok()?, d)))
                    .collect(),
            );
            let writes = std::mem::take(&mut folded.writes);
            let expected = writes.len() as u64;
            let done = update_many(&self.collections.contacts, writes).await?;
            if done.matched == expected && done.duplicates.is_empty() {
                return Ok(folded);
            }
            // Else another replica wrote one of them in between; those that were written show no
            // change now.
        }
        Err(DatabaseError::Unavailable(format!(
            "contacts were changed by others {MAX_ROUNDS} times over"
        )))
    }
}

/// Applies the changes to the documents that are there, and to shells where none is.
fn fold(changes: &Changes<'_>, mut known: HashMap<ObjectId, Document>) -> Folded {
    let mut folded = Folded::default();
    for (id, told) in changes {
        let found = known.remove(id);
        let is_new = found.is_none();
        // What nobody has yet is the first one's who speaks of it.
        let first = told
            .iter()
            .min_by_key(|told| told.seq)
            .map(|told| told.company);
        let mut document = found.unwrap_or_else(|| doc! {"_id": id, "company_id": first});
        let company = document.get_object_id("company_id").ok();
        let (own, others): (Vec<&Told<'_>>, Vec<&Told<'_>>) =
            told.iter().partition(|told| Some(told.company) == company);
        folded
            .foreign
            .extend(others.iter().map(|told| told.position));
        let changed = own
            .iter()
            .filter(|told| contact::apply(&mut document, told.change, told.seq))
            .count()
            > 0;
        if document.contains_key("seq") {
            folded.whole.insert(*id);
        }
        if changed {
            folded.writes.push(write(*id, document, is_new));
        }
    }
    folded
}

fn write(id: ObjectId, mut document: Document, is_new: bool) -> Document {
    match document.get_i64("revision") {
        Ok(known) => {
            document.insert("revision", known + 1);
            doc! {"q": {"_id": id, "revision": known}, "u": document}
        }
        // New, or as it was entered: if another replica makes or changes it in between, the upsert
        // meets its `_id`. A new one must not match what has been entered since, which has a
        // sequence and no revision.
        Err(_) => {
            document.insert("revision", 1_i64);
            doc! {"q": {"_id": id, "revision": {"$exists": false}, "seq": {"$exists": !is_new}}, "u": document, "upsert": true}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::domain::{ContactPatch, ShortText};

    const CONTACT: ObjectId = ObjectId::from_bytes([1; 12]);
    const ONE: ObjectId = ObjectId::from_bytes([2; 12]);
    const OTHER: ObjectId = ObjectId::from_bytes([3; 12]);

    /// Edits of one contact in one batch, the latest first.
    fn told(patches: &[ContactPatch], companies: &[ObjectId], known: Option<Document>) -> Folded {
        let told = patches.iter().zip(companies).enumerate();
        let told = told.map(|(i, (patch, company))| Told {
            position: i,
            company: *company,
            change: Change::Edited(patch),
            seq: 9 - i as u64,
        });
        let changes = Changes::from([(CONTACT, told.collect())]);
        fold(&changes, known.into_iter().map(|d| (CONTACT, d)).collect())
    }

    #[test]
    fn of_two_companies_that_speak_of_one_id_in_a_batch_one_is_written_and_the_other_rejected() {
        let phone = |n: &str| ContactPatch {
            phone: Some(Some(ShortText::new(n).unwrap())),
            ..ContactPatch::default()
        };
        let patches = [phone("1"), phone("2"), phone("3")];
        let written = |folded: &Folded| {
            let [write] = folded.writes.as_slice() else {
                panic!(
                    "two writes of one id never both succeed: {:?}",
                    folded.writes
                )
            };
            let document = write.get_document("u").unwrap();
            (
                document.get_object_id("company_id").unwrap(),
                document.get_str("phone").unwrap().to_owned(),
            )
        };
        // Nobody has it: the first by sequence, which came last.
        let folded = told(&patches, &[ONE, ONE, OTHER], None);
        assert_eq!(
            (written(&folded), folded.foreign),
            ((OTHER, "3".to_owned()), vec![0, 1])
        );
        // One has it.
        let entered = doc! {"_id": CONTACT, "company_id": ONE, "seq": 1_i64};
        let folded = told(&patches, &[OTHER, ONE, OTHER], Some(entered));
        assert_eq!(
            (written(&folded), folded.foreign),
            ((ONE, "2".to_owned()), vec![0, 2])
        );
    }
}
