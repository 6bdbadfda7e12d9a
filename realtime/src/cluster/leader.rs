//! Watches which server leads the stream `EVENTS`. Reads no event; the feeds do.
//!
//! A leader that dies may have stored an event without passing it on. The connection of this node,
//! to another server of the cluster, does not show that. Therefore a new leader counts as a gap,
//! and the feeds compare the delivered events with the log. A leader that restarts and is elected
//! again is a new one too, because its term begins anew. A single server has no leader, and this
//! module has nothing to do.

use std::time::Duration;

use async_nats::jetstream::stream::ClusterInfo;
use contract::{Timestamp, inventory};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info};

use crate::node::Node;

/// How often the stream is asked for its leader.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The time in which one server leads the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    leader: String,
    since: Option<Timestamp>,
}

/// The current term; `None` during an election, or on a single server.
fn term(cluster: Option<&ClusterInfo>) -> Option<Term> {
    let cluster = cluster?;
    Some(Term {
        leader: cluster.leader.clone()?,
        since: cluster.leader_since.map(Timestamp::from),
    })
}

/// Watches until the service stops.
pub async fn watch(node: Node) {
    let mut known: Option<Term> = None;
    let mut tick = interval(CHECK_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while node.stop().run_until_cancelled(tick.tick()).await.is_some() {
        let now = match node
            .connection()
            .jetstream
            .get_stream(inventory::EVENTS)
            .await
        {
            Ok(stream) => term(stream.cached_info().cluster.as_ref()),
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

    fn of(json: &str) -> Option<Term> {
        term(Some(&serde_json::from_str(json).unwrap()))
    }

    #[test]
    fn a_leader_that_is_elected_again_has_another_term() {
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
        assert_eq!((of("{}"), term(None)), (None, None));
    }
}
