//! How well a company kept its targets: a pure fold over the accepted messages and the history of
//! the targets. No queries, no clock.

use std::collections::HashMap;

use contract::domain::{DeliveryState, Platform, SlaTargets};
use contract::query::{DeliveryCounts, FirstResponse, Percentiles};
use mongodb::bson::oid::ObjectId;

/// A change of a company's targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub seq: i64,
    /// The targets hold from this time on, in ms since 1970.
    pub at: i64,
    pub targets: SlaTargets,
}

/// A company's targets over time. A change holds for messages that are accepted after it, so it makes
/// no earlier message late.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets(Vec<Change>);

impl Targets {
    /// From the changes in any order.
    pub fn of(mut changes: Vec<Change>) -> Targets {
        changes.sort_by_key(|change| change.seq);
        Targets(changes)
    }

    /// The targets that hold now.
    pub fn current(&self) -> SlaTargets {
        self.0
            .last()
            .map(|change| change.targets)
            .unwrap_or_default()
    }

    /// The targets for a message that was accepted at this time.
    pub fn at(&self, accepted_at: i64) -> SlaTargets {
        self.0
            .iter()
            .rev()
            .find(|change| change.at <= accepted_at)
            .map(|change| change.targets)
            .unwrap_or_default()
    }

    /// The delivery targets that a message can have missed after `from` and not after `to`. These are
    /// the targets that held when such a message must have been accepted. The default target is not
    /// among them.
    pub fn delivery_seconds_passing(&self, from: i64, to: i64) -> Vec<u32> {
        let mut passing = Vec::new();
        let mut replaced_at = i64::MAX;
        for change in self.0.iter().rev() {
            let target = i64::from(change.targets.delivery_seconds) * 1_000;
            let first_accepted = change.at.max(from - target + 1);
            let last_accepted = (to - target).min(replaced_at - 1);
            if first_accepted <= last_accepted {
                passing.push(change.targets.delivery_seconds);
            }
            replaced_at = replaced_at.min(change.at);
        }
        passing
    }
}

/// What a message is to a customer who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A customer wrote it.
    Asked,
    /// An operator sent it.
    Answered,
    /// The company's bot sent it.
    AnsweredByBot,
    Other,
}

/// How far a delivery has come.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub state: DeliveryState,
    /// When the bot took the message.
    pub delivered_at: Option<i64>,
}

/// What the fold knows of a message. Times are in ms since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The sequence in the log, which orders the rows.
    pub seq: i64,
    /// Contact and platform name the conversation.
    pub contact: ObjectId,
    pub platform: Platform,
    pub kind: Kind,
    pub accepted_at: i64,
    /// `None` for a message that is not for the bot.
    pub delivery: Option<Step>,
    /// Whether a breach was reported.
    pub breached: bool,
}

/// What the fold counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// The time from accepted to taken by the bot.
    pub delivered: Percentiles,
    pub delivery: DeliveryCounts,
    pub first_response: FirstResponse,
}

/// Counts the messages that were accepted in a range that ends at `end`, as they are at `now`. Sorts
/// the rows into the log's order.
pub fn tally(rows: &mut [Row], targets: &Targets, now: i64, end: i64) -> Tally {
    rows.sort_unstable_by_key(|row| row.seq);
    let mut took = Vec::new();
    let mut delivery = DeliveryCounts::default();
    let of_bot = rows.iter().filter_map(|row| Some((row, row.delivery?)));
    // What staff deleted before the bot was called counts neither way.
    for (row, step) in of_bot.filter(|(_, step)| step.state != DeliveryState::Cancelled) {
        let target = ms(targets.at(row.accepted_at).delivery_seconds);
        let latency = step.delivered_at.map(|at| since(at, row.accepted_at));
        delivery.forwardable += 1;
        delivery.breached += u64::from(row.breached);
        match (step.state, latency) {
            (DeliveryState::Delivered, latency) => {
                delivery.delivered += 1;
                took.extend(latency);
                *(if latency.is_some_and(|ms| ms <= target) {
                    &mut delivery.within_target
                } else {
                    &mut delivery.late
                }) += 1;
            }
            (DeliveryState::Failed, _) => {
                delivery.failed += 1;
                delivery.late += 1;
            }
            _ if since(now, row.accepted_at) > target => delivery.late += 1,
            _ => delivery.pending += 1,
        }
    }
    delivery.within_target_ratio = ratio(delivery.within_target, delivery.late);
    Tally {
        delivered: percentiles(took),
        delivery,
        first_response: first_response(rows, targets, now.min(end)),
    }
}

fn first_response(rows: &[Row], targets: &Targets, end: i64) -> FirstResponse {
    let mut waits: HashMap<(ObjectId, Platform), i64> = HashMap::new();
    let mut took = Vec::new();
    let mut counts = FirstResponse::default();
    let target = |began: i64| ms(targets.at(began).first_response_seconds);
    for row in rows {
        let conversation = (row.contact, row.platform);
        match row.kind {
            Kind::Asked => drop(waits.entry(conversation).or_insert(row.accepted_at)),
            Kind::Answered => {
                if let Some(began) = waits.remove(&conversation) {
                    let waited = since(row.accepted_at, began);
                    *(if waited <= target(began) {
                        &mut counts.within_target
                    } else {
                        &mut counts.late
                    }) += 1;
                    took.push(waited);
                }
            }
            Kind::AnsweredByBot => drop(waits.remove(&conversation)),
            Kind::Other => {}
        }
    }
    for began in waits.into_values() {
        let waited = since(end, began);
        counts.waiting += 1;
        counts.late += u64::from(waited > target(began));
        counts.oldest_waiting_ms = counts.oldest_waiting_ms.max(Some(waited));
    }
    counts.within_target_ratio = ratio(counts.within_target, counts.late);
    counts.times = percentiles(took);
    counts
}

fn ms(seconds: u32) -> u64 {
    u64::from(seconds) * 1_000
}

/// The time between two moments, at least 0. Because clocks of two machines differ, `later` may be
/// the earlier one.
fn since(later: i64, earlier: i64) -> u64 {
    u64::try_from(later.saturating_sub(earlier)).unwrap_or(0)
}

fn ratio(within: u64, late: u64) -> Option<f64> {
    (within + late > 0).then(|| within as f64 / (within + late) as f64)
}

fn percentiles(mut took: Vec<u64>) -> Percentiles {
    took.sort_unstable();
    Percentiles::of(took.len() as u64, |rank| {
        took.get(rank as usize - 1).copied()
    })
}

/// Builds [`Percentiles`]. The contract's type has no arithmetic of its own.
pub trait ByRank {
    /// From the number of values, and the value of each rank from 1.
    fn of(count: u64, value: impl Fn(u64) -> Option<u64>) -> Self;
}

impl ByRank for Percentiles {
    fn of(count: u64, value: impl Fn(u64) -> Option<u64>) -> Percentiles {
        let of = |percent: u64| {
            if count == 0 {
                None
            } else {
                value((count * percent).div_ceil(100).max(1))
            }
        };
        Percentiles {
            count,
            p50_ms: of(50),
            p95_ms: of(95),
            p99_ms: of(99),
        }
    }
}

#[cfg(test)]
mod tests;
