//! Until when the bot is silent for a contact. The event `contact.bot_resumed` lifts a suspension
//! only if its `until` is the one that staff set last before this event. Because events come in any
//! order, a contact's document remembers the changes by sequence, and the present state is computed
//! from all of them. No I/O, no clock.

use mongodb::bson::{Bson, DateTime, Document, doc};

/// The field that remembers the changes. Clients do not see this field.
pub const FIELD: &str = "suspension";
/// The fields that clients see.
const SUSPENDED: &str = "botSuspended";
const UNTIL: &str = "botSuspendUntil";
/// How many of the newest changes are remembered one by one. Older changes are remembered only by
/// the state that they led to. A change that arrives after this many newer ones is ignored; that
/// many are never on their way at once.
pub const KEPT: usize = 32;

/// One change of a suspension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Staff set or removed `botSuspendUntil`.
    Until(Option<DateTime>),
    /// The suspension until this time is over.
    Resumed(DateTime),
}

/// The state after some changes.
#[derive(Clone, Copy, Default)]
struct State {
    until: Option<DateTime>,
    /// The sequence of the last change that lifted a suspension.
    lifted: Option<i64>,
}

impl State {
    /// Applies the next change by sequence.
    fn apply(&mut self, seq: i64, change: Change) {
        match change {
            Change::Until(until) => self.until = until,
            Change::Resumed(of) if self.until == Some(of) => {
                *self = State {
                    until: None,
                    lifted: Some(seq),
                }
            }
            Change::Resumed(_) => {}
        }
    }
}

/// What a contact's document remembers.
struct Memory {
    /// `botSuspended` as last entered or edited.
    suspended: Option<bool>,
    /// The state after all changes up to `folded_to`.
    base: State,
    /// The sequence of the newest change in `base`. 0 means that `base` has none.
    folded_to: i64,
    /// The changes after `folded_to`, by sequence.
    changes: Vec<(i64, Change)>,
}

/// Adds a change to the document's memory. Returns false if the change is known, or so late that
/// newer changes have been folded.
pub fn record(document: &mut Document, change: Change, seq: i64) -> bool {
    let mut memory = Memory::of(document);
    if seq <= memory.folded_to {
        return false;
    }
    let Err(index) = memory.changes.binary_search_by_key(&seq, |(seq, _)| *seq) else {
        return false;
    };
    memory.changes.insert(index, (seq, change));
    let surplus = memory.changes.len().saturating_sub(KEPT);
    for (seq, change) in memory.changes.drain(..surplus) {
        memory.base.apply(seq, change);
        memory.folded_to = seq;
    }
    memory.write(document);
    true
}

/// Records `botSuspended` as entered or edited.
pub fn record_suspended(document: &mut Document, suspended: Option<bool>) {
    if document.contains_key(FIELD) {
        let memory = Memory {
            suspended,
            ..Memory::of(document)
        };
        memory.write(document);
    }
}

/// Writes the present state into the fields that clients see. `edited` is the sequence that set
/// `botSuspended`.
pub fn write_state(document: &mut Document, edited: Option<i64>) {
    if !document.contains_key(FIELD) {
        return;
    }
    let memory = Memory::of(document);
    let mut state = memory.base;
    for (seq, change) in &memory.changes {
        state.apply(*seq, *change);
    }
    // `None` sorts before any sequence. So the suspension of a placeholder whose `botSuspended` is
    // unknown is lifted too.
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
    /// Without a recorded change, the memory is what the fields say.
    fn of(document: &Document) -> Memory {
        let Ok(kept) = document.get_document(FIELD) else {
            let applied = document
                .get_document("applied")
                .and_then(|applied| applied.get_i64(UNTIL))
                .ok();
            let seq = applied.or(document.get_i64("seq").ok()).unwrap_or_default();
            let until = document.get_datetime(UNTIL).ok().copied();
            let changes = until
                .map(|until| (seq, Change::Until(Some(until))))
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
            let change = match entry.get_datetime("resumed") {
                Ok(of) => Change::Resumed(*of),
                Err(_) => Change::Until(entry.get_datetime("until").ok().copied()),
            };
            Some((entry.get_i64("seq").ok()?, change))
        };
        let changes = kept
            .get_array("changes")
            .map(|all| all.iter().filter_map(change).collect())
            .unwrap_or_default();
        // Documents of earlier versions have no base.
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
        let change = |(seq, change): &(i64, Change)| match change {
            Change::Until(until) => {
                doc! {"seq": seq, "until": until.map_or(Bson::Null, Bson::DateTime)}
            }
            Change::Resumed(of) => doc! {"seq": seq, "resumed": *of},
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
