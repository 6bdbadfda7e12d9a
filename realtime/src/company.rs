//! The sockets of one company on this node, and the fan-out to them. Knows neither NATS nor any door.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nats::{Id, Timestamp};
use tokio::sync::{Notify, watch};

use crate::access::Session;
use crate::close::CloseReason;
use crate::event;
use crate::frame::Frame;
use crate::queue::Queue;

/// So long before its token expires a client is told, so that it can come back with a fresh one in time.
pub const EXPIRY_NOTICE: Duration = Duration::from_secs(30);

/// The socket has joined as many conversations as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many conversations are joined")]
pub struct TooManyJoined;

/// How far the company's subscriptions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedState {
    /// Being made.
    Opening,
    /// The server has them.
    Live,
    /// They could not be made, or ended.
    Ended,
}

struct Member {
    queue: Arc<Queue>,
    session: Session,
    /// Its client has been told that the token is about to expire.
    warned: bool,
    joined: HashSet<Id>,
}

#[derive(Default)]
struct State {
    members: HashMap<Id, Member>,
    last_seq: u64,
}

/// The room `company:<id>`.
pub struct Company {
    /// The tenant.
    pub id: Id,
    /// How far its feed is; the feed says so.
    pub feed: watch::Sender<FeedState>,
    /// Told when the last socket has left.
    pub emptied: Notify,
    state: Mutex<State>,
}

