//! What a contact's document becomes when the contact is entered and edited. A pure fold: each field
//! remembers the sequence that set it, so the events give the same document in any order and
//! however often they come. No I/O.

use std::collections::BTreeSet;

use contract::domain::{Contact, ContactPatch};
use mongodb::bson::{Bson, DateTime, Document};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use crate::fold::suspension;
use crate::mongo::document::{self, long};

/// The field that has the sequence by which each other field was set.
const APPLIED: &str = "applied";
/// Words by which a contact is found, at most. Further words are not indexed.
const MAX_WORDS: usize = 64;
/// Characters of a word that are indexed. A longer word is found by its beginning.
const MAX_WORD_CHARS: usize = 32;
/// Digits of a phone number without its country's code, at least. A shorter end of a number is not
/// indexed, because too many contacts would be found by it.
const NATIONAL_DIGITS: usize = 6;
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
    Entered(&'a Contact),
    Edited(&'a ContactPatch),
    /// The bot's suspension until this time is over.
    Resumed(DateTime),
}

/// The document of a new contact.
pub fn entered(contact: &Contact, seq: u64) -> Document {
    let mut document = document::contact(contact, seq);
    index_words(&mut document);
    document
}

/// Applies a change to a contact's document, or to its placeholder. Returns false if the change is
/// known.
pub fn apply(document: &mut Document, change: Change<'_>, seq: u64) -> bool {
    let changed = match change {
        Change::Entered(_) if document.contains_key("seq") => false,
        Change::Entered(contact) => {
            enter(document, contact, seq);
            true
        }
        Change::Edited(patch) => edit(document, patch, seq),
        Change::Resumed(until) => {
            suspension::record(document, suspension::Change::Resumed(until), long(seq))
        }
    };
    if changed {
        suspension::write_state(document, suspended_by(document));
        index_words(document);
    }
    changed
}

/// Puts a contact under the edits that its placeholder has.
fn enter(placeholder: &mut Document, contact: &Contact, seq: u64) {
    let edited = std::mem::replace(placeholder, document::contact(contact, seq));
    let document = placeholder;
    let applied = edited.get_document(APPLIED).cloned().unwrap_or_default();
    for path in applied.keys() {
        let path = path.replace(':', ".");
        let value = get(&edited, &path).cloned().unwrap_or(Bson::Null);
        set(document, &path, value);
    }
    // These two fields are not the contact's own, and describe the placeholder.
    for kept in ["revision", suspension::FIELD] {
        if let Some(value) = edited.get(kept) {
            document.insert(kept, value);
        }
    }
    if edited.contains_key(suspension::FIELD) {
        if !applied.contains_key("botSuspended") {
            suspension::record_suspended(document, Some(contact.bot_suspended));
        }
        if let Some(until) = contact.bot_suspend_until {
            let until = suspension::Change::Until(Some(document::date(until)));
            suspension::record(document, until, long(seq));
        }
    }
    if !applied.is_empty() {
        document.insert(APPLIED, applied);
    }
}

/// Sets the fields of an edit that no later edit has set. Returns false if nothing changed.
fn edit(document: &mut Document, patch: &ContactPatch, seq: u64) -> bool {
    let mut applied = document.get_document(APPLIED).cloned().unwrap_or_default();
    let mut changed = false;
    for (path, value) in document::contact_edit(patch) {
        if path == "botSuspendUntil" {
            let until = suspension::Change::Until(value.as_datetime().copied());
            changed |= suspension::record(document, until, long(seq));
        }
        // A dot in a field's name would read as a path.
        let name = path.replace('.', ":");
        if applied.get_i64(&name).is_ok_and(|by| by >= long(seq)) {
            continue;
        }
        applied.insert(name, long(seq));
        if path == "botSuspended" {
            suspension::record_suspended(document, value.as_bool());
        }
        set(document, &path, value);
        changed = true;
    }
    if changed {
        document.insert(APPLIED, applied);
    }
    changed
}

/// The sequence that set `botSuspended`. `None` in a placeholder where nothing has set the field.
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
    let texts = || {
        let texts = SEARCHED.iter();
        texts.filter_map(|path| Some((*path, get(document, path)?.as_str()?)))
    };
    let whole: BTreeSet<String> = texts().flat_map(|(_, text)| words(text)).collect();
    let inner: BTreeSet<String> = texts()
        .flat_map(|(path, text)| inner_words(path, text))
        .collect();
    // If there are too many, those that begin within a word are left out first.
    let found = whole.iter().chain(inner.difference(&whole));
    let found: Vec<&String> = found.take(MAX_WORDS).collect();
    document.insert("search", found);
}

