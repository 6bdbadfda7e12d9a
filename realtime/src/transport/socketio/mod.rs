//! The door `/socket.io/`: Socket.IO 4 (Engine.IO protocol 4, Socket.IO protocol 5) by WebSocket
//! and by polling, for the clients of the old backend. What an event is, who gets it and what a
//! command does is not known here.

use std::time::Duration;

use bytes::Bytes;

mod client;
mod engine;
mod handler;
mod packet;
mod polling;
mod websocket;

pub use handler::routes;

/// How often the client is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(25);
/// A client that is silent for so long, pongs included, is gone; and it thinks so of the server so
/// long after a missed ping.
const PING_TIMEOUT: Duration = Duration::from_secs(60);
/// From the decision to close to the end of the session: the client may first have to take what
/// lies before the reason.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// The same while the service stops.
const STOP_CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// A ping, as a WebSocket frame.
const fn ping() -> Bytes {
    Bytes::from_static(b"\x81\x012")
}
