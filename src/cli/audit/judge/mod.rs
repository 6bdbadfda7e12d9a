//! What is a difference, and how it is told. Pure: no server, no database.
//!
//! - `missing`: the log has a `message.created` that the database had taken in, the database has no
//!   such message, and no dead letter of the persister says why.
//! - `extra`: the database has a message that the log does not have where the message says; what
//!   the log keeps no more is left out.
//! - `lost`: a message for the bot is neither delivered nor failed, and does not await delivery in
//!   `OUTBOUND` either.
//! - `no_dead_letter`: a message for the bot is failed, and there is no dead letter of it.

use std::collections::{HashMap, HashSet};
use std::fmt;

use contract::Id;
use contract::domain::DeliveryState;
use contract::query::AuditLine;
use contract::subject::{EventSubject, Facets};
use serde::{Deserialize, Serialize};

/// A `message.created` of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its sequence.
    pub seq: u64,
    /// The message; `None` if that cannot be read.
    pub id: Option<Id>,
    /// The tenant; `None` if the subject is none of ours.
    pub company_id: Option<Id>,
    /// Whether the bot is to have it.
    pub forwardable: bool,
}

/// The part of an envelope that names the message.
#[derive(Deserialize)]
struct Payload {
    data: Named,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "_id")]
    id: Id,
}

/// The message of a `message.created`, wherever it is stored.
pub fn message_id(payload: &[u8]) -> Option<Id> {
    serde_json::from_slice::<Payload>(payload)
        .ok()
        .map(|payload| payload.data.id)
}

impl Entry {
    /// Of a stored message.
    pub fn of(seq: u64, subject: &str, payload: &[u8]) -> Entry {
        let (company_id, forwardable) = match subject.parse() {
            Ok(EventSubject::MessageCreated {
                company,
                facets:
                    Facets {
                        platform,
                        direction,
                        role,
                    },
                ..
            }) => {
                let is_operators = direction == contract::domain::Direction::Outbound
                    && role == contract::domain::Role::Operator;
                (Some(company), is_operators && platform.is_forwardable())
            }
            _ => (None, false),
        };
        Entry {
            seq,
            id: message_id(payload),
            company_id,
            forwardable,
        }
    }
}

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// In the log only.
    Missing,
    /// In the database only.
    Extra,
    /// Nobody will deliver it.
    Lost,
    /// Given up, and nothing is left to replay.
    NoDeadLetter,
}

/// One difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What differs.
    pub difference: Difference,
    /// Where the log has the message, or, of an extra one, where the database says that it does.
    pub seq: u64,
    /// The message.
    pub id: Option<Id>,
    /// Its tenant.
    pub company_id: Option<Id>,
    /// How far its delivery has come, as the database says.
    pub state: Option<DeliveryState>,
}

/// What was compared, and what differs.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The log was looked at from this sequence …
    pub from_seq: u64,
    /// … to this one, up to which the database had taken everything in.
    pub to_seq: u64,
    /// Messages of the log.
    pub in_log: u64,
    /// Messages of the database, deleted ones included.
    pub in_database: u64,
    /// Of those, deleted.
    pub deleted: u64,
    /// Of those, too old for the log.
    pub older_than_log: u64,
    /// Messages of the log that the persister has refused; each is a dead letter.
    pub refused: u64,
    /// Messages for the bot that are delivered.
    pub delivered: u64,
    /// Messages for the bot that await delivery.
    pub waiting: u64,
    /// Messages for the bot that were given up; each is a dead letter.
    pub failed: u64,
    /// Every difference.
    pub differences: Vec<Finding>,
}