/// The words of a text for the search: lower case, without accents, letters and digits only. A text
/// of several words without a letter, such as a phone number, gives one more word, which is the whole
/// number.
pub fn words(text: &str) -> Vec<String> {
    let folded: String = text.nfkd().filter(|c| !is_combining_mark(*c)).collect();
    let cut = |word: &str| {
        word.to_lowercase()
            .chars()
            .take(MAX_WORD_CHARS)
            .collect::<String>()
    };
    let mut words: Vec<String> = folded
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
        .map(cut)
        .collect();
    if words.len() > 1 && !folded.contains(char::is_alphabetic) {
        words.push(cut(&words.concat()));
    }
    words
}

/// Further beginnings by which a contact is found. A script without spaces has a word at each of its
/// characters. A phone number is dialled with or without the code of its country, which has one to
/// three digits.
fn inner_words(path: &str, text: &str) -> Vec<String> {
    const COUNTRY_CODE_DIGITS: usize = 3;
    let after = |word: &String, count: usize| word.chars().skip(count).collect::<String>();
    if path == "phone" {
        let whole = words(text)
            .pop()
            .filter(|_| !text.contains(char::is_alphabetic));
        let national = whole
            .iter()
            .flat_map(|whole| (1..=COUNTRY_CODE_DIGITS).map(move |count| after(whole, count)));
        return national.filter(|n| n.len() >= NATIONAL_DIGITS).collect();
    }
    let unspaced = words(text)
        .into_iter()
        .filter(|word| word.contains(is_unspaced));
    let inner = unspaced.flat_map(|word| {
        let ends: Vec<String> = (1..word.chars().count())
            .map(|count| after(&word, count))
            .collect();
        ends
    });
    inner.collect()
}

/// Whether a character is of a script that puts no spaces between words: Thai, Lao, Chinese and
/// Japanese.
fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{e00}'..='\u{eff}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}')
}

