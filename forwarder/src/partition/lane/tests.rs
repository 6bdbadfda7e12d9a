//! Random histories of a partition. Messages come, wait, are held, fail and are sent again. Each lane
//! is worked off in order, one message at a time, and no message is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::delivery::report::{FinalStep, Step};
use crate::delivery::work::Content;
use async_nats::HeaderMap;
use bytes::Bytes;
use contract::domain::DeliveryState;
use contract::domain::Provider;
use contract::{Id, Timestamp};
use proptest::prelude::*;

fn lane(n: u8) -> LaneId {
    (Id::from_bytes([1; 12]), Id::from_bytes([n; 12]))
}

fn item(seq: u64, log_position: Option<u64>) -> LaneItem {
    let content = Content {
        subject: "outbound.0".into(),
        headers: HeaderMap::new(),
        payload: Bytes::from_static(b"{}"),
        stored_at: Timestamp::from_millis(0),
    };
    LaneItem {
        seq,
        log_position,
        ack: "ack".into(),
        calls: 0,
        repeated: false,
        not_before: None,
        final_step: None,
        content: Some(content),
    }
}

fn final_step() -> Box<FinalStep> {
    Box::new(FinalStep {
        step: Step::to(DeliveryState::Failed, 1),
        dead_letter: None,
    })
}

fn scope(n: u8) -> Scope {
    (Id::from_bytes([n; 12]), Provider::Facebook)
}

#[derive(Clone, Debug)]
enum Do {
    /// A message comes for a lane.
    Arrive(u8),
    Start,
    /// The work on the message that was started first, or last, ends.
    End {
        newest: bool,
        how: u8,
    },
    /// This many seconds pass.
    Wake(u8),
    /// All holds end.
    Release,
    /// The partition is taken over again, so all messages that are not done come again.
    TakeOver,
}

fn steps() -> impl Strategy<Value = Vec<Do>> {
    let step = prop_oneof![
        4 => (0..4_u8).prop_map(Do::Arrive),
        4 => Just(Do::Start),
        4 => (any::<bool>(), 0..5_u8).prop_map(|(newest, how)| Do::End { newest, how }),
        1 => (0..4_u8).prop_map(Do::Wake),
        1 => Just(Do::Release),
        1 => Just(Do::TakeOver),
    ];
    prop::collection::vec(step, 0..120)
}

/// The server's side: the messages that are not done, and those that are.
#[derive(Default)]
struct World {
    lanes: Lanes,
    open: BTreeMap<u64, LaneId>,
    done: BTreeMap<LaneId, Vec<u64>>,
    working: Vec<(LaneId, u64)>,
    /// Messages of which only the last step is still to be stored.
    finishing: BTreeSet<u64>,
    next: u64,
}

impl World {
    fn arrive(&mut self, id: LaneId) {
        self.next += 1;
        self.open.insert(self.next, id);
        self.lanes.add(id, item(self.next, Some(self.next)));
    }

    fn start(&mut self) -> bool {
        let Some((id, item)) = self.lanes.start() else {
            return false;
        };
        assert!(
            !self.working.iter().any(|(other, _)| *other == id),
            "two messages of one lane at once"
        );
        let oldest = self
            .open
            .iter()
            .find(|(_, lane)| **lane == id)
            .map(|(seq, _)| *seq);
        assert_eq!(oldest, Some(item.seq), "not the oldest of its lane");
        assert_eq!(
            item.final_step.is_some(),
            self.finishing.contains(&item.seq),
            "a message that has ended is not called for again"
        );
        self.working.push((id, item.seq));
        true
    }

    fn end(&mut self, newest: bool, how: u8, now: Instant) {
        let Some(last) = self.working.len().checked_sub(1) else {
            return;
        };
        let (id, seq) = self.working.remove(if newest { last } else { 0 });
        let until = now + Duration::from_secs(u64::from(how));
        let after = match how {
            0 | 1 => {
                self.open.remove(&seq);
                self.done.entry(id).or_default().push(seq);
                After::Next
            }
            2 => After::Wait { until, calls: 1 },
            3 => {
                self.finishing.insert(seq);
                After::Finish {
                    until,
                    final_step: final_step(),
                }
            }
            _ => After::Hold {
                scope: scope(1),
                until: now + Duration::from_secs(1_000),
                calls: 1,
            },
        };
        self.lanes.finish(id, seq, after);
    }

    fn take_over(&mut self) {
        self.lanes.forget();
        self.finishing.clear();
        for (seq, id) in &self.open {
            self.lanes.add(*id, item(*seq, Some(*seq)));
        }
    }
}

