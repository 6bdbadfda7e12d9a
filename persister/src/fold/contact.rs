//! What a contact's document becomes by entering and editing it. A pure fold that gives the same
//! document in any order and however often an event comes: each field remembers the sequence that
//! set it. No I/O.

use std::collections::BTreeSet;

use contract::domain::{Contact, ContactPatch};
use mongodb::bson::{Bson, DateTime, Document};

use crate::fold::suspension::{self, Told};
use crate::mongo::document::{self, long};

/// Where the sequences stand that set the fields.
const APPLIED: &str = "applied";
/// Words by which a contact is found.
const MAX_WORDS: usize = 64;
/// A longer word is found by its beginning.
const MAX_WORD_CHARS: usize = 32;
/// Fields by whose words a contact is found, paths of at most two names.
const SEARCHED: [&str; 9] = [
    "fullName",
    "email",
    "phone",
    "socialNetworkName",
    "profile.name",
    "social.facebookId",
    "social.instagramId",
    "social.telegramId",
    "social.whatsappId",
];

/// One event of a contact.
#[derive(Clone, Copy)]
pub enum Change<'a> {
    /// It was entered.
    Entered(&'a Contact),
    /// It was edited.
    Edited(&'a ContactPatch),
    /// A suspension of the bot until this time is over.
    Resumed(DateTime),
}

/// The document of a contact that is new.
pub fn entered(contact: &Contact, seq: u64) -> Document {
    let mut document = document::contact(contact, seq);
    index_words(&mut document);
    document
}

/// Applies a change to what is there, be it a shell; false if it was known.
pub fn apply(document: &mut Document, change: Change<'_>, seq: u64) -> bool {
    let changed = match change {
        Change::Entered(_) if document.contains_key("seq") => false,
        Change::Entered(contact) => {
            let edited = std::mem::replace(document, document::contact(contact, seq));
            let applied = edited.get_document(APPLIED).cloned().unwrap_or_default();
            for path in applied.keys() {
                let path = path.replace(':', ".");
                set(
                    document,
                    &path,
                    get(&edited, &path).cloned().unwrap_or(Bson::Null),
                );
            }
            // What it is written onto is not the contact's own; nor is what the shell was told of
            // suspensions.
            for kept in ["revision", suspension::FIELD] {
                if let Some(value) = edited.get(kept) {
                    document.insert(kept, value);
                }
            }
            if edited.contains_key(suspension::FIELD) {
                if !applied.contains_key("botSuspended") {
                    suspension::note_suspended(document, Some(contact.bot_suspended));
                }
                if let Some(until) = contact.bot_suspend_until {
                    suspension::note(
                        document,
                        Told::Until(Some(document::date(until))),
                        long(seq),
                    );
                }
            }
            if !applied.is_empty() {
                document.insert(APPLIED, applied);
            }
            true
        }
        Change::Edited(patch) => {
            let mut applied = document.get_document(APPLIED).cloned().unwrap_or_default();
            let mut changed = false;
            for (path, value) in document::contact_edit(patch) {
                if path == "botSuspendUntil" {
                    changed |= suspension::note(
                        document,
                        Told::Until(value.as_datetime().copied()),
                        long(seq),
                    );
                }
                // A dot in a name would read as a path.
                let name = path.replace('.', ":");
                if applied.get_i64(&name).is_ok_and(|by| by >= long(seq)) {
                    continue;
                }
                applied.insert(name, long(seq));
                if path == "botSuspended" {
                    suspension::note_suspended(document, value.as_bool());
                }
                set(document, &path, value);
                changed = true;
            }
            if changed {
                document.insert(APPLIED, applied);
            }
            changed
        }
        Change::Resumed(until) => suspension::note(document, Told::Resumed(until), long(seq)),
    };
    if changed {
        suspension::settle(document, suspended_by(document));
        index_words(document);
    }
    changed
}

/// The sequence that set `botSuspended`; `None` in a shell that does not know it.
fn suspended_by(document: &Document) -> Option<i64> {
    let edited = document
        .get_document(APPLIED)
        .and_then(|applied| applied.get_i64("botSuspended"));
    edited.or_else(|_| document.get_i64("seq")).ok()
}

fn get<'a>(document: &'a Document, path: &str) -> Option<&'a Bson> {
    match path.split_once('.') {
        Some((outer, inner)) => document.get_document(outer).ok()?.get(inner),
        None => document.get(path),
    }
}