/// A phone number as it stands after its country's code: without the zeros that it is dialled with at
/// home, or from abroad. `None` if the text is no such number.
pub fn national_number(text: &str) -> Option<String> {
    let whole = words(text).pop()?;
    let number = whole.trim_start_matches('0');
    let is_number = !text.contains(char::is_alphabetic) && number.len() < whole.len();
    (is_number && number.len() >= NATIONAL_DIGITS).then(|| number.to_owned())
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

    /// An edit, or the end of a suspension until a time.
    fn change() -> impl Strategy<Value = Result<ContactPatch, Timestamp>> {
        prop_oneof![3 => patch().prop_map(Ok), 1 => time().prop_map(Err)]
    }

    /// More changes than a contact remembers one by one. `botSuspended` is edited seldom. Otherwise
    /// no test would see that a suspension lifted long ago stays lifted.
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

    fn changes(history: &[Result<ContactPatch, Timestamp>]) -> Vec<(Change<'_>, u64)> {
        fn change(change: &Result<ContactPatch, Timestamp>) -> Change<'_> {
            match change {
                Ok(patch) => Change::Edited(patch),
                Err(until) => Change::Resumed(document::date(*until)),
            }
        }
        history.iter().map(change).zip(2..).collect()
    }

    /// All events of a contact, and its document after they were applied in order.
    fn in_order<'a>(
        contact: &'a Contact,
        history: &'a [Result<ContactPatch, Timestamp>],
    ) -> (Vec<(Change<'a>, u64)>, Document) {
        let mut events = vec![(Change::Entered(contact), 1)];
        events.extend(changes(history));
        // A contact that comes before its edits is inserted like this.
        let mut straight = super::entered(contact, 1);
        for (change, seq) in &events {
            apply(&mut straight, *change, *seq);
        }
        (events, straight)
    }

    #[test]
    fn an_edit_of_nothing_leaves_no_trace() {
        let mut placeholder = Document::new();
        assert!(!apply(
            &mut placeholder,
            Change::Edited(&ContactPatch::default()),
            2
        ));
        assert!(placeholder.is_empty(), "{placeholder}");
    }

    proptest! {
        #[test]
        fn any_order_and_repetition_give_the_same_document(
            entered in (any::<bool>(), prop::option::of(time())),
            history in prop::collection::vec(change(), 0..8),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..16),
        ) {
            let contact = Contact { bot_suspended: entered.0, bot_suspend_until: entered.1, ..contact() };
            let (events, straight) = in_order(&contact, &history);
            let mut shuffled = Document::new();
            for index in &order {
                let (change, seq) = index.get(&events);
                apply(&mut shuffled, *change, *seq);
            }
            for (change, seq) in events.iter().rev() {
                apply(&mut shuffled, *change, *seq);
            }
            // As JSON, because the order of names in `applied` is the order of arrival.
            let sorted = |d: &Document| serde_json::to_value(d).unwrap();
            prop_assert_eq!(sorted(&straight), sorted(&shuffled));
        }
    }

    proptest! {
        /// The same for more changes than a contact remembers one by one. Fewer than that many are
        /// on their way at once.
        #[test]
        fn a_long_history_gives_the_same_document_however_it_arrives(
            entered in (any::<bool>(), prop::option::of(time())),
            history in many_changes(),
            delays in prop::collection::vec(0..suspension::KEPT, 1..50),
        ) {
            let contact = Contact { bot_suspended: entered.0, bot_suspend_until: entered.1, ..contact() };
            let (events, straight) = in_order(&contact, &history);
            let delayed = events.iter().enumerate().zip(delays.iter().cycle());
            let mut arriving: Vec<(usize, (Change<'_>, u64))> = delayed.map(|((index, event), delay)| (index + delay, *event)).collect();
            arriving.sort_by_key(|(at, _)| *at);
            let mut shuffled = Document::new();
            for (number, (_, (change, seq))) in arriving.iter().enumerate() {
                apply(&mut shuffled, *change, *seq);
                // An earlier event comes again.
                let (_, (again, of)) = arriving[number * 7 / 11];
                apply(&mut shuffled, again, of);
            }
            let sorted = |d: &Document| serde_json::to_value(d).unwrap();
            prop_assert_eq!(sorted(&straight), sorted(&shuffled));
        }
    }

    proptest! {
        /// Clients see what a reader of the events in their order would expect.
        #[test]
        fn a_suspension_ends_only_if_its_time_is_still_the_one_that_was_set(
            history in prop_oneof![prop::collection::vec(change(), 0..8), many_changes()],
        ) {
            let contact = contact();
            let mut document = entered(&contact, 1);
            let (mut suspended, mut until) = (contact.bot_suspended, contact.bot_suspend_until);
            for ((change, seq), event) in changes(&history).into_iter().zip(&history) {
                match event {
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
        assert_eq!(words("Éva  O'Neil"), ["eva", "o", "neil"]);
        assert_eq!(
            words("+49 (170) 12-3"),
            ["49", "170", "12", "3", "49170123"]
        );
        assert_eq!(words(" $gt: "), ["gt"]);
    }

    #[test]
    fn a_contact_is_found_in_any_script_and_by_any_form_of_its_number() {
        let mut document = Document::new();
        document.insert("fullName", "Jürgen Müller 王小明 สมชาย Łukasz");
        document.insert("phone", "+49 (170) 1234567");
        // An id may begin with zeros.
        document.insert("social", mongodb::bson::doc! {"telegramId": "007"});
        index_words(&mut document);
        let indexed: Vec<&str> = document
            .get_array("search")
            .unwrap()
            .iter()
            .filter_map(Bson::as_str)
            .collect();
        let is_found = |query: &str| {
            let begins = |word: &String| indexed.iter().any(|has| has.starts_with(word.as_str()));
            let words = words(query);
            let by_words = !words.is_empty() && words.iter().all(begins);
            by_words || national_number(query).as_ref().is_some_and(begins)
        };
        for query in [
            "muller",
            "MÜLLER",
            "jur",
            "王小明",
            "小明",
            "明",
            "ชาย",
            "+49 170 1234567",
            "0170 1234567",
            "0049 170 1234567",
            "170-1234567",
            "491701234567",
            "007",
        ] {
            assert!(is_found(query), "{query}: {indexed:?}");
        }
        for query in ["uller", "明小", "4567", "000", "0 1", "04", "x0170 1234567"] {
            assert!(!is_found(query), "{query}: {indexed:?}");
        }
    }
}
