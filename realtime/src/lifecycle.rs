//! What happens to all sockets of a node by the clock: their tokens expire, and they are closed
//! when the service stops. Also reports the health check `hub`. Serves no single socket.

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

/// How often tokens are checked. A socket may outlive its token by as much.
const TICK: Duration = Duration::from_secs(1);
/// Longest time after which a client is told to connect again when the service stops. Each client
/// is told a random time up to it. Otherwise all clients would connect again at once.
const RECONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long the frames that wait for a socket may take to go out when the service stops. Beyond it,
/// the transport closes the socket without them.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// Checks tokens until the service stops, then closes all sockets.
pub async fn run(node: Node, health: Health) {
    let mut tick = interval(TICK);
    while node.stop().run_until_cancelled(tick.tick()).await.is_some() {
        report(&node, &health);
        let (rooms, now) = (node.hub().rooms(), Timestamp::now());
        rooms.iter().for_each(|room| room.check_tokens(now));
    }
    close_all(&node).await;
}

fn report(node: &Node, health: &Health) {
    let rooms = node.hub().rooms();
    let live = rooms
        .iter()
        .filter(|room| *room.feed.borrow() == FeedState::Live)
        .count();
    let sockets: usize = rooms.iter().map(|room| room.socket_count()).sum();
    let detail = json!({"companies": rooms.len(), "live": live, "sockets": sockets});
    match node.connection().is_connected() {
        true => health.good("hub", detail),
        false => health.bad("hub", detail),
    }
}

/// Lets each socket have the frames that wait for it, and tells each client when to connect again.
async fn close_all(node: &Node) {
    let rooms = node.hub().rooms();
    let sockets: usize = rooms.iter().map(|room| room.socket_count()).sum();
    info!(sockets, "the sockets are sent away");
    for room in &rooms {
        let last = || payload::of_closing(reconnect_after_ms()).ok();
        room.end_all_after(last, CloseReason::GoingAway);
    }
    let emptied = async {
        for room in &rooms {
            while room.socket_count() > 0 {
                room.emptied.notified().await;
            }
        }
    };
    if timeout(DRAIN_WITHIN, emptied).await.is_err() {
        rooms
            .iter()
            .for_each(|room| room.end_all(CloseReason::GoingAway));
    }
}

/// A random time after which a client connects again, in milliseconds.
fn reconnect_after_ms() -> u64 {
    rand::random_range(0..RECONNECT_WITHIN.as_millis() as u64)
}
