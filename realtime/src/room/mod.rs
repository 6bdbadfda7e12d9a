//! The sockets of one company on this node, and the fan-out to them: each gets every event of the
//! log after its own cursor, in order, once. Knows neither NATS nor any door; what is read from the
//! log is handed in.

pub mod close_reason;
pub mod encode;
pub mod frame;
pub mod payload;
pub mod presence;
pub mod queue;
pub mod recent;
pub mod typing;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::{Id, Timestamp};
use tokio::sync::{Notify, watch};

use crate::auth::revocation::Login;
use crate::auth::session::Session;
use crate::room::close_reason::CloseReason;
use crate::room::frame::Frame;
use crate::room::payload::ResyncReason;
use crate::room::presence::{Presence, User, Users};
use crate::room::queue::Queue;
use crate::room::recent::Recent;

/// So long before its token expires a client is told, so that it can come back with a fresh one in
/// time.
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

/// How a socket's cursor meets the company's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It gets what comes; what lies between is queued already.
    Live,
    /// It must first be given what the log has after its cursor, up to what this node remembers.
    Behind,
}

struct Member {
    queue: Arc<Queue>,
    session: Session,
    /// It gets events after this one. `u64::MAX` while it is given older ones.
    after: u64,
    /// Its client has been told that the token is about to expire.
    warned: bool,
    joined: HashSet<Id>,
}

#[derive(Default)]
struct State {
    members: HashMap<Id, Member>,
    /// Every event up to here was handed out.
    last_seq: u64,
    recent: Recent,
    presence: Presence,
    /// Everybody who is online, for new sockets; made when the first one asks.
    snapshot: Option<Frame>,
}

impl State {
    fn go_live(&mut self, socket: Id, position: u64) -> bool {
        let Some(member) = self.members.get_mut(&socket) else {
            return true;
        };
        let Some(missed) = self.recent.since(position) else {
            return false;
        };
        // One that does not fit ends the queue.
        missed.for_each(|frame| {
            member.queue.push(frame);
        });
        member.after = position.max(self.last_seq);
        true
    }

    fn tell(&mut self, news: &[User]) -> usize {
        if news.is_empty() {
            return 0;
        }
        self.snapshot = None;
        let Ok(frame) = payload::of_presence(news, false) else {
            return 0;
        };
        self.members
            .values()
            .filter(|m| m.queue.push(&frame))
            .count()
    }
}

/// The room `company:<id>`.
pub struct Room {
    /// The tenant.
    pub id: Id,
    /// How far its feed is; the feed says so.
    pub feed: watch::Sender<FeedState>,
    /// Told when the last socket has left.
    pub emptied: Notify,
    /// Told when who is here may have changed.
    pub moved: Notify,
    /// Told when other nodes shall be asked who is there.
    pub asked: Notify,
    state: Mutex<State>,
}

