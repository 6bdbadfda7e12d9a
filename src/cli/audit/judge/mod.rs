//! Decides what counts as a difference, and prints the report. Asks no server and no database.
//!
//! - `missing`: the log has a `message.created` that the persister has processed, but the database
//!   has no such message, and there is no dead letter of the persister about it.
//! - `extra`: the database has a message, but the log has no such message at the message's
//!   sequence.
//!   A message that is too old for the log does not count.
//! - `lost`: a message for the bot is neither delivered nor failed, and does not wait in
//!   `OUTBOUND`.
//! - `no_dead_letter`: a message for the bot has failed, and there is no dead letter about it.
//! - `called_again`: the bot was called for a message that it had already taken.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;

use contract::Id;
use contract::domain::DeliveryState;
use contract::event::{Envelope, Event};
use contract::query::AuditLine;
use contract::subject::EventSubject;
use serde::{Deserialize, Serialize};

/// A `message.created` of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub seq: u64,
    /// The message; `None` if the payload cannot be read.
    pub id: Option<Id>,
    /// `None` if the subject cannot be read.
    pub company_id: Option<Id>,
    /// Whether the message is to be delivered to the bot.
    pub forwardable: bool,
}

/// The part of an envelope that has the message's id.
#[derive(Deserialize)]
struct Payload {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "_id")]
    id: Id,
}

/// The message's id in the payload of a `message.created`, from any stream.
pub fn message_id(payload: &[u8]) -> Option<Id> {
    serde_json::from_slice::<Payload>(payload)
        .ok()
        .map(|payload| payload.data.id)
}

impl Entry {
    /// Reads a stored message.
    pub fn of(seq: u64, subject: &str, payload: &[u8]) -> Entry {
        let (company_id, forwardable) = match subject.parse() {
            Ok(EventSubject::MessageCreated {
                company, facets, ..
            }) => (Some(company), facets.is_forwardable()),
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

/// The kinds of difference, see the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    Missing,
    Extra,
    Lost,
    NoDeadLetter,
    CalledAgain,
}

/// One difference between log, database and deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub difference: Difference,
    /// The message's sequence in the log. The sequence of an `extra` message is from the database,
    /// and that of a message that was called again is the sequence of the step that says so.
    pub seq: u64,
    pub id: Option<Id>,
    pub company_id: Option<Id>,
    /// The state of the delivery in the database.
    pub state: Option<DeliveryState>,
}

/// The result of an audit.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The first sequence of the log that was compared.
    pub from_seq: u64,
    /// The last sequence that was compared. The persister had processed everything up to it.
    pub to_seq: u64,
    /// Messages in the log.
    pub in_log: u64,
    /// Messages in the database, including deleted ones.
    pub in_database: u64,
    /// Deleted messages in the database.
    pub deleted: u64,
    /// Messages in the database that are older than the log.
    pub older_than_log: u64,
    /// Messages in the log that the persister has refused. Each one is a dead letter.
    pub refused: u64,
    /// Messages for the bot that were delivered.
    pub delivered: u64,
    /// Messages for the bot that wait for their delivery.
    pub waiting: u64,
    /// Messages for the bot that were given up. Each one is a dead letter.
    pub failed: u64,
    /// Messages for the bot that staff deleted before their delivery.
    pub cancelled: u64,
    pub differences: Vec<Finding>,
}

