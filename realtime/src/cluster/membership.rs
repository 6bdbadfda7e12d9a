//! Which other realtime nodes are there: each says so every second on `members.realtime`, and by
//! whatever it says of who is online. One that is not heard of any more takes with it what it has
//! said.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use contract::subject;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use crate::node::Hub;

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
    /// Those that fell silent. One of them that is heard again was there all the time, and is
    /// believed to be gone.
    lost: HashSet<String>,
    /// When it was last looked who is silent.
    looked: Option<Instant>,
}

/// What it means that a node is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// It is there.
    There,
    /// It was taken for gone.
    Again,
    /// There are too many to keep track of it.
    TooMany,
}

impl Nodes {
    fn hear(&mut self, node: &str, now: Instant) -> Heard {
        if let Some(at) = self.heard.get_mut(node) {
            *at = now;
            return Heard::There;
        }
        if self.heard.len() >= MAX_NODES {
            return Heard::TooMany;
        }
        self.heard.insert(node.to_owned(), now);
        if self.lost.remove(node) {
            Heard::Again
        } else {
            Heard::There
        }
    }

    /// Whether a node is kept track of.
    #[cfg(test)]
    pub fn hears(&self, node: &str) -> bool {
        self.heard.contains_key(node)
    }

    /// A node has said that it stops.
    fn leave(&mut self, node: &str) {
        self.heard.remove(node);
        self.lost.remove(node);
    }

    /// Those that were not heard for too long, looked for on each beat. Time in which this node
    /// itself stood still does not count, and while nobody `can_hear` all have their whole time
    /// before them.
    fn silent(&mut self, can_hear: bool, now: Instant) -> Vec<String> {
        let since = now.saturating_duration_since(self.looked.replace(now).unwrap_or(now));
        let stood_still = since.saturating_sub(BEAT);
        self.heard.values_mut().for_each(|at| {
            *at = if can_hear {
                now.min(*at + stood_still)
            } else {
                now
            }
        });
        let silent = self
            .heard
            .extract_if(|_, at| now.saturating_duration_since(*at) > GONE_AFTER);
        let silent: Vec<String> = silent.map(|(node, _)| node).collect();
        if self.lost.len() + silent.len() > MAX_NODES {
            self.lost.clear();
        }
        self.lost.extend(silent.iter().cloned());
        silent
    }
}

