//! Contacts: inserts of new contacts, and the fold of edits. Each document is written only onto the
//! revision from which it was read.

use std::collections::{HashMap, HashSet};

use contract::outcome::Outcome;
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc, oid::ObjectId};

use super::events_by_kind::{EventsByKind, Positioned, Verdict, wrong_tenant};
use crate::fold::contact::{self, Change};
use crate::mongo::bulk::{insert_new, update_many};
use crate::mongo::client::{DatabaseError, limited};
use crate::mongo::collections::Collections;
use crate::mongo::document::{self, oid};

/// Rounds of reading and writing at most. In each round another replica may have written one of the
/// contacts in between. Beyond that the batch fails and comes again.
const MAX_ROUNDS: usize = 50;

/// A change of a contact with its place in the batch and in the log.
struct PositionedChange<'a> {
    position: usize,
    company: ObjectId,
    change: Change<'a>,
    seq: u64,
}

/// Changes by contact. An id names one document, also if several companies use the id.
type Changes<'a> = HashMap<ObjectId, Vec<PositionedChange<'a>>>;

/// The result of folding a batch's changes into the documents that are there.
#[derive(Default)]
struct Folded {
    writes: Vec<Document>,
    /// Contacts that have been entered.
    entered: HashSet<ObjectId>,
    /// Positions of changes by companies that do not have the contact.
    wrong_tenant: Vec<usize>,
}

/// Enters contacts, edits them, and lifts suspensions of the bot.
pub async fn apply(
    collections: &Collections,
    events: &EventsByKind,
    verdicts: &mut [Verdict],
) -> Result<(), DatabaseError> {
    let documents: Vec<Document> = events
        .contacts
        .iter()
        .map(|c| contact::entered(&c.event, c.seq))
        .collect();
    let refused = insert_new(&collections.contacts, &documents).await?;
    let folded = fold(collections, &changes(events, &refused)).await?;
    for edit in &events.contact_edits {
        if !folded.entered.contains(&oid(edit.event.contact_id)) {
            // The contact is not there yet, and its placeholder has the edit.
            verdicts[edit.position] = Verdict::Applied(Outcome::NotFound);
        }
    }
    for position in folded.wrong_tenant {
        verdicts[position] = wrong_tenant();
    }
    Ok(())
}

/// The changes that the fold applies. A contact whose insert was refused is among them: it is there
/// already, or its placeholder is.
fn changes<'a>(events: &'a EventsByKind, refused: &[usize]) -> Changes<'a> {
    fn positioned<'a, T>(of: &'a Positioned<T>, change: Change<'a>) -> PositionedChange<'a> {
        PositionedChange {
            position: of.position,
            company: of.company(),
            change,
            seq: of.seq,
        }
    }
    let mut changes = Changes::new();
    let mut add = |id, change| changes.entry(oid(id)).or_default().push(change);
    for c in refused
        .iter()
        .filter_map(|index| events.contacts.get(*index))
    {
        add(c.event.id, positioned(c, Change::Entered(&c.event)));
    }
    for edit in &events.contact_edits {
        let change = Change::Edited(&edit.event.patch);
        add(edit.event.contact_id, positioned(edit, change));
    }
    for resume in &events.resumes {
        let change = Change::Resumed(document::date(resume.event.until));
        add(resume.event.contact_id, positioned(resume, change));
    }
    changes
}

async fn fold(collections: &Collections, changes: &Changes<'_>) -> Result<Folded, DatabaseError> {
    if changes.is_empty() {
        return Ok(Folded::default());
    }
    let contacts = &collections.contacts;
    for _ in 0..MAX_ROUNDS {
        let ids: Vec<ObjectId> = changes.keys().copied().collect();
        let find = async {
            let found = contacts.find(doc! {"_id": {"$in": ids}}).await?;
            Ok(found.try_collect::<Vec<Document>>().await?)
        };
        let known = limited(find)
            .await?
            .into_iter()
            .filter_map(|d| Some((d.get_object_id("_id").ok()?, d)))
            .collect();
        let mut folded = fold_onto(known, changes);
        let writes = std::mem::take(&mut folded.writes);
        let expected = writes.len() as u64;
        let done = update_many(contacts, writes).await?;
        if done.matched == expected && done.duplicates.is_empty() {
            return Ok(folded);
        }
        // Another replica wrote one of the contacts in between. In the next round the contacts that
        // were written here show no change.
    }
    Err(DatabaseError::Unavailable(format!(
        "contacts were changed by others {MAX_ROUNDS} times over"
    )))
}

/// Applies the changes to the documents that are there, and to placeholders of the others.
fn fold_onto(mut known: HashMap<ObjectId, Document>, changes: &Changes<'_>) -> Folded {
    let mut folded = Folded::default();
    for (id, changes) in changes {
        let found = known.remove(id);
        let is_new = found.is_none();
        // A contact that nobody has yet belongs to the company with the first change by sequence.
        let first = changes
            .iter()
            .min_by_key(|change| change.seq)
            .map(|change| change.company);
        let mut document = found.unwrap_or_else(|| doc! {"_id": id, "company_id": first});
        let company = document.get_object_id("company_id").ok();
        let (own, others): (Vec<&PositionedChange<'_>>, Vec<&PositionedChange<'_>>) = changes
            .iter()
            .partition(|change| Some(change.company) == company);
        folded
            .wrong_tenant
            .extend(others.iter().map(|change| change.position));
        let mut has_changed = false;
        for own in own {
            has_changed |= contact::apply(&mut document, own.change, own.seq);
        }
        if document.contains_key("seq") {
            folded.entered.insert(*id);
        }
        if has_changed {
            folded.writes.push(write(*id, document, is_new));
        }
    }
    folded
}

fn write(id: ObjectId, mut document: Document, is_new: bool) -> Document {
    let known = document.insert("revision", document::new_revision());
    match known {
        Some(known) => doc! {"q": {"_id": id, "revision": known}, "u": document},
        // The document is new, or is as it was entered. If another replica makes or changes it in
        // between, the upsert meets its `_id`. A new document must not match one that has been
        // entered in between, which has a sequence and no revision.
        None => {
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
    fn folded_edits(
        patches: &[ContactPatch],
        companies: &[ObjectId],
        known: Option<Document>,
    ) -> Folded {
        let edits = patches.iter().zip(companies).enumerate();
        let edits = edits.map(|(i, (patch, company))| PositionedChange {
            position: i,
            company: *company,
            change: Change::Edited(patch),
            seq: 9 - i as u64,
        });
        let changes = Changes::from([(CONTACT, edits.collect())]);
        fold_onto(known.into_iter().map(|d| (CONTACT, d)).collect(), &changes)
    }

    #[test]
    fn if_two_companies_use_one_contact_id_one_is_written_and_the_other_rejected() {
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
        // Nobody has the contact: the first change by sequence, which came last, decides.
        let folded = folded_edits(&patches, &[ONE, ONE, OTHER], None);
        assert_eq!(
            (written(&folded), folded.wrong_tenant),
            ((OTHER, "3".to_owned()), vec![0, 1])
        );
        // One company has the contact.
        let entered = doc! {"_id": CONTACT, "company_id": ONE, "seq": 1_i64};
        let folded = folded_edits(&patches, &[OTHER, ONE, OTHER], Some(entered));
        assert_eq!(
            (written(&folded), folded.wrong_tenant),
            ((ONE, "2".to_owned()), vec![0, 2])
        );
    }
}
