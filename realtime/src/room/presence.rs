//! Who of a company is online and which conversations they have joined, over all nodes. Each node
//! says on `presence.<company>` what it has, whole, when that changes; a node that is not heard of
//! any more takes what it said with it (docs/adr/0012). Pure bookkeeping: no NATS, no socket.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use contract::Id;
use serde::{Deserialize, Serialize};

/// Conversations of one user that are told; of more, the first by their ids.
const MAX_VIEWING: usize = 50;
/// Conversations in what one node says of a company, so that it fits into a message; those of
/// further users are left out.
const MAX_VIEWED: usize = 20_000;

/// Users, each with the conversations that they have joined.
pub type Users = BTreeMap<Id, BTreeSet<Id>>;

/// The payload on `presence.<company>`: all that a node has of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The node.
    pub node: String,
    /// Others shall say what they have, too.
    pub ask: bool,
    /// Its users.
    pub users: Users,
}

/// A user, as clients are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// Who.
    pub user_id: Id,
    /// Whether they have a socket anywhere.
    pub online: bool,
    /// The conversations that they have joined.
    pub viewing: BTreeSet<Id>,
}

/// What all nodes have said of one company.
#[derive(Default)]
pub struct Presence {
    nodes: HashMap<String, Users>,
    told: Users,
}

impl Presence {
    /// A node has said what it has; what of it is news.
    pub fn set_node(&mut self, node: &str, users: Users) -> Vec<User> {
        match users.is_empty() {
            true => drop(self.nodes.remove(node)),
            false => drop(self.nodes.insert(node.to_owned(), users)),
        }
        self.news()
    }

    /// A node is gone; what of it is news.
    pub fn remove_node(&mut self, node: &str) -> Vec<User> {
        if self.nodes.remove(node).is_some() {
            self.news()
        } else {
            Vec::new()
        }
    }

    /// Everybody who is online.
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

    fn news(&mut self) -> Vec<User> {
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

/// What a node says of its sockets: each one's user and joined conversations.
pub fn users<'a>(sockets: impl Iterator<Item = (Id, &'a std::collections::HashSet<Id>)>) -> Users {
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
    use std::collections::HashSet;

    fn id(n: u8) -> Id {
        Id::from_bytes([n; 12])
    }

    fn has(users: &[(u8, &[u8])]) -> Users {
        users
            .iter()
            .map(|(user, viewing)| (id(*user), viewing.iter().map(|n| id(*n)).collect()))
            .collect()
    }

    fn told(news: Vec<User>) -> Vec<(Id, bool, Vec<Id>)> {
        news.into_iter()
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
    fn only_what_changes_over_all_nodes_is_news() {
        let mut presence = Presence::default();
        assert_eq!(
            told(presence.set_node("a", has(&[(1, &[7]), (2, &[])]))),
            [(id(1), true, vec![id(7)]), (id(2), true, vec![])]
        );
        assert_eq!(
            told(presence.set_node("a", has(&[(1, &[7]), (2, &[])]))),
            []
        );
        assert_eq!(
            told(presence.set_node("b", has(&[(2, &[]), (1, &[8])]))),
            [(id(1), true, vec![id(7), id(8)])]
        );
        assert_eq!(
            told(presence.remove_node("a")),
            [(id(1), true, vec![id(8)])]
        );
        assert_eq!(told(presence.remove_node("a")), []);
        assert_eq!(
            told(presence.set_node("b", has(&[]))),
            [(id(1), false, vec![]), (id(2), false, vec![])]
        );
        assert_eq!(presence.all(), []);
    }

    #[test]
    fn what_a_node_says_is_bounded() {
        let many: HashSet<Id> = (0..100).map(id).collect();
        let sockets: Vec<Id> = (0..500_u16)
            .map(|n| Id::from_bytes(std::array::from_fn(|i| n.to_be_bytes()[i % 2])))
            .collect();
        let said = users(sockets.iter().map(|user| (*user, &many)));
        assert_eq!(said.len(), 500, "everybody is online");
        assert!(said.values().all(|viewing| viewing.len() <= MAX_VIEWING));
        assert_eq!(said.values().map(BTreeSet::len).sum::<usize>(), MAX_VIEWED);
    }
}
