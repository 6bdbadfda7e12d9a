//! Tests of [`Room`]: fan-out, rooms, and above all that each socket gets every event once and
//! in order, however live messages, repairs and the replay for a socket that comes back fall
//! together.

use contract::domain::StaffRole;
use proptest::prelude::*;

use super::*;
use crate::log::catch_up::{CatchUp, Page};
use crate::room::queue::tests::{ROOM, frame, text};

const ROOMS: usize = 3;

fn id(n: u8) -> Id {
    Id::from_bytes([n; 12])
}

fn company() -> Room {
    let company = Room::new(id(0xaa));
    company.begin(0);
    company
}

fn session(expires: Timestamp) -> Session {
    Session {
        user: id(0xdd),
        company: id(0xaa),
        role: StaffRole::Manager,
        session: None,
        expires,
    }
}

fn add(company: &Room, socket: u8, room: usize) -> Arc<Queue> {
    let queue = Arc::new(Queue::new(room));
    company.add(
        id(socket),
        session(Timestamp::from_millis(1_000_000)),
        queue.clone(),
    );
    queue
}

/// A socket that is live from now on and has read its greeting.
fn enter(company: &Room, socket: u8, room: usize) -> Arc<Queue> {
    let queue = add(company, socket, room);
    assert_eq!(company.start(id(socket), None), Start::Live);
    assert_eq!(
        [queue.take(), queue.take()].map(|frame| frame.unwrap().unwrap().event()),
        ["ready", "presence:update"]
    );
    queue
}

#[tokio::test]
async fn an_expiring_token_is_told_once_and_ends_its_socket() {
    let company = company();
    let queue = enter(&company, 1, ROOM);
    company.check_tokens(Timestamp::from_millis(969_999));
    assert!(queue.take().is_none());
    for _ in 0..2 {
        company.check_tokens(Timestamp::from_millis(970_000));
    }
    assert_eq!(queue.next().await.unwrap().event(), "token:expiring");
    assert!(queue.take().is_none());
    company.check_tokens(Timestamp::from_millis(1_000_000));
    assert_eq!(text(queue.next().await), Err(CloseReason::TokenExpired));
}

#[tokio::test]
async fn every_socket_gets_every_frame_in_order_until_it_leaves() {
    let company = company();
    let (one, two) = (enter(&company, 1, ROOM), enter(&company, 2, ROOM));
    for (seq, text) in [(3, "a"), (7, "b")] {
        assert_eq!(company.deliver(seq, Some(frame(text))), Some(2));
    }
    for queue in [&one, &two] {
        assert_eq!(
            (text(queue.next().await), text(queue.next().await)),
            (Ok("a".into()), Ok("b".into()))
        );
    }
    company.remove(id(1));
    assert_eq!(
        (company.deliver(8, Some(frame("c"))), company.socket_count()),
        (Some(1), 1)
    );
    company.remove(id(2));
    company.emptied.notified().await;
    assert_eq!(company.deliver(9, Some(frame("d"))), Some(0));
}

#[test]
fn what_comes_again_or_late_is_not_handed_out() {
    let company = company();
    let new: Vec<u64> = [3, 3, 5, 4, 5, 6]
        .into_iter()
        .filter(|seq| company.deliver(*seq, None).is_some())
        .collect();
    assert_eq!(new, [3, 5, 6]);
}

#[tokio::test]
async fn a_cursor_from_beyond_is_for_the_log_to_judge_and_a_resync_begins_now() {
    let company = company();
    company.deliver(10, Some(frame("ten")));
    let queue = add(&company, 1, ROOM);
    assert_eq!(company.start(id(1), Some(11)), Start::CatchUp);
    company.deliver(12, Some(frame("twelve")));
    company.resync(id(1), ResyncReason::Unknown);
    company.deliver(13, Some(frame("thirteen")));
    let told: Vec<String> = std::iter::from_fn(|| queue.take())
        .map(|f| f.unwrap().data().get().to_owned())
        .collect();
    assert_eq!(
        told,
        [
            r#"{"seq":11}"#,
            r#"{"snapshot":true,"users":[]}"#,
            r#"{"seq":12,"reason":"unknown"}"#,
            r#""thirteen""#
        ]
    );
}

#[tokio::test]
async fn typing_goes_to_those_who_joined_and_not_back() {
    let company = company();
    let [_typist, joined, _other] = [1, 2, 3].map(|n| enter(&company, n, ROOM));
    for (socket, conversation) in [(1, 9), (2, 9), (3, 8)] {
        company.join(id(socket), id(conversation), ROOMS).unwrap();
    }
    assert_eq!(company.deliver_to_joined(id(9), id(1), &frame("typing")), 1);
    assert_eq!(text(joined.next().await), Ok("typing".into()));
    company.leave(id(2), id(9));
    assert_eq!(company.deliver_to_joined(id(9), id(1), &frame("typing")), 0);
}