impl Report {
    /// Whether nothing differs.
    pub fn is_clean(&self) -> bool {
        self.differences.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            from_seq,
            to_seq,
            in_log,
            in_database,
            deleted,
            older_than_log,
            refused,
            delivered,
            waiting,
            failed,
            ..
        } = self;
        writeln!(
            f,
            "log       sequences {from_seq} to {to_seq}: {in_log} messages, {refused} of them refused (dead letters)"
        )?;
        writeln!(
            f,
            "database  {in_database} messages, {deleted} of them deleted, {older_than_log} older than the log"
        )?;
        writeln!(
            f,
            "bot       {delivered} delivered, {waiting} waiting, {failed} failed (dead letters)"
        )?;
        for Finding {
            difference,
            seq,
            id,
            company_id,
            state,
        } in &self.differences
        {
            let or = |id: &Option<Id>| id.map_or("unknown".into(), |id| id.to_string());
            let what = match difference {
                Difference::Missing => "missing in the database".to_owned(),
                Difference::Extra => "extra in the database".to_owned(),
                Difference::Lost => format!(
                    "lost, delivery is {}",
                    state.map_or("unknown", DeliveryState::as_str)
                ),
                Difference::NoDeadLetter => "failed without a dead letter".to_owned(),
            };
            writeln!(
                f,
                "{what}: message {} at sequence {seq}, company {}",
                or(id),
                or(company_id)
            )?;
        }
        match self.differences.len() {
            0 => writeln!(f, "nothing is missing"),
            n => writeln!(f, "{n} differences"),
        }
    }
}

/// What a page of the log leaves open.
#[derive(Default)]
pub struct Open {
    /// Not in the database: unless a dead letter says why.
    pub absent: Vec<Entry>,
    /// For the bot and not delivered.
    pub undelivered: Vec<(Entry, Option<DeliveryState>)>,
}

/// Compares a page of the log with what the database has of its messages.
pub fn compare(entries: &[Entry], lines: &[AuditLine], report: &mut Report) -> Open {
    let lines: HashMap<Id, &AuditLine> = lines.iter().map(|line| (line.id, line)).collect();
    let mut open = Open::default();
    for entry in entries {
        report.in_log += 1;
        match entry.id.and_then(|id| lines.get(&id)) {
            None => open.absent.push(*entry),
            // The same message, published once more: the first one counts.
            Some(line) if line.seq != entry.seq => {}
            Some(line) if entry.forwardable => match line.state {
                Some(DeliveryState::Delivered) => report.delivered += 1,
                state => open.undelivered.push((*entry, state)),
            },
            Some(_) => {}
        }
    }
    open
}

/// Documents that the log does not have where they say. `entries` are all that the log has at those
/// sequences.
pub fn extra<'a>(
    lines: &'a [AuditLine],
    entries: &[Entry],
) -> impl Iterator<Item = Finding> + use<'a> {
    let known: HashSet<(u64, Id)> = entries
        .iter()
        .filter_map(|entry| Some((entry.seq, entry.id?)))
        .collect();
    lines
        .iter()
        .filter(move |line| !known.contains(&(line.seq, line.id)))
        .map(|line| Finding {
            difference: Difference::Extra,
            seq: line.seq,
            id: Some(line.id),
            company_id: Some(line.company_id),
            state: line.state,
        })
}

/// How a message for the bot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The bot has it.
    Delivered,
    /// It will be delivered.
    Waiting,
    /// Given up, and kept.
    Failed,
    /// This.
    Amiss(Difference),
}

/// Judges a message by the state that the database has of it, whether it awaits delivery, and
/// whether there is a dead letter.
pub fn fate(state: Option<DeliveryState>, awaits: bool, is_dead: bool) -> Fate {
    match state {
        Some(DeliveryState::Delivered) => Fate::Delivered,
        _ if awaits => Fate::Waiting,
        Some(DeliveryState::Failed) if is_dead => Fate::Failed,
        Some(DeliveryState::Failed) => Fate::Amiss(Difference::NoDeadLetter),
        _ => Fate::Amiss(Difference::Lost),
    }
}

/// Sequences that lie no further apart are read in one go.
const GAP: u64 = 16;

/// Groups ascending sequences into ranges of at most `longest`, so that each can be read with one
/// question.
pub fn ranges(seqs: &[u64], longest: u64) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for seq in seqs {
        match ranges.last_mut() {
            Some((from, to)) if *seq - *to <= GAP && *seq - *from < longest => *to = *seq,
            _ => ranges.push((*seq, *seq)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests;
