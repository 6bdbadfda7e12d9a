//! Until when the bot is silent for a contact. `contact.bot_resumed` lifts a suspension only while
//! its `until` is still the one that staff have set last before it, and events come in any order;
//! so a contact's document remembers what it was told about that, by sequence, and what holds is
//! told from all of it. Pure; knows no clock.

use mongodb::bson::{Bson, DateTime, Document, doc};

/// Where it is remembered, beside what clients see.
pub const FIELD: &str = "suspension";
/// What clients see.
const SUSPENDED: &str = "botSuspended";
const UNTIL: &str = "botSuspendUntil";
/// The newest changes that are remembered one by one, by sequence. More than can be on their way at
/// once; what they led to that came before them is remembered as a whole.
pub const KEPT: usize = 32;

/// One thing that the document was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Staff have set `botSuspendUntil`, or taken it away.
    Until(Option<DateTime>),
    /// A suspension until this time is over.
    Resumed(DateTime),
}

/// What holds after some changes.
#[derive(Clone, Copy, Default)]
struct State {
    until: Option<DateTime>,
    /// The sequence that lifted a suspension last.
    lifted: Option<i64>,
}

impl State {
    /// The next change by sequence.
    fn tell(&mut self, seq: i64, told: Told) {
        match told {
            Told::Until(until) => self.until = until,
            Told::Resumed(of) if self.until == Some(of) => {
                *self = State {
                    until: None,
                    lifted: Some(seq),
                }
            }
            Told::Resumed(_) => {}
        }
    }
}

/// What a contact's document remembers.
struct Memory {
    /// `botSuspended` as it was entered or edited last.
    suspended: Option<bool>,
    /// What all changes up to `folded_to` led to.
    base: State,
    /// The newest of them; 0 is before any.
    folded_to: i64,
    /// Those after it, by sequence.
    changes: Vec<(i64, Told)>,
}

/// Adds a change to what the document remembers; false if it is known, or so late that newer ones
/// have been folded.
pub fn note(document: &mut Document, told: Told, seq: i64) -> bool {
    let mut memory = Memory::of(document);
    if seq <= memory.folded_to {
        return false;
    }
    let Err(place) = memory.changes.binary_search_by_key(&seq, |(seq, _)| *seq) else {
        return false;
    };
    memory.changes.insert(place, (seq, told));
    let surplus = memory.changes.len().saturating_sub(KEPT);
    for (seq, told) in memory.changes.drain(..surplus) {
        memory.base.tell(seq, told);
        memory.folded_to = seq;
    }
    memory.write(document);
    true
}

/// `botSuspended` has been entered or edited.
pub fn note_suspended(document: &mut Document, suspended: Option<bool>) {
    if document.contains_key(FIELD) {
        let memory = Memory {
            suspended,
            ..Memory::of(document)
        };
        memory.write(document);
    }
}

/// Writes what holds into the document's fields. `edited` is the sequence that set `botSuspended`.
pub fn settle(document: &mut Document, edited: Option<i64>) {
    if !document.contains_key(FIELD) {
        return;
    }
    let memory = Memory::of(document);
    let mut state = memory.base;
    for (seq, told) in &memory.changes {
        state.tell(*seq, *told);
    }
    // None is before any sequence: a shell that has no word of it is lifted too.
    let suspended = if state.lifted > edited {
        Some(false)
    } else {
        memory.suspended
    };
    put(document, UNTIL, state.until.map(Bson::DateTime));
    put(document, SUSPENDED, suspended.map(Bson::Boolean));
}

fn put(document: &mut Document, name: &str, value: Option<Bson>) {
    match value {
        Some(value) => drop(document.insert(name, value)),
        None => drop(document.remove(name)),
    }
}

impl Memory {
    /// Before anything was told, it is what the fields say.
    fn of(document: &Document) -> Memory {
        let Ok(kept) = document.get_document(FIELD) else {
            let applied = document
                .get_document("applied")
                .and_then(|applied| applied.get_i64(UNTIL))
                .ok();
            let seq = applied.or(document.get_i64("seq").ok()).unwrap_or_default();
            let until = document.get_datetime(UNTIL).ok().copied();
            let changes = until
                .map(|until| (seq, Told::Until(Some(until))))
                .into_iter()
                .collect();
            return Memory {
                suspended: document.get_bool(SUSPENDED).ok(),
                base: State::default(),
                folded_to: 0,
                changes,
            };
        };
        let change = |entry: &Bson| {
            let entry = entry.as_document()?;
            let told = match entry.get_datetime("resumed") {
                Ok(of) => Told::Resumed(*of),
                Err(_) => Told::Until(entry.get_datetime("until").ok().copied()),
            };
            Some((entry.get_i64("seq").ok()?, told))
        };
        let changes = kept
            .get_array("changes")
            .map(|all| all.iter().filter_map(change).collect())
            .unwrap_or_default();
        // Documents from before there was a base have none.
        let empty = Document::new();
        let base = kept.get_document("base").unwrap_or(&empty);
        let state = State {
            until: base.get_datetime("until").ok().copied(),
            lifted: base.get_i64("lifted").ok(),
        };
        let folded_to = base.get_i64("seq").unwrap_or_default();
        Memory {
            suspended: kept.get_bool("suspended").ok(),
            base: state,
            folded_to,
            changes,
        }
    }

    fn write(&self, document: &mut Document) {
        let change = |(seq, told): &(i64, Told)| match told {
            Told::Until(until) => {
                doc! {"seq": seq, "until": until.map_or(Bson::Null, Bson::DateTime)}
            }
            Told::Resumed(of) => doc! {"seq": seq, "resumed": *of},
        };
        let changes: Vec<Document> = self.changes.iter().map(change).collect();
        let State { until, lifted } = self.base;
        let base = doc! {"seq": self.folded_to, "until": until, "lifted": lifted};
        document.insert(
            FIELD,
            doc! {"suspended": self.suspended, "base": base, "changes": changes},
        );
    }
}
