//! Who leads the stream. A leader that dies may have stored what it did not pass on; the connection
//! of this node, to another server of the cluster, does not show that. So a new leader is taken for
//! a gap, and what was handed out lately is compared with the log. One that restarts and is elected
//! again is a new one too: it says since when it leads. On a single server there is no leader, and
//! nothing to do.

use std::time::Duration;

use async_nats::jetstream::stream::ClusterInfo;
use contract::{Timestamp, inventory};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info};

use crate::node::Node;

/// How often the stream is asked.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A server's time at the head of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reign {
    leader: String,
    since: Option<Timestamp>,
}

/// Whose time it is; nobody's while there is an election, or on a single server.
fn reign(cluster: Option<&ClusterInfo>) -> Option<Reign> {
    let cluster = cluster?;
    Some(Reign {
        leader: cluster.leader.clone()?,
        since: cluster.leader_since.map(Timestamp::from),
    })
}

/// Looks until the service stops.
pub async fn watch(node: Node) {
    let mut known: Option<Reign> = None;
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while node.stop().run_until_cancelled(tick.tick()).await.is_some() {
        let now = match node
            .connection()
            .jetstream
            .get_stream(inventory::EVENTS)
            .await
        {
            Ok(stream) => reign(stream.cached_info().cluster.as_ref()),
            Err(error) => {
                debug!(%error, "the stream does not answer");
                continue;
            }
        };
        let Some(now) = now.filter(|now| known.as_ref() != Some(now)) else {
            continue;
        };
        if let Some(before) = known.replace(now.clone()) {
            info!(
                before = before.leader,
                now = now.leader,
                "the log has another leader"
            );
            node.note_new_leader();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Option<Reign> {
        reign(Some(&serde_json::from_str(json).unwrap()))
    }

    #[test]
    fn a_leader_that_is_elected_again_is_another_one() {
        let first = of(r#"{"leader": "n1", "leader_since": "2026-11-26T13:59:20.855786484Z"}"#);
        assert_eq!(
            first,
            of(r#"{"leader": "n1", "leader_since": "2026-11-26T13:59:20.855786484Z"}"#)
        );
        assert_ne!(
            first,
            of(r#"{"leader": "n1", "leader_since": "2026-11-26T13:59:24.056076883Z"}"#)
        );
        assert_ne!(
            first,
            of(r#"{"leader": "n2", "leader_since": "2026-11-26T13:59:20.855786484Z"}"#)
        );
        assert!(first.is_some() && of(r#"{"leader": "n1"}"#).is_some());
        assert_eq!((of("{}"), reign(None)), (None, None));
    }
}