impl Room {
    /// Without sockets.
    pub fn new(id: Id) -> Room {
        let (emptied, moved, asked) = (Notify::new(), Notify::new(), Notify::new());
        Room {
            id,
            feed: watch::Sender::new(FeedState::Opening),
            emptied,
            moved,
            asked,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock still holds whole maps: every write is one insert or remove.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The feed begins after `seq`: what the log has up to there is the past. Sockets are told of
    /// events from [`Room::start`] on.
    pub fn begin(&self, seq: u64) {
        let mut state = self.state();
        state.last_seq = seq;
        state.recent = Recent::after(seq);
    }

    /// Takes a socket in. It gets no events before [`Room::start`].
    pub fn add(&self, socket: Id, session: Session, queue: Arc<Queue>) {
        self.state().members.insert(
            socket,
            Member {
                queue,
                session,
                after: u64::MAX,
                warned: false,
                joined: HashSet::new(),
            },
        );
        self.moved.notify_one();
    }

    /// Lets a socket go.
    pub fn remove(&self, socket: Id) {
        let mut state = self.state();
        state.members.remove(&socket);
        let empty = state.members.is_empty();
        drop(state);
        self.moved.notify_one();
        if empty {
            self.emptied.notify_one();
        }
    }

    /// How many sockets are in.
    pub fn sockets(&self) -> usize {
        self.state().members.len()
    }

    /// Every event up to this sequence was handed out.
    pub fn last_seq(&self) -> u64 {
        self.state().last_seq
    }

    /// Hands out the event at `seq`, if it is new; returns how many sockets got it. An event
    /// without a frame is one that sockets are not told of. The log's order is kept: what comes
    /// late or again is nothing (`None`).
    pub fn deliver(&self, seq: u64, frame: Option<Frame>) -> Option<usize> {
        let mut state = self.state();
        if seq <= state.last_seq {
            return None;
        }
        state.last_seq = seq;
        let Some(frame) = frame else { return Some(0) };
        let reached = state
            .members
            .values()
            .filter(|m| seq > m.after && m.queue.push(&frame))
            .count();
        state.recent.push(seq, frame);
        Some(reached)
    }

    /// A socket begins at its client's cursor, or where the company is now, and is told so.
    pub fn start(&self, socket: Id, cursor: Option<u64>) -> Start {
        let mut state = self.state();
        let seq = cursor.unwrap_or(state.last_seq);
        let State {
            members,
            presence,
            snapshot,
            ..
        } = &mut *state;
        if let Some(member) = members.get(&socket) {
            member.queue.push_some(payload::of_ready(seq));
            if snapshot.is_none() {
                *snapshot = payload::of_presence(&presence.all(), true).ok();
            }
            snapshot.iter().for_each(|snapshot| {
                member.queue.push(snapshot);
            });
        }
        // Whether a cursor from beyond what was handed out is one at all, only the log can tell.
        let is_live = seq <= state.last_seq && state.go_live(socket, seq);
        if is_live { Start::Live } else { Start::Behind }
    }

    /// A socket that was given every event up to `position` goes live, if what is remembered joins
    /// on; that is queued for it.
    pub fn go_live(&self, socket: Id, position: u64) -> bool {
        self.state().go_live(socket, position)
    }

    /// A socket goes live where the company is now, and is told that it has missed something.
    pub fn resync(&self, socket: Id, why: ResyncReason) {
        let mut state = self.state();
        let last_seq = state.last_seq;
        if let Some(member) = state.members.get_mut(&socket) {
            member.after = last_seq;
            member.queue.push_some(payload::of_resync(last_seq, why));
        }
    }

    /// Queues a frame for the sockets that joined `conversation`, except one.
    pub fn to_joined(&self, conversation: Id, except: Id, frame: &Frame) -> usize {
        let state = self.state();
        let joined = state
            .members
            .iter()
            .filter(|(socket, m)| **socket != except && m.joined.contains(&conversation));
        joined.filter(|(_, m)| m.queue.push(frame)).count()
    }

    /// Ends every socket's queue.
    pub fn end_all(&self, reason: CloseReason) {
        self.state()
            .members
            .values()
            .for_each(|m| m.queue.end(reason));
    }

    /// Ends every socket's queue after what waits in it and one last frame of its own.
    pub fn end_all_after(&self, last: impl Fn() -> Option<Frame>, reason: CloseReason) {
        self.state()
            .members
            .values()
            .for_each(|m| m.queue.end_after(last().as_ref(), reason));
    }

    /// Ends the sockets whose token has expired, and tells those whose token is about to, once.
    pub fn check_tokens(&self, now: Timestamp) {
        for member in self.state().members.values_mut() {
            match member.session.time_left(now) {
                Duration::ZERO => member.queue.end(CloseReason::TokenExpired),
                left if left <= EXPIRY_NOTICE && !member.warned => {
                    member.warned = true;
                    member
                        .queue
                        .push_some(payload::of_expiry(member.session.expires));
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
        let Some(member) = state.members.get_mut(&socket) else {
            return Ok(());
        };
        if member.joined.len() >= limit && !member.joined.contains(&conversation) {
            return Err(TooManyJoined);
        }
        if member.joined.insert(conversation) {
            self.moved.notify_one();
        }
        Ok(())
    }

    /// A socket leaves a conversation, joined or not.
    pub fn leave(&self, socket: Id, conversation: Id) {
        if self
            .state()
            .members
            .get_mut(&socket)
            .is_some_and(|member| member.joined.remove(&conversation))
        {
            self.moved.notify_one();
        }
    }

    /// From where on it is remembered what was handed out.
    pub fn remembers_after(&self) -> u64 {
        self.state().recent.floor()
    }

    /// Whether the event at `seq`, which sockets are told of, should have been handed out and was
    /// not.
    pub fn has_missed(&self, seq: u64) -> bool {
        let state = self.state();
        state.recent.floor() < seq && seq <= state.last_seq && !state.recent.has(seq)
    }

    /// Something was missed that can no longer be given in order: every live socket's client has to
    /// fetch.
    pub fn resync_all(&self, why: ResyncReason) {
        let mut state = self.state();
        let last_seq = state.last_seq;
        // A socket that comes back with a cursor from before is not to be given the gap again.
        state.recent = Recent::after(last_seq);
        let Ok(frame) = payload::of_resync(last_seq, why) else {
            return;
        };
        state
            .members
            .values()
            .filter(|m| m.after != u64::MAX)
            .for_each(|m| {
                m.queue.push(&frame);
            });
    }

    /// Who is on this node.
    pub fn users(&self) -> Users {
        presence::users(
            self.state()
                .members
                .values()
                .map(|m| (m.session.user, &m.joined)),
        )
    }

    /// A node, this one too, has said who is on it. What is news is told to the sockets; returns
    /// how many.
    pub fn hear_node(&self, node: &str, users: Users) -> usize {
        let mut state = self.state();
        let news = state.presence.hear(node, users);
        state.tell(&news)
    }

    /// A node is gone, and with it who was there only.
    pub fn forget_node(&self, node: &str) {
        let mut state = self.state();
        let news = state.presence.forget(node);
        state.tell(&news);
    }

    /// The logins of the sockets.
    pub fn logins(&self) -> Vec<Login> {
        self.state()
            .members
            .values()
            .filter_map(|m| m.session.login())
            .collect()
    }

    /// Ends the sockets of these logins.
    pub fn end_logins(&self, logins: &HashSet<Login>) {
        let state = self.state();
        let theirs = state.members.values().filter(|m| {
            m.session
                .login()
                .is_some_and(|login| logins.contains(&login))
        });
        theirs.for_each(|m| m.queue.end(CloseReason::SessionEnded));
    }
}

#[cfg(test)]
mod tests;
