//! The sockets of one company on this node, and the fan-out to them: each socket gets every event
//! of the log after its own cursor, in order, once. Knows neither NATS nor any transport; the
//! events of the log are handed in.

pub mod close_reason;
pub mod encode;
pub mod frame;
pub mod hub;
pub mod payload;
pub mod presence;
pub mod queue;
pub mod recent;
pub mod server_event;
pub mod typing;
pub mod unverified;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::{Id, Timestamp};
use tokio::sync::{Notify, watch};

use self::close_reason::CloseReason;
use self::frame::Frame;
use self::payload::ResyncReason;
use self::presence::{Presence, User, Users};
use self::queue::Queue;
use self::recent::Recent;
use self::unverified::Unverified;
use crate::auth::session::{Login, Session};

/// How long before its token expires a client is told, so that it can come back with a fresh token
/// in time.
pub const EXPIRY_NOTICE: Duration = Duration::from_secs(30);

/// The value of [`Member::after`] while a socket is given older events.
const CATCHING_UP: u64 = u64::MAX;

/// The socket has joined as many conversations as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many conversations are joined")]
pub struct TooManyJoined;

/// The state of the room's subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedState {
    /// The subscriptions are being made.
    Opening,
    /// The NATS server has the subscriptions.
    Live,
    /// The subscriptions could not be made, or have ended.
    Ended,
}

/// How a socket's cursor relates to the events of the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The socket gets new events. The events between its cursor and now are queued already.
    Live,
    /// The socket must first be given the events that the log has after its cursor, up to those
    /// that this node remembers.
    CatchUp,
}

struct Member {
    queue: Arc<Queue>,
    session: Session,
    /// The socket gets events after this sequence, or none while this is [`CATCHING_UP`].
    after: u64,
    /// Whether the client has been told that its token is about to expire.
    is_warned: bool,
    joined: HashSet<Id>,
}

#[derive(Default)]
struct State {
    members: HashMap<Id, Member>,
    /// Every event up to this sequence was delivered.
    last_seq: u64,
    recent: Recent,
    unverified: Unverified,
    presence: Presence,
    /// The frame with all users who are online, for new sockets. It is made when the first socket
    /// needs it.
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
        // A frame that does not fit ends the queue.
        missed.for_each(|frame| {
            member.queue.push(frame);
        });
        member.after = position.max(self.last_seq);
        true
    }

    fn deliver_presence(&mut self, changed: &[User]) -> usize {
        if changed.is_empty() {
            return 0;
        }
        self.snapshot = None;
        let Ok(frame) = payload::of_presence(changed, false) else {
            return 0;
        };
        self.members
            .values()
            .filter(|member| member.queue.push(&frame))
            .count()
    }
}

/// The room `company:<id>`.
pub struct Room {
    /// The company.
    pub id: Id,
    /// The state of the room's feed. The feed sets it.
    pub feed: watch::Sender<FeedState>,
    /// Notified when the last socket has left.
    pub emptied: Notify,
    /// Notified when the users of this node, or their conversations, may have changed.
    pub users_changed: Notify,
    /// Notified when the other nodes shall be asked for their users.
    pub presence_wanted: Notify,
    state: Mutex<State>,
}