impl Company {
    /// Without sockets.
    pub fn new(id: Id) -> Company {
        Company { id, feed: watch::Sender::new(FeedState::Opening), emptied: Notify::new(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock still holds whole maps: every write is one insert or remove.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a socket in.
    pub fn add(&self, socket: Id, session: Session, queue: Arc<Queue>) {
        self.state().members.insert(socket, Member { queue, session, warned: false, joined: HashSet::new() });
    }

    /// Lets a socket go.
    pub fn remove(&self, socket: Id) {
        let mut state = self.state();
        state.members.remove(&socket);
        let empty = state.members.is_empty();
        drop(state);
        if empty {
            self.emptied.notify_one();
        }
    }

    /// How many sockets are in.
    pub fn sockets(&self) -> usize {
        self.state().members.len()
    }

    /// Whether the event at `seq` is new. The log's order is kept: what comes late or again is not delivered.
    pub fn advance(&self, seq: u64) -> bool {
        let mut state = self.state();
        let new = seq > state.last_seq;
        if new {
            state.last_seq = seq;
        }
        new
    }

    /// Queues a frame for every socket; returns how many got it. Never waits.
    pub fn to_all(&self, frame: &Frame) -> usize {
        self.state().members.values().filter(|m| m.queue.push(frame)).count()
    }

    /// Queues a frame for the sockets that joined `conversation`, except one.
    pub fn to_joined(&self, conversation: Id, except: Id, frame: &Frame) -> usize {
        let state = self.state();
        let joined = state.members.iter().filter(|(socket, m)| **socket != except && m.joined.contains(&conversation));
        joined.filter(|(_, m)| m.queue.push(frame)).count()
    }

    /// Ends every socket's queue.
    pub fn end_all(&self, reason: CloseReason) {
        self.state().members.values().for_each(|m| m.queue.end(reason));
    }

    /// Ends every socket's queue after what waits in it and one last frame of its own.
    pub fn end_all_after(&self, last: impl Fn(Id) -> Option<Frame>, reason: CloseReason) {
        self.state().members.iter().for_each(|(socket, m)| m.queue.end_after(last(*socket).as_ref(), reason));
    }

    /// Ends the sockets whose token has expired, and tells those whose token is about to, once.
    pub fn check_tokens(&self, now: Timestamp) {
        for member in self.state().members.values_mut() {
            match member.session.time_left(now) {
                Duration::ZERO => member.queue.end(CloseReason::TokenExpired),
                left if left <= EXPIRY_NOTICE && !member.warned => {
                    member.warned = true;
                    member.queue.push_some(event::of_expiry(member.session.expires));
                }
                _ => {}
            }
        }
    }

    /// A socket joins a conversation, for its typing indicators; at most `limit` of them.
    ///
    /// # Errors
    /// [`TooManyJoined`]
    pub fn join(&self, socket: Id, conversation: Id, limit: usize) -> Result<(), TooManyJoined> {
        let mut state = self.state();
        let Some(member) = state.members.get_mut(&socket) else { return Ok(()) };
        if member.joined.len() >= limit && !member.joined.contains(&conversation) {
            return Err(TooManyJoined);
        }
        member.joined.insert(conversation);
        Ok(())
    }

    /// A socket leaves a conversation, joined or not.
    pub fn leave(&self, socket: Id, conversation: Id) {
        if let Some(member) = self.state().members.get_mut(&socket) {
            member.joined.remove(&conversation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nats::domain::StaffRole;

    use crate::queue::tests::{ROOM, frame, text};

    const ROOMS: usize = 3;

    fn id(n: u8) -> Id {
        Id::from_bytes([n; 12])
    }

    fn session(expires: Timestamp) -> Session {
        Session { user: id(0xdd), company: id(0xaa), role: StaffRole::Manager, session: None, expires }
    }

    fn enter(company: &Company, socket: u8, room: usize) -> Arc<Queue> {
        let queue = Arc::new(Queue::new(room));
        company.add(id(socket), session(Timestamp::from_millis(1_000_000)), queue.clone());
        queue
    }

    #[tokio::test]
    async fn an_expiring_token_is_told_once_and_ends_its_socket() {
        let company = Company::new(id(0xaa));
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
        let company = Company::new(id(0xaa));
        let (one, two) = (enter(&company, 1, ROOM), enter(&company, 2, ROOM));
        for text in ["a", "b"] {
            assert_eq!(company.to_all(&frame(text)), 2);
        }
        for queue in [&one, &two] {
            assert_eq!((text(queue.next().await), text(queue.next().await)), (Ok("a".into()), Ok("b".into())));
        }
        company.remove(id(1));
        assert_eq!((company.to_all(&frame("c")), company.sockets()), (1, 1));
        company.remove(id(2));
        company.emptied.notified().await;
        assert_eq!(company.to_all(&frame("d")), 0);
    }

    #[test]
    fn what_comes_again_or_late_is_not_new() {
        let company = Company::new(id(0xaa));
        let new: Vec<u64> = [3, 3, 5, 4, 5, 6].into_iter().filter(|seq| company.advance(*seq)).collect();
        assert_eq!(new, [3, 5, 6]);
    }

    #[tokio::test]
    async fn typing_goes_to_those_who_joined_and_not_back() {
        let company = Company::new(id(0xaa));
        let [_typist, joined, _other] = [1, 2, 3].map(|n| enter(&company, n, ROOM));
        for (socket, conversation) in [(1, 9), (2, 9), (3, 8)] {
            company.join(id(socket), id(conversation), ROOMS).unwrap();
        }
        assert_eq!(company.to_joined(id(9), id(1), &frame("typing")), 1);
        assert_eq!(text(joined.next().await), Ok("typing".into()));
        company.leave(id(2), id(9));
        assert_eq!(company.to_joined(id(9), id(1), &frame("typing")), 0);
    }

    #[tokio::test]
    async fn a_slow_socket_ends_alone() {
        let company = Company::new(id(0xaa));
        let (slow, quick) = (enter(&company, 1, 3 * frame("x").bytes()), enter(&company, 2, ROOM));
        for _ in 0..=3 {
            company.to_all(&frame("x"));
            assert_eq!(text(quick.next().await), Ok("x".into()));
        }
        assert_eq!(text(slow.next().await), Err(CloseReason::TooSlow));
        assert_eq!(company.to_all(&frame("y")), 1);
    }

    #[test]
    fn conversations_of_a_socket_are_bounded() {
        let company = Company::new(id(0xaa));
        enter(&company, 1, ROOM);
        for n in 1..=ROOMS as u8 {
            company.join(id(1), id(n), ROOMS).unwrap();
        }
        assert_eq!(company.join(id(1), id(9), ROOMS), Err(TooManyJoined));
        company.join(id(1), id(1), ROOMS).unwrap();
        company.leave(id(1), id(1));
        company.join(id(1), id(9), ROOMS).unwrap();
    }
}
