//! What an open socket takes from the limits of its node. Dropping the guards gives all of it back.
//! Adds no socket to a room.

use contract::Id;
use metrics::gauge;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::node::Node;

/// Why a socket is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// `MAX_SOCKETS` are open.
    #[error("this node has no room for another socket")]
    Full,
    /// `MAX_SOCKETS_PER_USER` are open.
    #[error("this user has as many sockets on this node as they may")]
    TooManyOfUser,
    /// The events of the company cannot be followed right now.
    #[error("the log cannot be followed right now")]
    Unavailable,
}

/// The protocol by which a socket is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `/ws`
    WebSocket,
    /// `/socket.io/`
    SocketIo,
}

impl Transport {
    /// The value of the label `door` of the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Transport::WebSocket => "ws",
            Transport::SocketIo => "socket.io",
        }
    }
}

/// One socket's share of the limits. The service waits at its end until these are dropped.
pub struct SocketGuards {
    node: Node,
    user: Id,
    transport: Transport,
    /// One of `MAX_SOCKETS`.
    _permit: OwnedSemaphorePermit,
    _task: TaskTrackerToken,
}

impl SocketGuards {
    /// Counts a socket of the node and of its user.
    ///
    /// # Errors
    /// [`SubscribeError::Full`] or [`SubscribeError::TooManyOfUser`].
    pub fn acquire(
        node: &Node,
        transport: Transport,
        user: Id,
    ) -> Result<SocketGuards, SubscribeError> {
        let permit = node.socket_permit().map_err(|_| SubscribeError::Full)?;
        if !node.hub().count_user(user, node.limits().sockets_per_user) {
            return Err(SubscribeError::TooManyOfUser);
        }
        gauge!("realtime_sockets", "door" => transport.as_str()).increment(1.0);
        Ok(SocketGuards {
            node: node.clone(),
            user,
            transport,
            _permit: permit,
            _task: node.tasks().token(),
        })
    }

    /// The node of the socket.
    pub fn node(&self) -> &Node {
        &self.node
    }
}

impl Drop for SocketGuards {
    fn drop(&mut self) {
        gauge!("realtime_sockets", "door" => self.transport.as_str()).decrement(1.0);
        self.node.hub().release_user(self.user);
    }
}
