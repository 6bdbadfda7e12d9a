//! Who leads the stream. A leader that dies may have stored what it did not pass on; the connection of this node, to another
//! server of the cluster, does not show that. So a new leader is taken for a gap, and what was handed out lately is compared
//! with the log. On a single server there is no leader, and nothing to do.

use std::time::Duration;

use nats::stream;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info};

use crate::hub::Hub;

/// How often the stream is asked.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Looks until the service stops.
pub async fn watch(hub: Hub) {
    let mut leader: Option<String> = None;
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while hub.stop().run_until_cancelled(tick.tick()).await.is_some() {
        let now = match hub.connection().jetstream.get_stream(stream::EVENTS).await {
            Ok(stream) => stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone()),
            Err(error) => {
                debug!(%error, "the stream does not answer");
                continue;
            }
        };
        let Some(now) = now.filter(|now| leader.as_ref() != Some(now)) else { continue };
        if let Some(before) = leader.replace(now.clone()) {
            info!(before, now, "the log has another leader");
            hub.note_new_leader();
        }
    }
}
