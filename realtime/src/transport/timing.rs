//! The times that both transports keep. The times of HTTP connections are the listener's.

use std::time::Duration;

use crate::room::close_reason::CloseReason;

/// How often a client is pinged.
pub const PING_INTERVAL: Duration = Duration::from_secs(25);
/// A client that sends nothing for this long, pongs included, is gone. A client of Socket.IO is
/// told the same time, and takes the server for gone this long after a missed ping.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// Longest time from the decision to close to the end of the connection. The client may first have
/// to read what lies before the reason.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// The same while the service stops.
const STOP_CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Longest time for telling the client why its socket is closed. Beyond it, the connection is
/// dropped.
pub const fn close_deadline(reason: CloseReason) -> Duration {
    match reason {
        CloseReason::GoingAway => STOP_CLOSE_DEADLINE,
        _ => CLOSE_DEADLINE,
    }
}
