//! Compares the fold with a naive one that looks at every message by itself.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const CHANGED_AT: i64 = 40_000;
const NOW: i64 = 120_000;
const END: i64 = 110_000;

fn targets() -> Targets {
    let change = |seq, at, delivery_seconds, first_response_seconds| Change {
        seq,
        at,
        targets: SlaTargets {
            delivery_seconds,
            first_response_seconds,
        },
    };
    // The later change by sequence holds, in whatever order the changes come.
    Targets::of(vec![change(9, CHANGED_AT, 5, 20), change(2, 10_000, 7, 30)])
}

fn row() -> impl Strategy<Value = Row> {
    let kind = select(
        &[
            Kind::Asked,
            Kind::Answered,
            Kind::AnsweredByBot,
            Kind::Other,
        ][..],
    );
    let step = prop::option::of((select(DeliveryState::ALL), prop::option::of(0i64..15_000)));
    (
        0u8..3,
        select(&[Platform::Facebook, Platform::Web][..]),
        kind,
        0i64..100_000,
        step,
        any::<bool>(),
    )
        .prop_map(
            |(contact, platform, kind, accepted_at, step, breached)| Row {
                seq: 0,
                contact: ObjectId::from_bytes([contact; 12]),
                platform,
                kind,
                accepted_at,
                delivery: step.map(|(state, took)| Step {
                    state,
                    delivered_at: took.map(|ms| accepted_at + ms),
                }),
                breached,
            },
        )
}

/// Rows in the order of the log.
fn rows() -> impl Strategy<Value = Vec<Row>> {
    prop::collection::vec(row(), 0..60).prop_map(|mut rows| {
        rows.sort_by_key(|row| row.accepted_at);
        rows.iter_mut()
            .zip(1..)
            .for_each(|(row, seq)| row.seq = seq);
        rows
    })
}

/// The targets that hold at a time, without a history.
fn target(at: i64) -> (i64, i64) {
    match at {
        CHANGED_AT.. => (5_000, 20_000),
        10_000.. => (7_000, 30_000),
        _ => (60_000, 900_000),
    }
}

/// Each wait: when it began, and the message that ended it.
fn waits(rows: &[Row]) -> Vec<(i64, Option<Row>)> {
    let same = |a: &Row, b: &Row| {
        (a.contact, a.platform) == (b.contact, b.platform) && a.kind != Kind::Other
    };
    let begins = |i: usize| {
        let before = rows[..i].iter().rev().find(|r| same(r, &rows[i]));
        rows[i].kind == Kind::Asked && before.is_none_or(|r| r.kind != Kind::Asked)
    };
    let ends = |i: usize| {
        rows[i + 1..]
            .iter()
            .find(|r| same(r, &rows[i]) && r.kind != Kind::Asked)
            .copied()
    };
    (0..rows.len())
        .filter(|i| begins(*i))
        .map(|i| (rows[i].accepted_at, ends(i)))
        .collect()
}

/// The smallest value that at least `percent` percent of the values do not exceed.
fn naive_percentile(values: &[u64], percent: usize) -> Option<u64> {
    values
        .iter()
        .copied()
        .filter(|v| values.iter().filter(|w| *w <= v).count() * 100 >= percent * values.len())
        .min()
}

fn naive(values: &[u64]) -> Percentiles {
    let of = |percent| naive_percentile(values, percent);
    Percentiles {
        count: values.len() as u64,
        p50_ms: of(50),
        p95_ms: of(95),
        p99_ms: of(99),
    }
}

