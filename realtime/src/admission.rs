//! Admits a socket: counts it, adds it to its company's room, opens the room's feed if the socket
//! is the first one, and starts its events. Checks no token; see `auth::handshake`.

use std::sync::Arc;
use std::time::Duration;

use contract::Id;
use tokio::time::timeout;

use crate::auth::session::Session;
use crate::log::feed;
use crate::node::Node;
use crate::room::FeedState;
use crate::room::queue::Queue;
use crate::subscriber::Subscriber;
use crate::subscriber::cursor::Cursor;
use crate::subscriber::socket_guards::{SocketGuards, SubscribeError, Transport};

/// Longest wait of a handshake for the subscriptions of its company. Beyond it, the socket is
/// refused with [`SubscribeError::Unavailable`].
const OPEN_DEADLINE: Duration = Duration::from_secs(4);

/// Makes a socket a subscriber. The subscriber gets every event of its company that the log has
/// after `cursor`, or after now where the client has no cursor.
///
/// # Errors
/// See [`SubscribeError`].
pub async fn enter(
    node: &Node,
    transport: Transport,
    session: Session,
    socket: Id,
    cursor: Option<Cursor>,
) -> Result<Subscriber, SubscribeError> {
    if !node.connection().is_connected() {
        return Err(SubscribeError::Unavailable);
    }
    let guards = SocketGuards::acquire(node, transport, session.user)?;
    let queue = Arc::new(Queue::new(node.limits().queue_bytes));
    let open = |room| drop(node.tasks().spawn(feed::run(node.clone(), room)));
    let room = node
        .hub()
        .add_socket(socket, session, queue.clone(), node.stop(), open)
        .ok_or(SubscribeError::Unavailable)?;
    let mut feed = room.feed.subscribe();
    // From here on, dropping the subscriber takes the socket out of the room again.
    let mut subscriber = Subscriber::new(room, queue, session, socket, guards);
    let opened = feed.wait_for(|state| *state != FeedState::Opening);
    match timeout(OPEN_DEADLINE, opened).await {
        Ok(Ok(state)) if *state == FeedState::Live => {}
        _ => return Err(SubscribeError::Unavailable),
    }
    subscriber.start(cursor);
    Ok(subscriber)
}
