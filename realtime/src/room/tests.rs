//! Tests of [`Room`]: fan-out, conversations, presence, and above all that each socket gets every
//! event once and in order, however live messages, repairs and the catch-up of a socket coincide.

use contract::domain::StaffRole;
use proptest::prelude::*;

use super::queue::tests::{LIMIT, frame, text};
use super::server_event::ServerEvent;
use super::*;
use crate::log::catch_up::{CatchUp, Page};

/// Conversations that a socket may join.
const CONVERSATIONS: usize = 3;

fn id(n: u8) -> Id {
    Id::from_bytes([n; 12])
}

fn live_room() -> Room {
    let room = Room::new(id(0xaa));
    room.begin(0);
    room
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

fn add(room: &Room, socket: u8, limit: usize) -> Arc<Queue> {
    let queue = Arc::new(Queue::new(limit));
    room.add(
        id(socket),
        session(Timestamp::from_millis(1_000_000)),
        queue.clone(),
    );
    queue
}

/// Adds a socket that is live from now on and has read its first two frames.
fn enter(room: &Room, socket: u8, limit: usize) -> Arc<Queue> {
    let queue = add(room, socket, limit);
    assert_eq!(room.start(id(socket), None), Start::Live);
    assert_eq!(
        [queue.take(), queue.take()].map(|frame| frame.unwrap().unwrap().event().as_str()),
        ["ready", "presence:update"]
    );
    queue
}

#[tokio::test]
async fn a_client_is_told_once_that_its_token_expires_and_its_socket_ends() {
    let room = live_room();
    let queue = enter(&room, 1, LIMIT);
    room.check_tokens(Timestamp::from_millis(969_999));
    assert!(queue.take().is_none());
    for _ in 0..2 {
        room.check_tokens(Timestamp::from_millis(970_000));
    }
    assert_eq!(
        queue.next().await.unwrap().event(),
        ServerEvent::TokenExpiring
    );
    assert!(queue.take().is_none());
    room.check_tokens(Timestamp::from_millis(1_000_000));
    assert_eq!(text(queue.next().await), Err(CloseReason::TokenExpired));
}

#[tokio::test]
async fn every_socket_gets_every_event_in_order_until_it_leaves() {
    let room = live_room();
    let (one, two) = (enter(&room, 1, LIMIT), enter(&room, 2, LIMIT));
    for (seq, text) in [(3, "a"), (7, "b")] {
        assert_eq!(room.deliver(seq, Some(frame(text))), Some(2));
    }
    for queue in [&one, &two] {
        assert_eq!(
            (text(queue.next().await), text(queue.next().await)),
            (Ok("a".into()), Ok("b".into()))
        );
    }
    room.remove(id(1));
    assert_eq!(
        (room.deliver(8, Some(frame("c"))), room.socket_count()),
        (Some(1), 1)
    );
    room.remove(id(2));
    room.emptied.notified().await;
    assert_eq!(room.deliver(9, Some(frame("d"))), Some(0));
}

#[test]
fn an_event_that_comes_again_or_late_is_not_delivered() {
    let room = live_room();
    let new: Vec<u64> = [3, 3, 5, 4, 5, 6]
        .into_iter()
        .filter(|seq| room.deliver(*seq, None).is_some())
        .collect();
    assert_eq!(new, [3, 5, 6]);
}

#[tokio::test]
async fn a_cursor_beyond_the_last_event_is_left_to_the_log_and_a_resync_starts_at_the_last_event() {
    let room = live_room();
    room.deliver(10, Some(frame("ten")));
    let queue = add(&room, 1, LIMIT);
    assert_eq!(room.start(id(1), Some(11)), Start::CatchUp);
    room.deliver(12, Some(frame("twelve")));
    room.resync(id(1), ResyncReason::Unknown);
    room.deliver(13, Some(frame("thirteen")));
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
async fn typing_goes_to_the_sockets_that_joined_but_not_to_its_own() {
    let room = live_room();
    let [_typist, joined, _other] = [1, 2, 3].map(|n| enter(&room, n, LIMIT));
    for (socket, conversation) in [(1, 9), (2, 9), (3, 8)] {
        room.join(id(socket), id(conversation), CONVERSATIONS)
            .unwrap();
    }
    assert_eq!(room.deliver_to_joined(id(9), id(1), &frame("typing")), 1);
    assert_eq!(text(joined.next().await), Ok("typing".into()));
    room.leave(id(2), id(9));
    assert_eq!(room.deliver_to_joined(id(9), id(1), &frame("typing")), 0);
}

#[tokio::test]
async fn a_slow_socket_ends_and_the_others_go_on() {
    let room = live_room();
    let (slow, quick) = (
        enter(&room, 1, 3 * frame("x").bytes()),
        enter(&room, 2, LIMIT),
    );
    for seq in 1..=4 {
        room.deliver(seq, Some(frame("x")));
        assert_eq!(text(quick.next().await), Ok("x".into()));
    }
    assert_eq!(text(slow.next().await), Err(CloseReason::TooSlow));
    assert_eq!(room.deliver(5, Some(frame("y"))), Some(1));
}

#[test]
fn the_conversations_of_a_socket_are_bounded() {
    let room = live_room();
    enter(&room, 1, LIMIT);
    for n in 1..=CONVERSATIONS as u8 {
        room.join(id(1), id(n), CONVERSATIONS).unwrap();
    }
    assert_eq!(room.join(id(1), id(9), CONVERSATIONS), Err(TooManyJoined));
    room.join(id(1), id(1), CONVERSATIONS).unwrap();
    room.leave(id(1), id(1));
    room.join(id(1), id(9), CONVERSATIONS).unwrap();
}

#[tokio::test]
async fn a_missed_event_is_recognised_and_all_clients_are_told_to_fetch() {
    let room = live_room();
    let queue = enter(&room, 1, LIMIT);
    for seq in [3, 7] {
        room.deliver(seq, Some(event(seq)));
    }
    assert_eq!(
        [3, 5, 7, 9].map(|seq| room.has_missed(seq)),
        [false, true, false, false]
    );
    room.resync_all(ResyncReason::Late);
    let told: Vec<String> = std::iter::from_fn(|| queue.take())
        .map(|f| f.unwrap().data().get().to_owned())
        .collect();
    assert_eq!(told, ["\"3\"", "\"7\"", r#"{"seq":7,"reason":"late"}"#]);
    assert!(!room.has_missed(5));
}

#[tokio::test]
async fn changes_of_presence_are_told_and_a_new_socket_gets_all_users() {
    let room = live_room();
    let first = enter(&room, 1, LIMIT);
    assert_eq!(room.set_users_of_node("here", room.users()), 1);
    room.set_users_of_node("there", Users::from([(id(5), [id(9)].into())]));
    room.set_users_of_node("there", Users::from([(id(5), [id(9)].into())]));
    room.remove_node("there");
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
    let second = add(&room, 2, LIMIT);
    room.start(id(2), None);
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
async fn the_sockets_of_a_revoked_login_end() {
    let room = live_room();
    let (queue, other) = (Arc::new(Queue::new(LIMIT)), enter(&room, 2, LIMIT));
    room.add(
        id(1),
        Session {
            session: Some(id(7)),
            ..session(Timestamp::from_millis(1_000_000))
        },
        queue.clone(),
    );
    assert_eq!(room.logins(), [(id(0xdd), id(7))]);
    room.end_logins(&HashSet::from([(id(0xdd), id(8))]));
    assert!(queue.take().is_none());
    room.end_logins(&HashSet::from([(id(0xdd), id(7))]));
    assert_eq!(text(queue.next().await), Err(CloseReason::SessionEnded));
    assert!(other.take().is_none());
}

/// One step of the simulation. Numbers are taken modulo the number of choices.
#[derive(Clone, Debug)]
enum Step {
    /// The log stores an event, which is of the company if `true`.
    Store(bool),
    /// The NATS server republishes the next stored events, which may be lost on the way.
    Republish { count: usize, lost: bool },
    /// An event that was republished before comes again.
    Repeat(usize),
    /// The node reads the events that it has not delivered, from a replica that has all of them.
    Repair,
    /// The socket asks for its next page of at most `count` events, from a replica that lacks the
    /// last `lacks` events.
    Read { count: usize, lacks: usize },
    /// The socket tries to go live.
    Join,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(Step::Store),
        3 => (1..6usize, prop::bool::weighted(0.2)).prop_map(
            |(count, lost)| Step::Republish { count, lost }
        ),
        1 => any::<usize>().prop_map(Step::Repeat),
        1 => Just(Step::Repair),
        3 => (1..5usize, 0..4usize).prop_map(|(count, lacks)| Step::Read { count, lacks }),
        1 => Just(Step::Join),
    ]
}

/// A log, a room and a socket that comes back with a cursor.
struct World {
    room: Room,
    /// The sequences of the company's events.
    log: Vec<u64>,
    /// The last sequence of the whole log.
    stored: u64,
    /// How many events of `log` were republished or lost.
    republished: usize,
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
        let room = Room::new(id(0xaa));
        let log: Vec<u64> = before
            .iter()
            .zip(1..)
            .filter(|(ours, _)| **ours)
            .map(|(_, seq)| seq)
            .collect();
        let stored = before.len() as u64;
        room.begin(stored);
        // So few that the room forgets events while the socket is given its pages.
        room.state().recent = Recent::bounded(stored, 3);
        let queue = add(&room, 1, LIMIT);
        let cursor = cursor % (stored + 1);
        let start = room.start(id(1), Some(cursor));
        let mut catch_up = CatchUp::new(cursor);
        catch_up.skip_first_check();
        let catch_up = (start == Start::CatchUp).then_some(catch_up);
        let republished = log.len();
        World {
            room,
            log,
            stored,
            republished,
            has_gap: false,
            queue,
            catch_up,
            got: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Store(ours) => {
                self.stored += 1;
                self.log.extend(ours.then_some(self.stored));
            }
            Step::Republish { count, lost } => {
                for _ in 0..count.min(self.log.len() - self.republished) {
                    let seq = self.log[self.republished];
                    self.republished += 1;
                    self.has_gap |= lost;
                    if !lost {
                        // As the feed does: no newer event before the gap is repaired.
                        self.repair();
                        self.room.deliver(seq, Some(event(seq)));
                    }
                }
            }
            Step::Repeat(n) if self.republished > 0 => {
                let seq = self.log[n % self.republished];
                self.repair();
                self.room.deliver(seq, Some(event(seq)));
            }
            Step::Repair => {
                self.has_gap = true;
                self.repair();
            }
            Step::Read { count, lacks } => self.read(count, lacks),
            Step::Join => {
                if self
                    .catch_up
                    .as_ref()
                    .is_some_and(|c| c.joins(&self.room, id(1)))
                {
                    self.drain();
                    self.catch_up = None;
                }
            }
            Step::Repeat(_) => {}
        }
    }

    fn repair(&mut self) {
        if std::mem::take(&mut self.has_gap) {
            let from = self.room.last_seq();
            for seq in self.log.iter().filter(|seq| **seq > from) {
                self.room.deliver(*seq, Some(event(*seq)));
            }
        }
    }

    /// As `catch_up::try_read`: the last delivered sequence is read before the log, and an empty
    /// page counts only if the leader has no further event.
    fn read(&mut self, count: usize, lacks: usize) {
        let Some(catch_up) = &mut self.catch_up else {
            return;
        };
        let delivered = self.room.last_seq();
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
            true if self.log.last().is_none_or(|last| *last <= position) => delivered,
            true => return,
        };
        catch_up.take(Page {
            events,
            complete_to,
            pending: 0,
        });
    }

    /// Takes the socket's frames, in the order of `Subscriber::next`.
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
        steps in prop::collection::vec((any_step(), any::<bool>()), 0..80),
    ) {
        let cursor = cursor % (before.len() as u64 + 1);
        let mut world = World::new(before, cursor);
        let first_frames = [world.queue.take(), world.queue.take()];
        let first_frames = first_frames.map(|frame| frame.unwrap().unwrap().event().as_str());
        prop_assert_eq!(first_frames, ["ready", "presence:update"]);
        for (step, drained) in steps {
            world.step(step);
            if drained {
                world.drain();
            }
        }
        // In the end the rest is delivered, and the socket gets its pages.
        world.has_gap = true;
        world.repair();
        for _ in 0..world.log.len() + 2 {
            world.step(Step::Read { count: 3, lacks: 0 });
            world.drain();
            world.step(Step::Join);
        }
        world.drain();
        prop_assert!(world.catch_up.is_none());
        prop_assert!(world.queue.take().is_none());
        let expected: Vec<u64> = world.log.iter().copied().filter(|seq| *seq > cursor).collect();
        prop_assert_eq!(world.got, expected);
    }
}