#[tokio::test]
async fn a_slow_socket_ends_alone() {
    let company = company();
    let (slow, quick) = (
        enter(&company, 1, 3 * frame("x").bytes()),
        enter(&company, 2, ROOM),
    );
    for seq in 1..=4 {
        company.deliver(seq, Some(frame("x")));
        assert_eq!(text(quick.next().await), Ok("x".into()));
    }
    assert_eq!(text(slow.next().await), Err(CloseReason::TooSlow));
    assert_eq!(company.deliver(5, Some(frame("y"))), Some(1));
}

#[test]
fn conversations_of_a_socket_are_bounded() {
    let company = company();
    enter(&company, 1, ROOM);
    for n in 1..=ROOMS as u8 {
        company.join(id(1), id(n), ROOMS).unwrap();
    }
    assert_eq!(company.join(id(1), id(9), ROOMS), Err(TooManyJoined));
    company.join(id(1), id(1), ROOMS).unwrap();
    company.leave(id(1), id(1));
    company.join(id(1), id(9), ROOMS).unwrap();
}

#[tokio::test]
async fn what_was_passed_over_is_noticed_and_told() {
    let company = company();
    let queue = enter(&company, 1, ROOM);
    for seq in [3, 7] {
        company.deliver(seq, Some(event(seq)));
    }
    assert_eq!(
        [3, 5, 7, 9].map(|seq| company.has_missed(seq)),
        [false, true, false, false]
    );
    company.resync_all(ResyncReason::Late);
    let told: Vec<String> = std::iter::from_fn(|| queue.take())
        .map(|f| f.unwrap().data().get().to_owned())
        .collect();
    assert_eq!(told, ["\"3\"", "\"7\"", r#"{"seq":7,"reason":"late"}"#]);
    assert!(!company.has_missed(5));
}

#[tokio::test]
async fn who_comes_and_goes_is_told_and_a_new_socket_sees_all() {
    let company = company();
    let first = enter(&company, 1, ROOM);
    assert_eq!(company.set_users_of_node("here", company.users()), 1);
    company.set_users_of_node("there", Users::from([(id(5), [id(9)].into())]));
    company.set_users_of_node("there", Users::from([(id(5), [id(9)].into())]));
    company.remove_node("there");
    let told: Vec<String> = std::iter::from_fn(|| first.take())
        .map(|f| f.unwrap().data().get().to_owned())
        .collect();
    let [me, you, nine] = [0xdd, 5, 9].map(|n| id(n).to_string());
    let [me_on, you_on, you_off] = [
        format!(r#"{{"userId":"{me}","online":true,"viewing":[]}}"#),
        format!(r#"{{"userId":"{you}","online":true,"viewing":["{nine}"]}}"#),
        format!(r#"{{"userId":"{you}","online":false,"viewing":[]}}"#),
    ];
    assert_eq!(
        told,
        [me_on.clone(), you_on, you_off]
            .map(|user| format!(r#"{{"snapshot":false,"users":[{user}]}}"#))
    );
    let second = add(&company, 2, ROOM);
    company.start(id(2), None);
    let snapshot =
        [second.take(), second.take()].map(|frame| frame.unwrap().unwrap().data().get().to_owned());
    assert_eq!(
        snapshot,
        [
            r#"{"seq":0}"#.to_owned(),
            format!(r#"{{"snapshot":true,"users":[{me_on}]}}"#)
        ]
    );
}

#[tokio::test]
async fn the_sockets_of_an_ended_login_end() {
    let company = company();
    let (queue, other) = (Arc::new(Queue::new(ROOM)), enter(&company, 2, ROOM));
    company.add(
        id(1),
        Session {
            session: Some(id(7)),
            ..session(Timestamp::from_millis(1_000_000))
        },
        queue.clone(),
    );
    assert_eq!(company.logins(), [(id(0xdd), id(7))]);
    company.end_logins(&HashSet::from([(id(0xdd), id(8))]));
    assert!(queue.take().is_none());
    company.end_logins(&HashSet::from([(id(0xdd), id(7))]));
    assert_eq!(text(queue.next().await), Err(CloseReason::SessionEnded));
    assert!(other.take().is_none());
}

/// One thing that happens. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Happens {
    /// The log stores an event; of the company if so.
    Store(bool),
    /// The server passes the next stored events on, or they are lost on the way.
    Pass { count: usize, lost: bool },
    /// Something that was passed on before comes again.
    Repeat(usize),
    /// The node reads what it has not handed out, from a replica that has all of it.
    Repair,
    /// The socket asks for its next page of at most so many, from a replica that lacks so many.
    Read { count: usize, lacks: usize },
    /// It tries to go live.
    Join,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => any::<bool>().prop_map(Happens::Store),
        3 => (1..6usize, prop::bool::weighted(0.2)).prop_map(|(count, lost)| Happens::Pass { count, lost }),
        1 => any::<usize>().prop_map(Happens::Repeat),
        1 => Just(Happens::Repair),
        3 => (1..5usize, 0..4usize).prop_map(|(count, lacks)| Happens::Read { count, lacks }),
        1 => Just(Happens::Join),
    ]
}

/// A log, a node and a socket that comes back with a cursor.
struct World {
    company: Room,
    /// Sequences of the company, and how many of all there are.
    log: Vec<u64>,
    stored: u64,
    /// How many of `log` were passed on or lost.
    passed: usize,
    has_gap: bool,
    queue: Arc<Queue>,
    catch_up: Option<CatchUp>,
    got: Vec<u64>,
}

fn event(seq: u64) -> Frame {
    frame(&seq.to_string())
}

impl World {
    fn new(before: Vec<bool>, cursor: u64) -> World {
        let company = Room::new(id(0xaa));
        let log: Vec<u64> = before
            .iter()
            .zip(1..)
            .filter(|(ours, _)| **ours)
            .map(|(_, seq)| seq)
            .collect();
        let stored = before.len() as u64;
        company.begin(stored);
        // So few that they are forgotten while the socket is given its pages.
        company.state().recent = Recent::bounded(stored, 3);
        let queue = add(&company, 1, ROOM);
        let cursor = cursor % (stored + 1);
        let start = company.start(id(1), Some(cursor));
        let mut catch_up = CatchUp::new(cursor);
        catch_up.asked();
        let catch_up = (start == Start::CatchUp).then_some(catch_up);
        let passed = log.len();
        World {
            company,
            log,
            stored,
            passed,
            has_gap: false,
            queue,
            catch_up,
            got: Vec::new(),
        }
    }

    fn step(&mut self, happens: Happens) {
        match happens {
            Happens::Store(ours) => {
                self.stored += 1;
                self.log.extend(ours.then_some(self.stored));
            }
            Happens::Pass { count, lost } => {
                for _ in 0..count.min(self.log.len() - self.passed) {
                    let seq = self.log[self.passed];
                    self.passed += 1;
                    self.has_gap |= lost;
                    if !lost {
                        // As the feed does: nothing newer before the gap is repaired.
                        self.repair();
                        self.company.deliver(seq, Some(event(seq)));
                    }
                }
            }
            Happens::Repeat(n) if self.passed > 0 => {
                let seq = self.log[n % self.passed];
                self.repair();
                self.company.deliver(seq, Some(event(seq)));
            }
            Happens::Repair => {
                self.has_gap = true;
                self.repair();
            }
            Happens::Read { count, lacks } => self.read(count, lacks),
            Happens::Join => {
                if self
                    .catch_up
                    .as_ref()
                    .is_some_and(|c| c.joins(&self.company, id(1)))
                {
                    self.drain();
                    self.catch_up = None;
                }
            }
            Happens::Repeat(_) => {}
        }
    }

    fn repair(&mut self) {
        if std::mem::take(&mut self.has_gap) {
            let from = self.company.last_seq();
            for seq in self.log.iter().filter(|seq| **seq > from) {
                self.company.deliver(*seq, Some(event(*seq)));
            }
        }
    }

    /// As `catch_up::try_read`: what was handed out is looked at first, and an empty page counts
    /// only if the leader has no more.
    fn read(&mut self, count: usize, lacks: usize) {
        let Some(catch_up) = &mut self.catch_up else {
            return;
        };
        let handed_out = self.company.last_seq();
        let position = catch_up.position();
        let replica = &self.log[..self.log.len() - lacks.min(self.log.len())];
        let events: Vec<_> = replica
            .iter()
            .filter(|seq| **seq > position)
            .take(count)
            .map(|seq| (*seq, Some(event(*seq))))
            .collect();
        let complete_to = match events.is_empty() {
            false => 0,
            true if self.log.last().is_none_or(|last| *last <= position) => handed_out,
            true => return,
        };
        catch_up.take(Page {
            events,
            complete_to,
            pending: 0,
        });
    }

    /// What the socket is given, in the order of `Subscriber::next`.
    fn drain(&mut self) {
        let queued = |queue: &Queue| queue.take().map(Result::unwrap);
        loop {
            let next = queued(&self.queue).or_else(|| self.catch_up.as_mut()?.ready());
            let Some(frame) = next else { return };
            self.got.extend(
                text(Ok(frame))
                    .ok()
                    .and_then(|text| text.parse::<u64>().ok()),
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn a_socket_gets_every_event_after_its_cursor_once_and_in_order(
        before in prop::collection::vec(any::<bool>(), 0..30),
        cursor in any::<u64>(),
        steps in prop::collection::vec((happens(), any::<bool>()), 0..80),
    ) {
        let cursor = cursor % (before.len() as u64 + 1);
        let mut world = World::new(before, cursor);
        let greeting = [world.queue.take(), world.queue.take()].map(|frame| frame.unwrap().unwrap().event());
        prop_assert_eq!(greeting, ["ready", "presence:update"]);
        for (step, drained) in steps {
            world.step(step);
            if drained {
                world.drain();
            }
        }
        // The end: the rest is passed on, and the socket gets its pages.
        world.has_gap = true;
        world.repair();
        for _ in 0..world.log.len() + 2 {
            world.step(Happens::Read { count: 3, lacks: 0 });
            world.drain();
            world.step(Happens::Join);
        }
        world.drain();
        prop_assert!(world.catch_up.is_none());
        prop_assert!(world.queue.take().is_none());
        let expected: Vec<u64> = world.log.iter().copied().filter(|seq| *seq > cursor).collect();
        prop_assert_eq!(world.got, expected);
    }
}
