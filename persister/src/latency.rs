//! How long messages take from accepted to persisted: histograms by company, platform and minute.
//! The histograms are no part of the view. Because the log does not say when a message was
//! persisted, a rebuild does not bring them back. They are gathered in memory and written every few
//! seconds, so that no batch waits for them. A killed process loses what it had not written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use contract::domain::Platform;
use contract::query::Percentiles;
use contract::{Id, Timestamp};
use metrics::counter;
use mongodb::Collection;
use mongodb::bson::{DateTime, Document, doc};
use runtime::CancellationToken;
use tracing::warn;

use crate::fold::sla::ByRank;
use crate::mongo::bulk::update_many;
use crate::mongo::document::oid;

/// Upper ends of the histogram's steps, in ms, each included.
const STEPS: [u64; 28] = [
    1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1_000, 1_500, 2_000,
    3_000, 5_000, 10_000, 20_000, 60_000, 120_000, 300_000, 600_000,
];
/// The longest latency that is counted, in ms. A longer one is of a rebuild, or of an outage that
/// staff know of.
const LONGEST_MS: u64 = 600_000;
/// The time that one histogram covers, in ms.
const MINUTE_MS: i64 = 60_000;
/// How often the histograms are written.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// Histograms in memory at most. Beyond that, messages of further histograms are not counted.
const MAX_KEPT: usize = 20_000;
/// How long MongoDB keeps a histogram: the range of the longest report, and a day.
pub const KEPT: Duration = Duration::from_secs((contract::query::MAX_REPORT_DAYS + 1) * 86_400);

type Histograms = HashMap<(Id, Platform, i64), [u32; STEPS.len()]>;

/// The histograms that are not written yet. Cloning shares them.
#[derive(Clone, Default)]
pub struct Latencies(Arc<Mutex<Histograms>>);

impl Latencies {
    /// Counts a message that is persisted now.
    pub fn count(&self, company: Id, platform: Platform, accepted_at: Timestamp, now: Timestamp) {
        let Some(step) = step(now.since(accepted_at).as_millis() as u64) else {
            return;
        };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (company, platform, minute(accepted_at));
        if kept.len() >= MAX_KEPT && !kept.contains_key(&key) {
            counter!("persist_latencies_dropped_total").increment(1);
            return;
        }
        kept.entry(key).or_insert([0; STEPS.len()])[step] += 1;
    }

    /// Writes the histograms every few seconds until the stop, and then once more.
    pub async fn write(self, collection: Collection<Document>, stop: CancellationToken) {
        loop {
            let stopped = stop
                .run_until_cancelled(tokio::time::sleep(WRITE_EVERY))
                .await
                .is_none();
            let kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            let updates: Vec<Document> = kept
                .into_iter()
                .map(|(key, counts)| update(key, counts))
                .collect();
            if !updates.is_empty()
                && let Err(error) = update_many(&collection, updates).await
            {
                // Not tried again. Otherwise the part that is written would count twice.
                counter!("persist_latencies_lost_total").increment(1);
                warn!(%error, "how long messages took to be persisted is not written");
            }
            if stopped {
                return;
            }
        }
    }
}

fn step(ms: u64) -> Option<usize> {
    (ms <= LONGEST_MS).then(|| STEPS.partition_point(|end| *end < ms))
}

fn minute(at: Timestamp) -> i64 {
    at.millis().div_euclid(MINUTE_MS) * MINUTE_MS
}

fn update(
    (company, platform, minute): (Id, Platform, i64),
    counts: [u32; STEPS.len()],
) -> Document {
    let add: Document = counts
        .iter()
        .enumerate()
        .filter(|(_, n)| **n > 0)
        .map(|(step, n)| (format!("steps.s{step}"), i64::from(*n).into()))
        .collect();
    doc! {
        "q": {"_id": format!("{company}:{platform}:{minute}")},
        "u": {
            "$inc": add,
            "$setOnInsert": {"company_id": oid(company), "platform": platform.as_str(), "at": DateTime::from_millis(minute)},
        },
        "upsert": true,
    }
}

/// The pipeline that adds up a company's histograms of a range. [`percentiles`] reads its one
/// document.
pub fn sum(
    company: Id,
    platform: Option<Platform>,
    from: Timestamp,
    to: Timestamp,
) -> Vec<Document> {
    let mut filter = doc! {
        "company_id": oid(company),
        "at": {"$gte": DateTime::from_millis(minute(from)), "$lt": DateTime::from_millis(to.millis())},
    };
    if let Some(platform) = platform {
        filter.insert("platform", platform.as_str());
    }
    let mut group = doc! {"_id": null};
    group.extend((0..STEPS.len()).map(|step| {
        (
            format!("s{step}"),
            doc! {"$sum": format!("$steps.s{step}")}.into(),
        )
    }));
    vec![doc! {"$match": filter}, doc! {"$group": group}]
}

/// The percentiles of a sum. Each is the upper end of a step, so at most one step too long.
pub fn percentiles(sum: Option<&Document>) -> Percentiles {
    let count = |step: usize| {
        let found = sum.and_then(|sum| sum.get(format!("s{step}")));
        found
            .and_then(|n| n.as_i64().or_else(|| n.as_i32().map(i64::from)))
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or(0)
    };
    let upto: Vec<u64> = (0..STEPS.len())
        .scan(0, |sum, step| {
            *sum += count(step);
            Some(*sum)
        })
        .collect();
    let total = upto.last().copied().unwrap_or(0);
    Percentiles::of(total, |rank| {
        STEPS.get(upto.partition_point(|n| *n < rank)).copied()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn steps_ascend_up_to_the_longest_latency_that_is_counted() {
        assert!(STEPS.is_sorted() && STEPS.last() == Some(&LONGEST_MS));
        assert_eq!(
            (step(0), step(1), step(2), step(600_000), step(600_001)),
            (Some(0), Some(0), Some(1), Some(27), None)
        );
    }

    proptest! {
        #[test]
        fn a_percentile_is_the_upper_end_of_the_step_of_the_exact_percentile(mut took in prop::collection::vec(0u64..700_000, 0..200)) {
            let latencies = Latencies::default();
            let (company, accepted) = (Id::from_bytes([1; 12]), Timestamp::from_millis(1_700_000_000_123));
            for ms in &took {
                latencies.count(company, Platform::Web, accepted, accepted.plus(Duration::from_millis(*ms)));
            }
            let kept = std::mem::take(&mut *latencies.0.lock().unwrap());
            let counts = kept.into_values().next().unwrap_or([0; STEPS.len()]);
            let sum: Document = counts.iter().enumerate().map(|(step, n)| (format!("s{step}"), i64::from(*n).into())).collect();
            took.retain(|ms| *ms <= LONGEST_MS);
            took.sort_unstable();
            let got = percentiles(Some(&sum));
            prop_assert_eq!(got.count, took.len() as u64);
            for (percent, got) in [(50, got.p50_ms), (95, got.p95_ms), (99, got.p99_ms)] {
                let exact = took.get((took.len() * percent).div_ceil(100).saturating_sub(1));
                prop_assert_eq!(got, exact.map(|ms| STEPS[step(*ms).unwrap()]));
            }
        }
    }
}
