//! Which other realtime nodes are there: each says so every second on `members.realtime`. One that is not heard of any more
//! takes with it what it has said of who is online.

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
    let mut heard: HashMap<String, Instant> = HashMap::new();
    let mut tick = interval(BEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                say(hub, false).await;
                if !hub.connection().is_connected() {
                    // Nobody can be heard: that says nothing of them.
                    heard.values_mut().for_each(|at| *at = Instant::now());
                }
                let silent = heard.extract_if(|_, at| at.elapsed() > GONE_AFTER);
                silent.for_each(|(node, _)| forget(hub, &node));
            }
            message = beats.next() => {
                let Some(message) = message else { return };
                let Ok(beat) = serde_json::from_slice::<Beat>(&message.payload) else { continue };
                if beat.gone {
                    heard.remove(&beat.node);
                    forget(hub, &beat.node);
                } else if heard.len() < MAX_NODES || heard.contains_key(&beat.node) {
                    heard.insert(beat.node, Instant::now());
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