/// Beats, and listens to the others, until the service stops.
pub async fn run(hub: Hub) {
    let listen = async {
        loop {
            match hub
                .connection()
                .client
                .subscribe(subject::members(hub.connection().service))
                .await
            {
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
            // What has come is taken in before anybody is judged.
            biased;
            message = beats.next() => {
                let Some(message) = message else { return };
                let Ok(beat) = serde_json::from_slice::<Beat>(&message.payload) else { continue };
                if beat.gone {
                    hub.nodes().leave(&beat.node);
                    forget(hub, &beat.node);
                } else {
                    hear(hub, &beat.node);
                }
            }
            _ = tick.tick() => {
                say(hub, false).await;
                let silent = hub.nodes().silent(hub.connection().is_connected(), Instant::now());
                silent.iter().for_each(|node| forget(hub, node));
            }
        }
    }
}

/// A node is there, by a beat or by what it says of who is online; whether it, and what it says, is
/// kept track of. This one is not among those that can be gone.
pub fn hear(hub: &Hub, node: &str) -> bool {
    if *node == *hub.connection().instance {
        return true;
    }
    let heard = hub.nodes().hear(node, Instant::now());
    if heard == Heard::Again {
        info!(node, "another node is there again");
        hub.all()
            .iter()
            .for_each(|company| company.asked.notify_one());
    }
    heard != Heard::TooMany
}

fn forget(hub: &Hub, node: &str) {
    info!(node, "another node is gone");
    hub.all()
        .iter()
        .for_each(|company| company.forget_node(node));
}

async fn say(hub: &Hub, gone: bool) {
    let connection = hub.connection();
    let beat = Beat {
        node: connection.instance.to_string(),
        gone,
    };
    // Without a connection it would lie in the client's buffer and be said when it is no longer
    // true.
    if let (true, Ok(beat)) = (connection.is_connected(), serde_json::to_vec(&beat)) {
        let said = connection
            .client
            .publish(subject::members(connection.service), beat.into());
        let _ = tokio::time::timeout(BEAT, said).await; // the next beat says it again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tests::unconnected;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// Who is found silent, and when, if it is looked on each beat from one second to another.
    fn looked(
        nodes: &mut Nodes,
        can_hear: bool,
        start: Instant,
        seconds: std::ops::RangeInclusive<u64>,
    ) -> Vec<(u64, Vec<String>)> {
        let looked = seconds.map(|n| (n, nodes.silent(can_hear, after(start, 1_000 * n))));
        looked.filter(|(_, silent)| !silent.is_empty()).collect()
    }

    #[test]
    fn a_node_is_gone_once_it_is_silent_while_others_could_be_heard() {
        let (start, mut nodes) = (Instant::now(), Nodes::default());
        for (node, at) in [("a", 0), ("b", 0), ("b", 2_000)] {
            assert_eq!(nodes.hear(node, after(start, at)), Heard::There);
        }
        assert_eq!(
            looked(&mut nodes, true, start, 2..=5),
            [(4, vec!["a".to_owned()])]
        );
        assert_eq!(looked(&mut nodes, false, start, 6..=20), []);
        assert_eq!(
            looked(&mut nodes, true, start, 21..=30),
            [(24, vec!["b".to_owned()])]
        );
    }

    #[test]
    fn a_node_that_stood_still_forgets_nobody_for_that() {
        let (start, mut nodes) = (Instant::now(), Nodes::default());
        nodes.hear("a", start);
        assert_eq!(looked(&mut nodes, true, start, 0..=0), []);
        assert_eq!(looked(&mut nodes, true, start, 60..=62), []);
        assert_eq!(
            looked(&mut nodes, true, start, 63..=63),
            [(63, vec!["a".to_owned()])]
        );
    }

    #[test]
    fn who_is_heard_again_is_asked_unless_it_had_said_goodbye() {
        let (now, mut nodes) = (Instant::now(), Nodes::default());
        for node in ["a", "b"] {
            nodes.hear(node, now);
        }
        nodes.leave("b");
        assert_eq!(
            looked(&mut nodes, true, now, 1..=4),
            [(4, vec!["a".to_owned()])]
        );
        assert_eq!(
            ["a", "a", "b"].map(|node| nodes.hear(node, now)),
            [Heard::Again, Heard::There, Heard::There]
        );
    }

    #[tokio::test]
    async fn a_node_does_not_listen_for_itself() {
        let hub = unconnected().await;
        assert!(hear(&hub, &hub.connection().instance) && hear(&hub, "there"));
        assert!(hub.nodes().hears("there") && !hub.nodes().hears(&hub.connection().instance));
    }

    #[test]
    fn so_many_are_kept_track_of() {
        let (start, mut nodes) = (Instant::now(), Nodes::default());
        assert!((0..MAX_NODES).all(|n| nodes.hear(&n.to_string(), start) == Heard::There));
        assert_eq!(
            [nodes.hear("more", start), nodes.hear("0", start)],
            [Heard::TooMany, Heard::There]
        );
        nodes.leave("0");
        assert_eq!(nodes.hear("more", start), Heard::There);
        looked(&mut nodes, true, start, 1..=4);
        assert_eq!((nodes.heard.len(), nodes.lost.len()), (0, MAX_NODES));
        nodes.hear("one more", after(start, 4_000));
        looked(&mut nodes, true, start, 5..=8);
        assert_eq!(nodes.lost.len(), 1);
    }
}
