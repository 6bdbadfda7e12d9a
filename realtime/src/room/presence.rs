//! Which users of a company are online, over all nodes, and which conversations they have joined.
//! Each node publishes all its users when they change, and the users of a node that falls silent
//! are removed (docs/adr/0012). Pure bookkeeping: no NATS, no socket.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use contract::Id;
use serde::Serialize;

/// Conversations of one user that are published. Of more, the first by their ids are.
const MAX_VIEWING: usize = 50;
/// Conversations of all users of one node and company that are published. Those of further users
/// are left out. Otherwise the message could exceed the size that NATS allows.
const MAX_VIEWED: usize = 20_000;

/// Users, each with the conversations that they have joined.
pub type Users = BTreeMap<Id, BTreeSet<Id>>;

/// A user, as clients are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub user_id: Id,
    /// Whether the user has a socket on any node.
    pub online: bool,
    /// The conversations that the user has joined.
    pub viewing: BTreeSet<Id>,
}

/// The users of one company on all nodes.
#[derive(Default)]
pub struct Presence {
    nodes: HashMap<String, Users>,
    /// The users that the sockets have been told of.
    told: Users,
}

impl Presence {
    /// Replaces the users of a node. Returns the users that have changed.
    pub fn set_node(&mut self, node: &str, users: Users) -> Vec<User> {
        match users.is_empty() {
            true => drop(self.nodes.remove(node)),
            false => drop(self.nodes.insert(node.to_owned(), users)),
        }
        self.changes()
    }

    /// Removes a node. Returns the users that have changed.
    pub fn remove_node(&mut self, node: &str) -> Vec<User> {
        if self.nodes.remove(node).is_some() {
            self.changes()
        } else {
            Vec::new()
        }
    }

    /// All users who are online.
    pub fn all(&self) -> Vec<User> {
        self.told
            .iter()
            .map(|(user_id, viewing)| User {
                user_id: *user_id,
                online: true,
                viewing: viewing.clone(),
            })
            .collect()
    }

    fn changes(&mut self) -> Vec<User> {
        let mut now = Users::new();
        for (user, viewing) in self.nodes.values().flatten() {
            now.entry(*user).or_default().extend(viewing);
        }
        let before = std::mem::replace(&mut self.told, now);
        let changed = self
            .told
            .iter()
            .filter(|(user, viewing)| before.get(user) != Some(viewing));
        let changed = changed.map(|(user, viewing)| User {
            user_id: *user,
            online: true,
            viewing: viewing.clone(),
        });
        let left = before.keys().filter(|user| !self.told.contains_key(user));
        changed
            .chain(left.map(|user| User {
                user_id: *user,
                online: false,
                viewing: BTreeSet::new(),
            }))
            .collect()
    }
}

/// The users of one node, from each socket's user and joined conversations.
pub fn users<'a>(sockets: impl Iterator<Item = (Id, &'a HashSet<Id>)>) -> Users {
    let mut users = Users::new();
    for (user, joined) in sockets {
        users.entry(user).or_default().extend(joined);
    }
    let mut left = MAX_VIEWED;
    for viewing in users.values_mut() {
        *viewing = std::mem::take(viewing)
            .into_iter()
            .take(MAX_VIEWING.min(left))
            .collect();
        left -= viewing.len();
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> Id {
        Id::from_bytes([n; 12])
    }

    fn users_of(users: &[(u8, &[u8])]) -> Users {
        users
            .iter()
            .map(|(user, viewing)| (id(*user), viewing.iter().map(|n| id(*n)).collect()))
            .collect()
    }

    fn flat(changes: Vec<User>) -> Vec<(Id, bool, Vec<Id>)> {
        changes
            .into_iter()
            .map(|user| {
                (
                    user.user_id,
                    user.online,
                    user.viewing.into_iter().collect(),
                )
            })
            .collect()
    }

    #[test]
    fn only_changes_over_all_nodes_are_returned() {
        let mut presence = Presence::default();
        assert_eq!(
            flat(presence.set_node("a", users_of(&[(1, &[7]), (2, &[])]))),
            [(id(1), true, vec![id(7)]), (id(2), true, vec![])]
        );
        assert_eq!(
            flat(presence.set_node("a", users_of(&[(1, &[7]), (2, &[])]))),
            []
        );
        assert_eq!(
            flat(presence.set_node("b", users_of(&[(2, &[]), (1, &[8])]))),
            [(id(1), true, vec![id(7), id(8)])]
        );
        assert_eq!(
            flat(presence.remove_node("a")),
            [(id(1), true, vec![id(8)])]
        );
        assert_eq!(flat(presence.remove_node("a")), []);
        assert_eq!(
            flat(presence.set_node("b", users_of(&[]))),
            [(id(1), false, vec![]), (id(2), false, vec![])]
        );
        assert_eq!(presence.all(), []);
    }

    #[test]
    fn the_published_conversations_are_bounded() {
        let many: HashSet<Id> = (0..100).map(id).collect();
        let sockets: Vec<Id> = (0..500_u16)
            .map(|n| Id::from_bytes(std::array::from_fn(|i| n.to_be_bytes()[i % 2])))
            .collect();
        let published = users(sockets.iter().map(|user| (*user, &many)));
        assert_eq!(published.len(), 500, "every user is online");
        assert!(
            published
                .values()
                .all(|viewing| viewing.len() <= MAX_VIEWING)
        );
        assert_eq!(
            published.values().map(BTreeSet::len).sum::<usize>(),
            MAX_VIEWED
        );
    }
}