proptest! {
    #[test]
    fn deliveries_are_counted_as_by_the_naive_fold(rows in rows()) {
        let got = tally(&mut rows.clone(), &targets(), NOW, END);
        let all: Vec<(&Row, Step)> = rows.iter().filter_map(|r| Some((r, r.delivery?))).filter(|(_, s)| s.state != DeliveryState::Cancelled).collect();
        let count = |is: &dyn Fn(&Row, &Step) -> bool| all.iter().filter(|(r, s)| is(r, s)).count() as u64;
        let delivered = |s: &Step| s.state == DeliveryState::Delivered;
        let in_time = |r: &Row, s: &Step| delivered(s) && s.delivered_at.is_some_and(|at| at <= r.accepted_at + target(r.accepted_at).0);
        let over = |s: &Step| delivered(s) || s.state == DeliveryState::Failed;
        let pending = |r: &Row, s: &Step| !over(s) && NOW <= r.accepted_at + target(r.accepted_at).0;
        let within = count(&in_time);
        let late = count(&|r, s| !in_time(r, s) && !pending(r, s));
        prop_assert_eq!(got.delivery, DeliveryCounts {
            forwardable: all.len() as u64,
            delivered: count(&|_, s| delivered(s)),
            within_target: within,
            late,
            pending: count(&pending),
            failed: count(&|_, s| s.state == DeliveryState::Failed),
            breached: count(&|r, _| r.breached),
            within_target_ratio: (within + late > 0).then(|| within as f64 / (within + late) as f64),
        });
        prop_assert_eq!(got.delivery.within_target + got.delivery.late + got.delivery.pending, got.delivery.forwardable);
        let took: Vec<u64> = all.iter().filter(|(_, s)| delivered(s)).filter_map(|(r, s)| Some((s.delivered_at? - r.accepted_at) as u64)).collect();
        prop_assert_eq!(got.delivered, naive(&took));
    }

    #[test]
    fn waits_are_counted_as_by_the_naive_fold(rows in rows()) {
        let got = tally(&mut rows.clone(), &targets(), NOW, END).first_response;
        let waits = waits(&rows);
        let answered: Vec<(i64, i64)> = waits.iter().filter_map(|(began, end)| Some((*began, (*end)?)))
            .filter(|(_, end)| end.kind == Kind::Answered).map(|(began, end)| (began, end.accepted_at - began)).collect();
        let open: Vec<i64> = waits.iter().filter(|(_, end)| end.is_none()).map(|(began, _)| *began).collect();
        let within = answered.iter().filter(|(began, waited)| *waited <= target(*began).1).count() as u64;
        let late = answered.len() as u64 - within + open.iter().filter(|began| END - *began > target(**began).1).count() as u64;
        prop_assert_eq!(got, FirstResponse {
            times: naive(&answered.iter().map(|(_, waited)| *waited as u64).collect::<Vec<_>>()),
            within_target: within,
            late,
            waiting: open.len() as u64,
            oldest_waiting_ms: open.iter().map(|began| (END - began) as u64).max(),
            within_target_ratio: (within + late > 0).then(|| within as f64 / (within + late) as f64),
        });
    }

    #[test]
    fn targets_that_pass_in_a_time_are_those_that_held_for_a_message_accepted_that_much_earlier(
        changes in prop::collection::vec((0i64..6_000, 1u32..5), 0..8),
        (from, long) in (0i64..8_000, 0i64..200),
    ) {
        let change = |(seq, (at, delivery_seconds))| Change { seq, at, targets: SlaTargets { delivery_seconds, first_response_seconds: 1 } };
        let targets = Targets::of((1..).zip(changes).map(change).collect());
        let holds = |target: &u32| {
            let moments = from + 1..=from + long;
            moments.into_iter().any(|passes| targets.at(passes - i64::from(*target) * 1_000).delivery_seconds == *target)
        };
        let mut got = targets.delivery_seconds_passing(from, from + long);
        got.sort_unstable();
        got.dedup();
        prop_assert_eq!(got, (1..5).filter(holds).collect::<Vec<u32>>());
    }

    #[test]
    fn the_order_of_rows_makes_no_difference(rows in rows(), seed in any::<prop::sample::Index>()) {
        let mut turned = rows.clone();
        turned.reverse();
        turned.rotate_left(if rows.is_empty() { 0 } else { seed.index(rows.len()) });
        prop_assert_eq!(tally(&mut turned, &targets(), NOW, END), tally(&mut rows.clone(), &targets(), NOW, END));
    }
}

#[test]
fn a_sweep_asks_for_no_target_that_was_replaced_long_ago() {
    let change = |seq: i64| Change {
        seq,
        at: seq * 1_000,
        targets: SlaTargets {
            delivery_seconds: seq as u32,
            first_response_seconds: 1,
        },
    };
    let targets = Targets::of((1..=32).map(change).collect());
    assert_eq!(targets.delivery_seconds_passing(1_000_000, 1_003_000), [32]);
}

#[test]
fn waits_of_one_conversation_are_counted() {
    let at = |seq: i64, kind| Row {
        seq,
        contact: ObjectId::from_bytes([1; 12]),
        platform: Platform::Web,
        kind,
        accepted_at: seq * 1_000,
        delivery: None,
        breached: false,
    };
    use Kind::*;
    let kinds = [
        Answered,
        Asked,
        Asked,
        Answered,
        Answered,
        Asked,
        AnsweredByBot,
        Answered,
        Asked,
    ];
    let mut rows: Vec<Row> = (1..).zip(kinds).map(|(seq, kind)| at(seq, kind)).collect();
    let counts = tally(&mut rows, &Targets::default(), 60_000, 60_000).first_response;
    // Asked in second 2, answered in 4. The bot answered in 7. Since second 9 the customer waits.
    assert_eq!((counts.times.count, counts.times.p50_ms), (1, Some(2_000)));
    assert_eq!(
        (
            counts.waiting,
            counts.oldest_waiting_ms,
            counts.within_target,
            counts.late
        ),
        (1, Some(51_000), 1, 0)
    );
}