impl Report {
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
            cancelled,
            ..
        } = self;
        writeln!(
            f,
            "log       sequences {from_seq} to {to_seq}: {in_log} messages, {refused} of them refused \
             (dead letters)"
        )?;
        writeln!(
            f,
            "database  {in_database} messages, {deleted} of them deleted, {older_than_log} older than \
             the log"
        )?;
        writeln!(
            f,
            "bot       {delivered} delivered, {waiting} waiting, {failed} failed (dead letters), \
             {cancelled} cancelled"
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
                Difference::CalledAgain => "called again after its delivery".to_owned(),
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

/// Messages of the log that the database alone does not explain.
#[derive(Default)]
pub struct Open {
    /// Messages that are not in the database. A dead letter of the persister may say why.
    pub absent: Vec<Entry>,
    /// Messages for the bot that are not delivered, with the state of their delivery.
    pub undelivered: Vec<(Entry, Option<DeliveryState>)>,
}

/// Compares a page of the log with the messages of that page in the database.
pub fn compare(entries: &[Entry], lines: &[AuditLine], report: &mut Report) -> Open {
    let lines: HashMap<Id, &AuditLine> = lines.iter().map(|line| (line.id, line)).collect();
    let mut open = Open::default();
    for entry in entries {
        report.in_log += 1;
        match entry.id.and_then(|id| lines.get(&id)) {
            None => open.absent.push(*entry),
            // The message was published twice. Only the first copy counts.
            Some(line) if line.seq != entry.seq => {}
            Some(line) if entry.forwardable => match line.state {
                Some(DeliveryState::Delivered) => report.delivered += 1,
                Some(DeliveryState::Cancelled) => report.cancelled += 1,
                state => open.undelivered.push((*entry, state)),
            },
            Some(_) => {}
        }
    }
    open
}

/// Finds messages of the database that the log does not have. `entries` are all messages that the
/// log has at the sequences of `lines`.
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

/// Delivered messages that are remembered while the steps are read. Beyond it the oldest are
/// forgotten, and a call that comes so much later is not found.
const MAX_DELIVERED: usize = 2_000_000;

/// The messages that the bot has taken, by the steps that were read so far.
#[derive(Default)]
pub struct Taken {
    messages: HashSet<Id>,
    order: VecDeque<Id>,
}

impl Taken {
    /// Takes in the next step of the log. Returns a finding if the step announces a call for a
    /// message that the bot had taken before.
    pub fn see(&mut self, seq: u64, payload: &[u8]) -> Option<Finding> {
        let envelope = Envelope::from_json(payload).ok()?;
        let company_id = Some(envelope.company_id);
        let Event::MessageDelivery(step) = envelope.event else {
            return None;
        };
        let id = step.message_id;
        match step.delivery.state {
            DeliveryState::Delivered if self.messages.insert(id) => {
                self.order.push_back(id);
                if self.order.len() > MAX_DELIVERED {
                    let oldest = self.order.pop_front()?;
                    self.messages.remove(&oldest);
                }
                None
            }
            DeliveryState::Sending if self.messages.contains(&id) => Some(Finding {
                difference: Difference::CalledAgain,
                seq,
                id: Some(id),
                company_id,
                state: Some(DeliveryState::Delivered),
            }),
            _ => None,
        }
    }
}

/// The state of a message for the bot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BotDelivery {
    Delivered,
    /// The message waits for its delivery.
    Waiting,
    /// The message was given up and is a dead letter.
    Failed,
    /// Staff deleted the message before its delivery.
    Cancelled,
    /// The message counts as a difference, unless it is on its way.
    Unexplained(Difference),
}

/// Judges a message by the state of its delivery in the database, whether the message waits in
/// `OUTBOUND`, and whether there is a dead letter about it.
pub fn bot_delivery(state: Option<DeliveryState>, is_waiting: bool, is_dead: bool) -> BotDelivery {
    match state {
        Some(DeliveryState::Delivered) => BotDelivery::Delivered,
        Some(DeliveryState::Cancelled) => BotDelivery::Cancelled,
        _ if is_waiting => BotDelivery::Waiting,
        Some(DeliveryState::Failed) if is_dead => BotDelivery::Failed,
        Some(DeliveryState::Failed) => BotDelivery::Unexplained(Difference::NoDeadLetter),
        _ => BotDelivery::Unexplained(Difference::Lost),
    }
}

/// Distance between two sequences that still belong to one range. Because the sequences between
/// them are read too, a larger distance begins a new range.
const GAP: u64 = 16;

/// Groups ascending sequences into ranges of at most `longest` sequences, so that each range can be
/// read with one request.
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
