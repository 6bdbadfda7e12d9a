//! Which users of a company are typing. Typing ends by itself, so it also ends when the user's
//! socket or node does. Each node keeps the time for its own sockets. Sends nothing; the clock is
//! the caller's.

use std::collections::HashMap;
use std::time::Duration;

use contract::Id;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Typing stops after this time, unless it is started again.
pub const TYPING_TIMEOUT: Duration = Duration::from_secs(5);
/// Users of one company who can be typing at once. Beyond it, typing is not told.
const MAX_TYPISTS: usize = 10_000;

/// A typing indicator on its way between nodes: the payload on `typing.<company>.<conversation>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Typing {
    /// The user who types.
    pub user_id: Id,
    /// Whether typing has started or stopped.
    pub is_typing: bool,
    /// The socket of the user, unique over all nodes. It is not told of its own typing.
    pub socket: Id,
}

/// A conversation, and the socket of the user who types in it.
type Place = (Id, Id);

/// The users who are typing, and when each stops by itself.
#[derive(Default)]
pub struct Typists(HashMap<Place, (Id, Instant)>);

impl Typists {
    /// Takes in that typing has started or stopped. Says whether sockets must be told.
    pub fn hear(&mut self, conversation: Id, typing: Typing, now: Instant) -> bool {
        let place = (conversation, typing.socket);
        if !typing.is_typing {
            return self.0.remove(&place).is_some();
        }
        if self.0.len() >= MAX_TYPISTS && !self.0.contains_key(&place) {
            return false;
        }
        self.0.insert(place, (typing.user_id, now + TYPING_TIMEOUT));
        true
    }

    /// When the next user stops by themselves.
    pub fn next_stop(&self) -> Option<Instant> {
        self.0.values().map(|(_, until)| *until).min()
    }

    /// Removes the users who have stopped by themselves. Returns each conversation and what its
    /// sockets must be told.
    pub fn stopped(&mut self, now: Instant) -> Vec<(Id, Typing)> {
        let over = self.0.extract_if(|_, (_, until)| *until <= now);
        over.map(|((conversation, socket), (user_id, _))| {
            (
                conversation,
                Typing {
                    user_id,
                    is_typing: false,
                    socket,
                },
            )
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typing(user: u8, is_typing: bool) -> Typing {
        Typing {
            user_id: Id::from_bytes([user; 12]),
            is_typing,
            socket: Id::from_bytes([user + 100; 12]),
        }
    }

    #[test]
    fn typing_stops_once_by_a_message_or_by_itself() {
        let (start, conversation) = (Instant::now(), Id::from_bytes([9; 12]));
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut typists = Typists::default();
        assert!(
            typists.hear(conversation, typing(1, true), start)
                && typists.hear(conversation, typing(2, true), start)
        );
        assert!(
            typists.hear(conversation, typing(2, true), after(3)),
            "started again"
        );
        assert!(typists.hear(conversation, typing(1, false), after(1)));
        assert!(
            !typists.hear(conversation, typing(1, false), after(1)),
            "typing had stopped"
        );
        assert_eq!(
            (typists.next_stop(), typists.stopped(after(7))),
            (Some(after(8)), vec![])
        );
        assert_eq!(
            typists.stopped(after(8)),
            [(conversation, typing(2, false))]
        );
        assert_eq!(
            (typists.next_stop(), typists.stopped(after(9))),
            (None, vec![])
        );
    }

    #[test]
    fn the_users_who_type_are_bounded() {
        let (now, mut typists) = (Instant::now(), Typists::default());
        let id = |n: usize| Id::from_bytes(std::array::from_fn(|i| (n >> (8 * (i % 2))) as u8));
        let told = (0..MAX_TYPISTS + 5)
            .filter(|n| typists.hear(id(*n), typing(1, true), now))
            .count();
        assert_eq!(told, MAX_TYPISTS);
    }
}