impl Room {
    /// A room without sockets.
    pub fn new(id: Id) -> Room {
        Room {
            id,
            feed: watch::Sender::new(FeedState::Opening),
            emptied: Notify::new(),
            users_changed: Notify::new(),
            presence_wanted: Notify::new(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock still holds whole maps, because every write is one insert or remove.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets where the feed begins: the events up to `seq` are the past.
    pub fn begin(&self, seq: u64) {
        let mut state = self.state();
        state.last_seq = seq;
        state.recent = Recent::after(seq);
        state.unverified = Unverified::after(seq);
    }

    /// Adds a socket. The socket gets no events before [`Room::start`].
    pub fn add(&self, socket: Id, session: Session, queue: Arc<Queue>) {
        self.state().members.insert(
            socket,
            Member {
                queue,
                session,
                after: CATCHING_UP,
                is_warned: false,
                joined: HashSet::new(),
            },
        );
        self.users_changed.notify_one();
    }

    /// Removes a socket.
    pub fn remove(&self, socket: Id) {
        let mut state = self.state();
        state.members.remove(&socket);
        let is_empty = state.members.is_empty();
        drop(state);
        self.users_changed.notify_one();
        if is_empty {
            self.emptied.notify_one();
        }
    }

    /// The number of sockets in the room.
    pub fn socket_count(&self) -> usize {
        self.state().members.len()
    }

    /// The sequence up to which every event was delivered.
    pub fn last_seq(&self) -> u64 {
        self.state().last_seq
    }

    /// Delivers the event at `seq` if it is new, and returns how many sockets got it. An event
    /// without a frame is one that sockets are not told of. Returns `None` for an event that comes
    /// late or again, because sockets get events in the order of the log.
    pub fn deliver(&self, seq: u64, frame: Option<Frame>) -> Option<usize> {
        let mut state = self.state();
        if seq <= state.last_seq {
            return None;
        }
        state.last_seq = seq;
        state.unverified.push(seq);
        let Some(frame) = frame else { return Some(0) };
        let reached = state
            .members
            .values()
            .filter(|member| seq > member.after && member.queue.push(&frame))
            .count();
        state.recent.push(seq, frame);
        Some(reached)
    }

    /// Starts the events of a socket at its client's cursor, or at the last event that was
    /// delivered. The socket is told where it starts.
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
            member.queue.push_or_log(payload::of_ready(seq));
            if snapshot.is_none() {
                *snapshot = payload::of_presence(&presence.all(), true).ok();
            }
            snapshot.iter().for_each(|snapshot| {
                member.queue.push(snapshot);
            });
        }
        // A cursor beyond the last delivered event may be wrong or only ahead of this node. Only
        // the log can tell.
        let is_live = seq <= state.last_seq && state.go_live(socket, seq);
        if is_live { Start::Live } else { Start::CatchUp }
    }

    /// Makes a socket live that was given every event up to `position`, if the remembered events
    /// reach back that far. They are queued for the socket. Says whether the socket is live.
    pub fn go_live(&self, socket: Id, position: u64) -> bool {
        self.state().go_live(socket, position)
    }

    /// Makes a socket live at the last delivered event, and tells its client that it has missed
    /// something.
    pub fn resync(&self, socket: Id, reason: ResyncReason) {
        let mut state = self.state();
        let last_seq = state.last_seq;
        if let Some(member) = state.members.get_mut(&socket) {
            member.after = last_seq;
            member
                .queue
                .push_or_log(payload::of_resync(last_seq, reason));
        }
    }

    /// Queues a frame for the sockets that joined `conversation`, except one. Returns how many got
    /// it.
    pub fn deliver_to_joined(&self, conversation: Id, except: Id, frame: &Frame) -> usize {
        let state = self.state();
        let joined = state
            .members
            .iter()
            .filter(|(socket, member)| **socket != except && member.joined.contains(&conversation));
        joined
            .filter(|(_, member)| member.queue.push(frame))
            .count()
    }

    /// Ends the queue of every socket.
    pub fn end_all(&self, reason: CloseReason) {
        self.state()
            .members
            .values()
            .for_each(|member| member.queue.end(reason));
    }

    /// Ends the queue of every socket after the frames that wait in it and one last frame, which is
    /// made for each socket.
    pub fn end_all_after(&self, last: impl Fn() -> Option<Frame>, reason: CloseReason) {
        self.state()
            .members
            .values()
            .for_each(|member| member.queue.end_after(last().as_ref(), reason));
    }

    /// Ends the sockets whose token has expired, and tells clients once that their token is about
    /// to expire.
    pub fn check_tokens(&self, now: Timestamp) {
        for member in self.state().members.values_mut() {
            match member.session.time_left(now) {
                Duration::ZERO => member.queue.end(CloseReason::TokenExpired),
                left if left <= EXPIRY_NOTICE && !member.is_warned => {
                    member.is_warned = true;
                    member
                        .queue
                        .push_or_log(payload::of_expiry(member.session.expires));
                }
                _ => {}
            }
        }
    }

    /// Joins a socket to a conversation, whose typing indicators it gets from now on.
    ///
    /// # Errors
    /// The socket has joined `limit` conversations already.
    pub fn join(&self, socket: Id, conversation: Id, limit: usize) -> Result<(), TooManyJoined> {
        let mut state = self.state();
        let Some(member) = state.members.get_mut(&socket) else {
            return Ok(());
        };
        if member.joined.len() >= limit && !member.joined.contains(&conversation) {
            return Err(TooManyJoined);
        }
        if member.joined.insert(conversation) {
            self.users_changed.notify_one();
        }
        Ok(())
    }

    /// Takes a socket out of a conversation. The socket need not have joined it.
    pub fn leave(&self, socket: Id, conversation: Id) {
        if self
            .state()
            .members
            .get_mut(&socket)
            .is_some_and(|member| member.joined.remove(&conversation))
        {
            self.users_changed.notify_one();
        }
    }

    /// The sequence up to which the delivered events were compared with the log.
    pub fn verified_to(&self) -> u64 {
        self.state().unverified.verified_to()
    }

    /// Says that the delivered events up to `seq` were compared with the log.
    pub fn verify_to(&self, seq: u64) {
        self.state().unverified.verify_to(seq);
    }

    /// Whether the event at `seq` should have been delivered before a newer one, and was not.
    pub fn has_missed(&self, seq: u64) -> bool {
        self.state().unverified.has_missed(seq)
    }

    /// Tells every live socket's client to fetch, because an event was missed that can no longer be
    /// delivered in order.
    pub fn resync_all(&self, reason: ResyncReason) {
        let mut state = self.state();
        let last_seq = state.last_seq;
        // Forgets the remembered events. Otherwise a socket that comes back with an older cursor
        // would be given the same gap again.
        state.recent = Recent::after(last_seq);
        state.unverified = Unverified::after(last_seq);
        let Ok(frame) = payload::of_resync(last_seq, reason) else {
            return;
        };
        state
            .members
            .values()
            .filter(|member| member.after != CATCHING_UP)
            .for_each(|member| {
                member.queue.push(&frame);
            });
    }

    /// The users on this node, with the conversations that they have joined.
    pub fn users(&self) -> Users {
        presence::users(
            self.state()
                .members
                .values()
                .map(|member| (member.session.user, &member.joined)),
        )
    }

    /// Takes in the users of a node, which may be this one. Sockets are told of the changes.
    /// Returns how many sockets.
    pub fn set_users_of_node(&self, node: &str, users: Users) -> usize {
        let mut state = self.state();
        let changed = state.presence.set_node(node, users);
        state.deliver_presence(&changed)
    }

    /// Removes a node that is gone, with the users who were on it only. Sockets are told of the
    /// changes.
    pub fn remove_node(&self, node: &str) {
        let mut state = self.state();
        let changed = state.presence.remove_node(node);
        state.deliver_presence(&changed);
    }

    /// The logins of the sockets.
    pub fn logins(&self) -> Vec<Login> {
        self.state()
            .members
            .values()
            .filter_map(|member| member.session.login())
            .collect()
    }

    /// Ends the sockets of these logins.
    pub fn end_logins(&self, logins: &HashSet<Login>) {
        let state = self.state();
        let members = state.members.values().filter(|member| {
            member
                .session
                .login()
                .is_some_and(|login| logins.contains(&login))
        });
        members.for_each(|member| member.queue.end(CloseReason::SessionEnded));
    }
}

#[cfg(test)]
mod tests;
