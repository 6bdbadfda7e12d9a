//! Which other realtime nodes are there: each says so every second on `members.realtime`, and by whatever it says of who is
//! online. One that is not heard of any more takes with it what it has said.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use nats::subject;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use crate::hub::Hub;

/// How often a node says that it is there.
const BEAT: Duration = Duration::from_secs(1);
/// Without a beat for so long it is gone: three are missed, and a little.
const GONE_AFTER: Duration = Duration::from_millis(3_500);
/// Pause before the subscription is made again.
const PAUSE: Duration = Duration::from_millis(500);
/// Nodes that are kept track of.
const MAX_NODES: usize = 1_000;

#[derive(Serialize, Deserialize)]
struct Beat {
    node: String,
    /// It stops.
    #[serde(default)]
    gone: bool,
}

/// What is known of the nodes. The clock is the caller's.
#[derive(Default)]
pub struct Nodes {
    heard: HashMap<String, Instant>,
}

impl Nodes {
    /// A node is there. Whether it is kept track of: there may be too many.
    pub fn hear(&mut self, node: &str, now: Instant) -> bool {
        if let Some(at) = self.heard.get_mut(node) {
            *at = now;
            return true;
        }
        let has_room = self.heard.len() < MAX_NODES;
        if has_room {
            self.heard.insert(node.to_owned(), now);
        }
        has_room
    }

    /// Whether a node is kept track of.
    #[cfg(test)]
    pub fn hears(&self, node: &str) -> bool {
        self.heard.contains_key(node)
    }

    /// A node has said that it stops.
    fn leave(&mut self, node: &str) {
        self.heard.remove(node);
    }

    /// Those that were not heard for too long; nothing can be said of them while nobody `can_hear`.
    fn silent(&mut self, can_hear: bool, now: Instant) -> Vec<String> {
        if !can_hear {
            self.heard.values_mut().for_each(|at| *at = now);
        }
        let silent = self.heard.extract_if(|_, at| now.saturating_duration_since(*at) > GONE_AFTER);
        silent.map(|(node, _)| node).collect()
    }
}

/// Beats, and listens to the others, until the service stops.
pub async fn run(hub: Hub) {
    let listen = async {
        loop {
            match hub.connection().client.subscribe(subject::members(hub.connection().service)).await {
                Ok(beats) => follow(&hub, beats).await,
                Err(e) => warn!(error = %e, "other nodes cannot be listened to"),
            }
            sleep(PAUSE).await;
        }
    };
    let _ = hub.stop().run_until_cancelled(listen).await;
    say(&hub, true).await;
}

async fn follow(hub: &Hub, mut beats: async_nats::Subscriber) {
    let mut tick = interval(BEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                say(hub, false).await;
                let silent = hub.nodes().silent(hub.connection().is_connected(), Instant::now());
                silent.iter().for_each(|node| forget(hub, node));
            }
            message = beats.next() => {
                let Some(message) = message else { return };
                let Ok(beat) = serde_json::from_slice::<Beat>(&message.payload) else { continue };
                if beat.gone {
                    hub.nodes().leave(&beat.node);
                    forget(hub, &beat.node);
                } else {
                    hub.nodes().hear(&beat.node, Instant::now());
                }
            }
        }
    }
}

fn forget(hub: &Hub, node: &str) {
    info!(node, "another node is gone");
    hub.all().iter().for_each(|company| company.forget_node(node));
}

async fn say(hub: &Hub, gone: bool) {
    let connection = hub.connection();
    let beat = Beat { node: connection.instance.to_string(), gone };
    // Without a connection it would lie in the client's buffer and be said when it is no longer true.
    if let (true, Ok(beat)) = (connection.is_connected(), serde_json::to_vec(&beat)) {
        let said = connection.client.publish(subject::members(connection.service), beat.into());
        let _ = tokio::time::timeout(BEAT, said).await; // the next beat says it again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_gone_once_it_is_silent_while_others_could_be_heard() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut nodes = Nodes::default();
        assert!(nodes.hear("a", start) && nodes.hear("b", start) && nodes.hear("b", after(2_000)));
        assert_eq!(nodes.silent(true, after(3_500)), [""; 0]);
        assert_eq!(nodes.silent(true, after(3_501)), ["a"]);
        assert_eq!(nodes.silent(false, after(9_000)), [""; 0]);
        assert_eq!(nodes.silent(true, after(12_500)), [""; 0]);
        assert_eq!(nodes.silent(true, after(12_501)), ["b"]);
    }

    #[test]
    fn so_many_are_kept_track_of() {
        let (now, mut nodes) = (Instant::now(), Nodes::default());
        assert!((0..MAX_NODES).all(|n| nodes.hear(&n.to_string(), now)));
        assert!(!nodes.hear("more", now) && nodes.hear("0", now));
        nodes.leave("0");
        assert!(nodes.hear("more", now));
    }
}
