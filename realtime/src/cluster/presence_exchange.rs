//! The exchange of users between the nodes that have sockets of one company: each node publishes
//! all its users of the company on `presence.<company>` when they change. Decides nothing about who
//! is online; see `room::presence`.

use std::time::Duration;

use async_nats::{Message, Subscriber};
use contract::subject;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::heartbeat;
use crate::metrics::count_skipped;
use crate::node::Node;
use crate::room::Room;
use crate::room::presence::Users;

/// Users are published this long after a change, because a page that loads changes them several
/// times. It is also the longest time that publishing may take, and the pause before it is tried
/// again.
const PUBLISH_AFTER: Duration = Duration::from_millis(250);
/// Users are published again after this time, because a message may be lost.
const PUBLISH_AGAIN: Duration = Duration::from_secs(30);

/// The payload on `presence.<company>`: all users of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeUsers {
    /// The instance name of the node.
    pub node: String,
    /// Whether the other nodes shall publish their users, too.
    pub ask: bool,
    /// The users on the node.
    pub users: Users,
}

/// One node's part in the exchange for one company.
pub struct PresenceExchange {
    messages: Subscriber,
    /// The users that were published last.
    published: Users,
    published_at: Instant,
    publish_at: Instant,
    /// Whether the next message asks the other nodes for their users.
    ask: bool,
}

impl PresenceExchange {
    /// Subscribes. The first message asks all other nodes for their users.
    ///
    /// # Errors
    /// The client is closed.
    pub async fn subscribe(node: &Node, room: &Room) -> Result<PresenceExchange, String> {
        let messages = node
            .connection()
            .subscribe(subject::presence_of_company(room.id))
            .await
            .map_err(|e| e.to_string())?;
        let now = Instant::now();
        Ok(PresenceExchange {
            messages,
            published: Users::new(),
            published_at: now,
            publish_at: now,
            ask: true,
        })
    }

    /// The next message of any node, this one included; `None` once the subscription has ended.
    /// Cancelling this future loses no message.
    pub async fn next(&mut self) -> Option<Message> {
        self.messages.next().await
    }

    /// When [`PresenceExchange::publish_if_due`] has something to do.
    pub fn due(&self) -> Instant {
        self.publish_at
    }

    /// Publishes the users soon, because they may have changed.
    pub fn users_changed(&mut self) {
        self.publish_at = self.publish_at.min(Instant::now() + PUBLISH_AFTER);
    }

    /// Publishes the users at once and asks the other nodes for theirs.
    pub fn ask(&mut self) {
        (self.ask, self.publish_at) = (true, Instant::now());
    }

    /// Takes in the users of a node.
    pub fn on_message(&mut self, node: &Node, room: &Room, message: &Message) {
        let Ok(heard) = serde_json::from_slice::<NodeUsers>(&message.payload) else {
            return count_skipped(room.id, "unreadable", None);
        };
        // The node is tracked from here on, even if it has been removed already. Otherwise nothing
        // would ever remove the users that it has published.
        if !heartbeat::hear(node, &heard.node) {
            return count_skipped(room.id, "too many nodes", None);
        }
        if heard.ask && heard.node != *node.connection().instance {
            self.published = Users::new();
            self.users_changed();
        }
        let reached = room.set_users_of_node(&heard.node, heard.users);
        node.metrics().delivered(reached);
    }

    /// Publishes the users of this node if they have changed, are asked for, or were not published
    /// for [`PUBLISH_AGAIN`].
    pub async fn publish_if_due(&mut self, node: &Node, room: &Room, now: Instant) {
        if now < self.publish_at {
            return;
        }
        let users = room.users();
        let is_news =
            self.ask || users != self.published || now >= self.published_at + PUBLISH_AGAIN;
        self.publish_at = now + PUBLISH_AGAIN;
        if !is_news {
            return;
        }
        let message = NodeUsers {
            node: node.connection().instance.to_string(),
            ask: self.ask,
            users,
        };
        if publish(node, room, &message).await {
            self.published = message.users;
            self.published_at = now;
            self.ask = false;
        } else {
            self.publish_at = Instant::now() + PUBLISH_AFTER; // publishing has taken its time
        }
    }
}

/// Tells all nodes that this one has no users of the company any more.
pub async fn publish_no_users(node: &Node, room: &Room) {
    let message = NodeUsers {
        node: node.connection().instance.to_string(),
        ask: false,
        users: Users::new(),
    };
    publish(node, room, &message).await;
}

/// Publishes to all nodes. Says whether the client has taken the message.
async fn publish(node: &Node, room: &Room, message: &NodeUsers) -> bool {
    let connection = node.connection();
    let Ok(payload) = serde_json::to_vec(message) else {
        count_skipped(room.id, "unwritable", None);
        return false;
    };
    let subject = subject::presence_of_company(room.id);
    connection
        .publish_now(subject, payload.into(), PUBLISH_AFTER)
        .await
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tests::unconnected;
    use contract::Id;

    fn id(n: u8) -> Id {
        Id::from_bytes([n; 12])
    }

    fn message(node: &str, user: u8) -> Message {
        let payload = serde_json::to_vec(&NodeUsers {
            node: node.into(),
            ask: false,
            users: [(id(user), [].into())].into(),
        })
        .unwrap();
        Message {
            subject: "presence".into(),
            reply: None,
            length: payload.len(),
            payload: payload.into(),
            headers: None,
            status: None,
            description: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn users_that_could_not_be_published_are_published_again_soon() {
        let (node, room) = (unconnected().await, Room::new(id(0xaa)));
        let mut exchange = PresenceExchange::subscribe(&node, &room).await.unwrap();
        let now = Instant::now();
        exchange.publish_if_due(&node, &room, now).await;
        assert_eq!((exchange.due(), exchange.ask), (now + PUBLISH_AFTER, true));
    }

    #[tokio::test]
    async fn a_node_whose_users_are_heard_is_tracked() {
        let (node, room) = (unconnected().await, Room::new(id(0xaa)));
        let mut exchange = PresenceExchange::subscribe(&node, &room).await.unwrap();
        exchange.on_message(&node, &room, &message("there", 1));
        let here = &node.connection().instance;
        exchange.on_message(&node, &room, &message(here, 2));
        assert!(node.membership().tracks("there") && !node.membership().tracks(here));
    }
}
