//! The rooms of a node, and how many sockets each user has on it. Opens no subscription and knows
//! no transport.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use contract::Id;
use runtime::CancellationToken;

use super::Room;
use super::queue::Queue;
use crate::auth::session::Session;

/// The registry of rooms and of users' sockets.
#[derive(Default)]
pub struct Hub {
    rooms: Mutex<HashMap<Id, Arc<Room>>>,
    /// Open sockets of each user.
    users: Mutex<HashMap<Id, usize>>,
}

impl Hub {
    /// Adds a socket to the room of its company. A room that does not exist yet is created and
    /// given to `open`, which starts its feed. Returns `None` once `stop` is cancelled: a socket
    /// that came after the service has told all sockets to leave would not be told.
    pub fn add_socket(
        &self,
        socket: Id,
        session: Session,
        queue: Arc<Queue>,
        stop: &CancellationToken,
        open: impl FnOnce(Arc<Room>),
    ) -> Option<Arc<Room>> {
        // The socket is added under this lock. Otherwise the feed could see an empty room in
        // between and end.
        let mut rooms = self.lock_rooms();
        if stop.is_cancelled() {
            return None;
        }
        let room = rooms.entry(session.company).or_insert_with(|| {
            let room = Arc::new(Room::new(session.company));
            open(room.clone());
            room
        });
        room.add(socket, session, queue);
        Some(room.clone())
    }

    /// All rooms. Each has sockets, or had some a few seconds ago.
    pub fn rooms(&self) -> Vec<Arc<Room>> {
        self.lock_rooms().values().cloned().collect()
    }

    /// Removes a room whose feed ends.
    pub fn remove(&self, room: &Arc<Room>) {
        let mut rooms = self.lock_rooms();
        if rooms
            .get(&room.id)
            .is_some_and(|known| Arc::ptr_eq(known, room))
        {
            rooms.remove(&room.id);
        }
    }

    /// Removes a room if it has no sockets, and says whether it did.
    pub fn remove_if_empty(&self, room: &Arc<Room>) -> bool {
        let mut rooms = self.lock_rooms();
        let is_empty = room.socket_count() == 0;
        if is_empty {
            rooms.remove(&room.id);
        }
        is_empty
    }

    /// Counts one more socket of a user, unless the user has `limit` sockets already. Says whether
    /// it did.
    pub fn count_user(&self, user: Id, limit: usize) -> bool {
        let mut users = self.lock_users();
        let count = users.entry(user).or_default();
        let has_room = *count < limit;
        *count += usize::from(has_room);
        has_room
    }

    /// Counts one socket of a user less.
    pub fn release_user(&self, user: Id) {
        let mut users = self.lock_users();
        if let Some(count) = users.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&user);
            }
        }
    }

    fn lock_rooms(&self) -> MutexGuard<'_, HashMap<Id, Arc<Room>>> {
        // A poisoned lock still holds a whole map, because every write is one insert or remove.
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_users(&self) -> MutexGuard<'_, HashMap<Id, usize>> {
        // A poisoned lock still holds a whole map.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_a_user_are_counted_up_to_the_limit() {
        let (hub, user) = (Hub::default(), Id::from_bytes([1; 12]));
        assert_eq!(
            [1, 2, 3].map(|_| hub.count_user(user, 2)),
            [true, true, false]
        );
        hub.release_user(user);
        assert!(hub.count_user(user, 2));
        hub.release_user(user);
        hub.release_user(user);
        assert!(hub.lock_users().is_empty());
    }
}
