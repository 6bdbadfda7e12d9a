//! Shows in health and metrics how this replica's partitions are. Decides nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use metrics::gauge;
use runtime::CancellationToken;
use runtime::consume::pinned_consumer::ConsumerState;
use runtime::service::health::Health;
use serde_json::json;
use tokio::sync::watch;

use crate::delivery::token_holds::TokenHolds;
use crate::partition::lane::Counts;

/// How often health and metrics are written.
const SHOW_EVERY: Duration = Duration::from_secs(2);
/// Messages that no forwarder has seen. Beyond this number the forwarder is not ready. The number is
/// generous, because a bot that was down leaves a backlog.
const READY_PENDING: u64 = 1_000_000;

/// The state of a partition that this replica owns.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    pub consumer: ConsumerState,
    pub lanes: Counts,
}

/// Shows the partitions until the stop.
pub async fn show(
    standings: Vec<watch::Receiver<Option<Standing>>>,
    assigned: watch::Receiver<BTreeSet<u32>>,
    holds: TokenHolds,
    health: Health,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(SHOW_EVERY);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let (mut pending, mut in_work, mut all) = (0, 0, Counts::default());
        for Standing { consumer, lanes } in standings.iter().filter_map(|s| *s.borrow()) {
            pending += consumer.pending;
            in_work += consumer.in_work;
            all.lanes += lanes.lanes;
            all.messages += lanes.messages;
            all.waiting += lanes.waiting;
            all.held += lanes.held;
        }
        let partitions: Vec<u32> = assigned.borrow().iter().copied().collect();
        gauge!("partitions").set(partitions.len() as f64);
        gauge!("outbound_pending_messages").set(pending as f64);
        gauge!("outbound_in_work_messages").set(in_work as f64);
        gauge!("lanes").set(all.lanes as f64);
        gauge!("lanes_waiting").set(all.waiting as f64);
        gauge!("lanes_held").set(all.held as f64);
        let detail = json!({
            "pending": pending, "in_work": in_work, "limit": READY_PENDING, "partitions": partitions,
            "lanes": all.lanes, "waiting": all.waiting, "held": all.held, "holds": holds.len(),
        });
        if pending <= READY_PENDING {
            health.good("lag", detail)
        } else {
            health.bad("lag", detail)
        }
    }
}
