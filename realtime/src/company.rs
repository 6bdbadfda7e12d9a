//! The sockets of one company on this node, and the fan-out to them. Knows neither NATS nor WebSocket.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::ws::Utf8Bytes;
use nats::Id;
use tokio::sync::{Notify, watch};

use crate::close::CloseReason;
use crate::queue::Queue;

/// Conversations that one socket can have joined.
pub const MAX_JOINED: usize = 1_000;

/// The socket has joined [`MAX_JOINED`] conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a socket can join at most {MAX_JOINED} conversations")]
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

#[derive(Default)]
struct Member {
    queue: Arc<Queue>,
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

    /// Takes a socket in, until its seat is dropped.
    pub fn seat(self: &Arc<Company>, socket: Id) -> Seat {
        let queue = Arc::<Queue>::default();
        self.state().members.insert(socket, Member { queue: queue.clone(), joined: HashSet::new() });
        Seat { company: self.clone(), socket, queue }
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
    pub fn to_all(&self, frame: &Utf8Bytes) -> usize {
        self.state().members.values().filter(|m| m.queue.push(frame)).count()
    }

    /// Queues a frame for the sockets that joined `conversation`, except one.
    pub fn to_joined(&self, conversation: Id, except: Id, frame: &Utf8Bytes) -> usize {
        let state = self.state();
        let joined = state.members.iter().filter(|(socket, m)| **socket != except && m.joined.contains(&conversation));
        joined.filter(|(_, m)| m.queue.push(frame)).count()
    }

    /// Ends every socket's queue.
    pub fn end_all(&self, reason: CloseReason) {
        self.state().members.values().for_each(|m| m.queue.end(reason));
    }
}

/// One socket's place in its company. Dropping it leaves.
pub struct Seat {
    company: Arc<Company>,
    socket: Id,
    queue: Arc<Queue>,
}

impl Seat {
    /// The company that it is in.
    pub fn company(&self) -> &Company {
        &self.company
    }

    /// The socket, unique over all nodes.
    pub fn socket(&self) -> Id {
        self.socket
    }

    /// What waits for the socket.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Joins a conversation, for its typing indicators.
    ///
    /// # Errors
    /// [`TooManyJoined`]
    pub fn join(&self, conversation: Id) -> Result<(), TooManyJoined> {
        let mut state = self.company.state();
        let Some(member) = state.members.get_mut(&self.socket) else { return Ok(()) };
        if member.joined.len() >= MAX_JOINED && !member.joined.contains(&conversation) {
            return Err(TooManyJoined);
        }
        member.joined.insert(conversation);
        Ok(())
    }

    /// Leaves a conversation, joined or not.
    pub fn leave(&self, conversation: Id) {
        if let Some(member) = self.company.state().members.get_mut(&self.socket) {
            member.joined.remove(&conversation);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.company.state();
        state.members.remove(&self.socket);
        let empty = state.members.is_empty();
        drop(state);
        if empty {
            self.company.emptied.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::QUEUE_FRAMES;

    fn id(n: u8) -> Id {
        Id::from_bytes([n; 12])
    }

    fn company() -> Arc<Company> {
        Arc::new(Company::new(id(0xaa)))
    }

    #[tokio::test]
    async fn every_socket_gets_every_frame_in_order_until_it_leaves() {
        let company = company();
        let (one, two) = (company.seat(id(1)), company.seat(id(2)));
        for text in ["a", "b"] {
            assert_eq!(company.to_all(&text.into()), 2);
        }
        for seat in [&one, &two] {
            assert_eq!((seat.queue().next().await, seat.queue().next().await), (Ok("a".into()), Ok("b".into())));
        }
        drop(one);
        assert_eq!((company.to_all(&"c".into()), company.sockets()), (1, 1));
        drop(two);
        company.emptied.notified().await;
        assert_eq!(company.to_all(&"d".into()), 0);
    }

    #[test]
    fn what_comes_again_or_late_is_not_new() {
        let company = company();
        let new: Vec<u64> = [3, 3, 5, 4, 5, 6].into_iter().filter(|seq| company.advance(*seq)).collect();
        assert_eq!(new, [3, 5, 6]);
    }

    #[tokio::test]
    async fn typing_goes_to_those_who_joined_and_not_back() {
        let company = company();
        let (typist, joined, other) = (company.seat(id(1)), company.seat(id(2)), company.seat(id(3)));
        typist.join(id(9)).unwrap();
        joined.join(id(9)).unwrap();
        other.join(id(8)).unwrap();
        assert_eq!(company.to_joined(id(9), typist.socket(), &"typing".into()), 1);
        assert_eq!(joined.queue().next().await, Ok("typing".into()));
        joined.leave(id(9));
        assert_eq!(company.to_joined(id(9), typist.socket(), &"typing".into()), 0);
    }

    #[tokio::test]
    async fn a_slow_socket_ends_alone() {
        let company = company();
        let (slow, quick) = (company.seat(id(1)), company.seat(id(2)));
        for _ in 0..=QUEUE_FRAMES {
            company.to_all(&"x".into());
            assert_eq!(quick.queue().next().await, Ok("x".into()));
        }
        assert_eq!(slow.queue().next().await, Err(CloseReason::TooSlow));
        assert_eq!(company.to_all(&"y".into()), 1);
        assert_eq!(quick.queue().next().await, Ok("y".into()));
    }

    #[test]
    fn joined_conversations_are_bounded() {
        let company = company();
        let seat = company.seat(id(1));
        let conversation = |n: usize| {
            let mut bytes = [0; 12];
            bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
            Id::from_bytes(bytes)
        };
        for n in 0..MAX_JOINED {
            seat.join(conversation(n)).unwrap();
        }
        assert_eq!(seat.join(conversation(MAX_JOINED)), Err(TooManyJoined));
        assert_eq!(seat.join(conversation(0)), Ok(()), "joined already");
        seat.leave(conversation(0));
        assert_eq!(seat.join(conversation(MAX_JOINED)), Ok(()));
    }
}
