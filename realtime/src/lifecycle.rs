//! What happens to all sockets of a node by the clock: their tokens expire, and the node stops.
//! Also the check `hub`.

use std::time::Duration;

use contract::Timestamp;
use runtime::service::health::Health;
use serde_json::json;
use tokio::time::{interval, timeout};
use tracing::info;

use crate::node::Node;
use crate::room::FeedState;
use crate::room::close_reason::CloseReason;
use crate::room::payload;

/// How often the sockets are looked at; so much later than it should a socket may end.
const TICK: Duration = Duration::from_secs(1);
/// At the stop, clients are told to come back after a time of their own, at most this.
const RECONNECT_WITHIN: Duration = Duration::from_secs(5);
/// At the stop, what waits for a socket may take so long to go out; then it is closed as it is. The
/// door's own farewell follows.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// Runs until the service stops, then sends the sockets away.
pub async fn run(node: Node, health: Health) {
    let mut tick = interval(TICK);
    while node.stop().run_until_cancelled(tick.tick()).await.is_some() {
        confirm(&node, &health);
        let now = Timestamp::now();
        node.hub()
            .rooms()
            .iter()
            .for_each(|company| company.check_tokens(now));
    }
    send_away(&node).await;
}

fn confirm(node: &Node, health: &Health) {
    let companies = node.hub().rooms();
    let live = companies
        .iter()
        .filter(|c| *c.feed.borrow() == FeedState::Live)
        .count();
    let sockets: usize = companies.iter().map(|c| c.socket_count()).sum();
    let detail = json!({"companies": companies.len(), "live": live, "sockets": sockets});
    match node.connection().is_connected() {
        true => health.good("hub", detail),
        false => health.bad("hub", detail),
    }
}

/// Each socket gets what waits for it, and the word when to connect again, to another node.
async fn send_away(node: &Node) {
    let companies = node.hub().rooms();
    let sockets: usize = companies.iter().map(|c| c.socket_count()).sum();
    info!(sockets, "the sockets are sent away");
    for company in &companies {
        company.end_all_after(
            || payload::of_closing(jitter()).ok(),
            CloseReason::GoingAway,
        );
    }
    let emptied = async {
        for company in &companies {
            while company.socket_count() > 0 {
                company.emptied.notified().await;
            }
        }
    };
    if timeout(DRAIN_WITHIN, emptied).await.is_err() {
        companies
            .iter()
            .for_each(|company| company.end_all(CloseReason::GoingAway));
    }
}

/// A time within which to come back, in milliseconds.
fn jitter() -> u64 {
    rand::random_range(0..RECONNECT_WITHIN.as_millis() as u64)
}