fn set(document: &mut Document, path: &str, value: Bson) {
    match path.split_once('.') {
        Some((outer, inner)) => {
            let mut part = document.get_document(outer).cloned().unwrap_or_default();
            set(&mut part, inner, value);
            document.insert(outer, part);
        }
        None if value == Bson::Null => drop(document.remove(path)),
        None => drop(document.insert(path, value)),
    }
}

fn index_words(document: &mut Document) {
    let texts = SEARCHED
        .iter()
        .filter_map(|path| get(document, path)?.as_str());
    let found: BTreeSet<String> = texts.flat_map(words).collect();
    let found: Vec<String> = found.into_iter().take(MAX_WORDS).collect();
    document.insert("search", found);
}

/// The words of a text as they are searched: lower case, letters and digits only. A text of several
/// words without a letter, such as a phone number, is one more word.
pub fn words(text: &str) -> Vec<String> {
    let cut = |word: &str| {
        word.to_lowercase()
            .chars()
            .take(MAX_WORD_CHARS)
            .collect::<String>()
    };
    let mut words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
        .map(cut)
        .collect();
    if words.len() > 1 && !text.contains(char::is_alphabetic) {
        words.push(cut(&words.concat()));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::Timestamp;
    use contract::domain::{ShortText, SocialPatch};
    use contract::event::{Envelope, Event};
    use proptest::prelude::*;

    fn contact() -> Contact {
        let file = format!(
            "{}/../nats/golden/contact.created.v1.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let Event::ContactCreated(contact) = Envelope::from_json(&std::fs::read(file).unwrap())
            .unwrap()
            .event
        else {
            panic!()
        };
        *contact
    }

    fn maybe() -> impl Strategy<Value = Option<Option<ShortText>>> {
        prop_oneof![
            Just(None),
            Just(Some(None)),
            "[a-c]{1,3}".prop_map(|t| Some(Some(ShortText::new(&t).unwrap())))
        ]
    }

    fn time() -> impl Strategy<Value = Timestamp> {
        (0i64..3).prop_map(Timestamp::from_millis)
    }

    fn patch() -> impl Strategy<Value = ContactPatch> {
        let until = prop::option::of(prop::option::of(time()));
        let all = (
            maybe(),
            maybe(),
            maybe(),
            prop::option::of(any::<bool>()),
            until,
        );
        all.prop_map(
            |(phone, lead_stage, facebook_id, bot_suspended, bot_suspend_until)| ContactPatch {
                phone,
                lead_stage,
                bot_suspended,
                bot_suspend_until,
                social: SocialPatch {
                    facebook_id,
                    ..SocialPatch::default()
                },
                ..ContactPatch::default()
            },
        )
    }

    /// An edit, or the end of a suspension.
    fn change() -> impl Strategy<Value = Result<ContactPatch, Timestamp>> {
        prop_oneof![3 => patch().prop_map(Ok), 1 => time().prop_map(Err)]
    }

    /// More changes than a contact remembers one by one. `botSuspended` is edited seldom, so that
    /// what was lifted long ago still holds.
    fn many_changes() -> impl Strategy<Value = Vec<Result<ContactPatch, Timestamp>>> {
        let suspend = any::<bool>().prop_map(|is| {
            Ok(ContactPatch {
                bot_suspended: Some(is),
                ..ContactPatch::default()
            })
        });
        let until = prop::option::of(time());
        let until = until.prop_map(|until| {
            Ok(ContactPatch {
                bot_suspend_until: Some(until),
                ..ContactPatch::default()
            })
        });
        let change = prop_oneof![1 => suspend, 15 => until, 15 => time().prop_map(Err)];
        prop::collection::vec(change, suspension::KEPT..4 * suspension::KEPT)
    }

    fn changes(told: &[Result<ContactPatch, Timestamp>]) -> Vec<(Change<'_>, u64)> {
        fn change(told: &Result<ContactPatch, Timestamp>) -> Change<'_> {
            match told {
                Ok(patch) => Change::Edited(patch),
                Err(until) => Change::Resumed(document::date(*until)),
            }
        }
        told.iter().map(change).zip(2..).collect()
    }

    /// All that happens to a contact, and its document if it is told in order.
    fn in_order<'a>(
        contact: &'a Contact,
        told: &'a [Result<ContactPatch, Timestamp>],
    ) -> (Vec<(Change<'a>, u64)>, Document) {
        let mut events = vec![(Change::Entered(contact), 1)];
        events.extend(changes(told));
        // As it is inserted where it comes first.
        let mut straight = super::entered(contact, 1);
        for (change, seq) in &events {
            apply(&mut straight, *change, *seq);
        }
        (events, straight)
    }

    #[test]
    fn an_edit_of_nothing_leaves_no_trace() {
        let mut shell = Document::new();
        assert!(!apply(
            &mut shell,
            Change::Edited(&ContactPatch::default()),
            2
        ));
        assert!(shell.is_empty(), "{shell}");
    }

    proptest! {
        #[test]
        fn any_order_and_repetition_give_the_same_document(
            entered in (any::<bool>(), prop::option::of(time())),
            told in prop::collection::vec(change(), 0..8),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..16),
        ) {
            let contact = Contact { bot_suspended: entered.0, bot_suspend_until: entered.1, ..contact() };
            let (events, straight) = in_order(&contact, &told);
            let mut shuffled = Document::new();
            for index in &order {
                let (change, seq) = index.get(&events);
                apply(&mut shuffled, *change, *seq);
            }
            for (change, seq) in events.iter().rev() {
                apply(&mut shuffled, *change, *seq);
            }
            // The order of names in `applied` is the order of arrival.
            let sorted = |d: &Document| serde_json::to_value(d).unwrap();
            prop_assert_eq!(sorted(&straight), sorted(&shuffled));
        }
    }

    proptest! {
        /// As above, when a contact is told more than it remembers one by one. Fewer than that are
        /// on their way at once.
        #[test]
        fn a_long_history_gives_the_same_document_however_it_arrives(
            entered in (any::<bool>(), prop::option::of(time())),
            told in many_changes(),
            delays in prop::collection::vec(0..suspension::KEPT, 1..50),
        ) {
            let contact = Contact { bot_suspended: entered.0, bot_suspend_until: entered.1, ..contact() };
            let (events, straight) = in_order(&contact, &told);
            let delayed = events.iter().enumerate().zip(delays.iter().cycle());
            let mut arriving: Vec<(usize, (Change<'_>, u64))> = delayed.map(|((place, event), delay)| (place + delay, *event)).collect();
            arriving.sort_by_key(|(at, _)| *at);
            let mut shuffled = Document::new();
            for (number, (_, (change, seq))) in arriving.iter().enumerate() {
                apply(&mut shuffled, *change, *seq);
                // Some old one comes again.
                let (_, (again, of)) = arriving[number * 7 / 11];
                apply(&mut shuffled, again, of);
            }
            let sorted = |d: &Document| serde_json::to_value(d).unwrap();
            prop_assert_eq!(sorted(&straight), sorted(&shuffled));
        }
    }

    proptest! {
        /// What clients see is what a person would say who hears the events in their order.
        #[test]
        fn a_suspension_ends_only_if_its_time_is_still_the_one_that_was_set(
            told in prop_oneof![prop::collection::vec(change(), 0..8), many_changes()],
        ) {
            let contact = contact();
            let mut document = entered(&contact, 1);
            let (mut suspended, mut until) = (contact.bot_suspended, contact.bot_suspend_until);
            for ((change, seq), told) in changes(&told).into_iter().zip(&told) {
                match told {
                    Ok(patch) => {
                        suspended = patch.bot_suspended.unwrap_or(suspended);
                        until = patch.bot_suspend_until.unwrap_or(until);
                    }
                    Err(passed) if until == Some(*passed) => (suspended, until) = (false, None),
                    Err(_) => {}
                }
                apply(&mut document, change, seq);
            }
            prop_assert_eq!(document.get_bool("botSuspended").ok(), Some(suspended));
            prop_assert_eq!(document.get_datetime("botSuspendUntil").ok().copied(), until.map(document::date));
        }
    }

    #[test]
    fn words_are_lower_case_and_a_phone_number_is_found_as_a_whole() {
        assert_eq!(words("Éva  O'Neil"), ["éva", "o", "neil"]);
        assert_eq!(
            words("+49 (170) 12-3"),
            ["49", "170", "12", "3", "49170123"]
        );
        assert_eq!(words(" $gt: "), ["gt"]);
    }
}