proptest! {
    #[test]
    fn each_lane_is_worked_off_in_order_and_no_message_is_left(steps in steps()) {
        let (mut world, mut now) = (World::default(), Instant::now());
        for step in steps {
            match step {
                Do::Arrive(n) => world.arrive(lane(n)),
                Do::Start => drop(world.start()),
                Do::End { newest, how } => world.end(newest, how, now),
                Do::Wake(seconds) => {
                    now += Duration::from_secs(seconds.into());
                    world.lanes.wake(now);
                }
                Do::Release => world.lanes.release(|_| true),
                Do::TakeOver => world.take_over(),
            }
            let in_lanes = world.lanes.counts().messages;
            prop_assert_eq!(in_lanes, world.open.len());
        }
        // From any state, with time and without holds, all messages are delivered.
        now += Duration::from_secs(10_000);
        for _ in 0..1_000 {
            world.lanes.wake(now);
            while world.start() {}
            world.end(false, 0, now);
        }
        prop_assert!(world.open.is_empty(), "left: {:?}", world.open);
        prop_assert_eq!(world.lanes.counts(), Counts::default());
        prop_assert_eq!(world.lanes.kept_bytes, 0);
        for (_, done) in world.done {
            let sorted: BTreeSet<u64> = done.iter().copied().collect();
            prop_assert_eq!(done, sorted.into_iter().collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_replayed_message_goes_before_newer_ones_but_not_before_the_one_in_work() {
    let mut lanes = Lanes::default();
    for (seq, log_position) in [(1, 10), (2, 30)] {
        lanes.add(lane(1), item(seq, Some(log_position)));
    }
    let (id, first) = lanes.start().unwrap();
    assert_eq!(first.seq, 1);
    lanes.add(lane(1), item(3, Some(5)));
    lanes.add(lane(1), item(4, Some(20)));
    lanes.add(lane(1), item(5, None));
    lanes.finish(id, 1, After::Next);
    let mut rest = Vec::new();
    while let Some((id, item)) = lanes.start() {
        rest.push(item.seq);
        lanes.finish(id, item.seq, After::Next);
    }
    assert_eq!(rest, [3, 4, 2, 5]);
}

#[test]
fn a_lane_that_waits_or_is_held_delays_no_other() {
    let (mut lanes, now) = (Lanes::default(), Instant::now());
    for n in 1..=3 {
        lanes.add(lane(n), item(n.into(), Some(n.into())));
    }
    let mut started = [lanes.start(), lanes.start(), lanes.start()].map(|s| s.unwrap().0);
    let until = now + Duration::from_secs(60);
    lanes.finish(started[0], 1, After::Wait { until, calls: 1 });
    lanes.finish(
        started[1],
        2,
        After::Hold {
            scope: scope(1),
            until,
            calls: 1,
        },
    );
    lanes.finish(started[2], 3, After::Next);
    lanes.add(lane(3), item(4, Some(4)));
    started[2] = lanes.start().unwrap().0;
    assert_eq!((started[2], lanes.start()), (lane(3), None));
    lanes.release(|held| held == scope(1));
    let (id, again) = lanes.start().unwrap();
    assert_eq!((id, again.calls), (lane(2), 1));
    assert_eq!(lanes.next_due(), Some(until));
    lanes.wake(until);
    assert_eq!(lanes.start().unwrap().0, lane(1));
}

#[test]
fn the_content_of_a_message_that_must_wait_is_not_kept_in_memory() {
    let mut lanes = Lanes::default();
    let big = |seq| {
        let mut item = item(seq, Some(seq));
        item.content.as_mut().unwrap().payload = vec![0; KEPT_BYTES / 2].into();
        item
    };
    for n in 1..=3 {
        lanes.add(lane(n), big(n.into()));
        lanes.add(lane(n), big(u64::from(n) + 10));
    }
    let kept: Vec<bool> = std::iter::from_fn(|| lanes.start())
        .map(|(_, item)| item.content.is_some())
        .collect();
    assert_eq!(kept, [true, true, false]);
    assert_eq!(lanes.kept_bytes, 0);
}

#[test]
fn a_message_waits_for_its_time_after_a_takeover_too() {
    let (mut lanes, now) = (Lanes::default(), Instant::now());
    let later = now + Duration::from_secs(5);
    lanes.add(
        lane(1),
        LaneItem {
            not_before: Some(later),
            ..item(1, Some(1))
        },
    );
    assert_eq!(lanes.start(), None);
    lanes.wake(later);
    assert_eq!(lanes.start().unwrap().1.seq, 1);
}

#[test]
fn a_message_that_goes_before_one_that_waits_does_not_end_its_pause() {
    let (mut lanes, now) = (Lanes::default(), Instant::now());
    let until = now + Duration::from_secs(60);
    lanes.add(lane(1), item(1, Some(10)));
    let (id, _) = lanes.start().unwrap();
    lanes.finish(id, 1, After::Wait { until, calls: 1 });
    lanes.add(lane(1), item(2, Some(5)));
    let (_, replayed) = lanes.start().unwrap();
    assert_eq!(replayed.seq, 2);
    lanes.finish(id, 2, After::Next);
    assert_eq!((lanes.start(), lanes.next_due()), (None, Some(until)));
    lanes.wake(until);
    assert_eq!(lanes.start().unwrap().1.seq, 1);
}
