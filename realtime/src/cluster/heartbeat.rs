//! Heartbeats between the realtime nodes: each node publishes one every second on
//! `members.realtime`. The users of a node that falls silent are removed from all rooms. What a
//! node says about its users is in `presence_exchange`.

use std::time::Duration;

use contract::subject;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use super::membership::{BEAT, Heard};
use crate::node::Node;

/// Pause before the subscription is made again.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Serialize, Deserialize)]
struct Heartbeat {
    node: String,
    /// Whether the node stops.
    #[serde(default)]
    gone: bool,
}

/// Sends heartbeats and listens to those of other nodes, until the service stops.
pub async fn run(node: Node) {
    let listen = async {
        loop {
            match node
                .connection()
                .subscribe(subject::members(node.connection().service))
                .await
            {
                Ok(heartbeats) => follow(&node, heartbeats).await,
                Err(e) => warn!(error = %e, "other nodes cannot be listened to"),
            }
            sleep(PAUSE).await;
        }
    };
    let _ = node.stop().run_until_cancelled(listen).await;
    send(&node, true).await;
}

async fn follow(node: &Node, mut heartbeats: async_nats::Subscriber) {
    let mut tick = interval(BEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Heartbeats that have arrived count before a node is judged silent.
            biased;
            message = heartbeats.next() => {
                let Some(message) = message else { return };
                let Ok(beat) = serde_json::from_slice::<Heartbeat>(&message.payload) else {
                    continue;
                };
                if beat.gone {
                    node.membership().leave(&beat.node);
                    remove(node, &beat.node);
                } else {
                    hear(node, &beat.node);
                }
            }
            _ = tick.tick() => {
                send(node, false).await;
                let can_hear = node.connection().is_connected();
                let silent = node.membership().silent(can_hear, Instant::now());
                silent.iter().for_each(|peer| remove(node, peer));
            }
        }
    }
}

/// Notes a sign of life of a node: a heartbeat, or what it says about its users. Says whether the
/// node is tracked; otherwise what it says must be ignored. This node itself needs no tracking,
/// because it cannot fall silent.
pub fn hear(node: &Node, peer: &str) -> bool {
    if *peer == *node.connection().instance {
        return true;
    }
    let heard = node.membership().hear(peer, Instant::now());
    if heard == Heard::Again {
        info!(node = peer, "another node is there again");
        let rooms = node.hub().rooms();
        rooms
            .iter()
            .for_each(|room| room.presence_wanted.notify_one());
    }
    heard != Heard::TooMany
}

fn remove(node: &Node, peer: &str) {
    info!(node = peer, "another node is gone");
    let rooms = node.hub().rooms();
    rooms.iter().for_each(|room| room.remove_node(peer));
}

async fn send(node: &Node, gone: bool) {
    let connection = node.connection();
    let beat = Heartbeat {
        node: connection.instance.to_string(),
        gone,
    };
    if let Ok(beat) = serde_json::to_vec(&beat) {
        let subject = subject::members(connection.service);
        // A heartbeat that is lost is made up for by the next one.
        let _ = connection.publish_now(subject, beat.into(), BEAT).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tests::unconnected;

    #[tokio::test]
    async fn a_node_does_not_track_itself() {
        let node = unconnected().await;
        assert!(hear(&node, &node.connection().instance) && hear(&node, "there"));
        let membership = node.membership();
        assert!(membership.tracks("there") && !membership.tracks(&node.connection().instance));
    }
}
