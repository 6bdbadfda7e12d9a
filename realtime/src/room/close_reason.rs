//! Why a socket ends, and the code that its client is told. How a transport tells it is not known
//! here.

/// Why a socket ends. Codes from 4000 on are this service's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The node stops. The client should connect again, to another node.
    GoingAway,
    /// The company's events cannot be followed on this node right now. The client should connect
    /// again.
    FeedLost,
    /// The token has expired. The client should connect again with a fresh one.
    TokenExpired,
    /// The login has ended. The user has to log in again first.
    SessionEnded,
    /// The client did not take its events as fast as they came. It should connect again with
    /// `last_seq`.
    TooSlow,
    /// The client sent too many malformed or over-limit frames. Connecting again does not help.
    Flood,
    /// A frame of the client was larger than the limit.
    TooLarge,
    /// The client broke the transport's protocol.
    Protocol,
    /// A text frame of the client was not UTF-8.
    NotUtf8,
    /// The client sent nothing for too long.
    Silent,
    /// The client closed the socket.
    Left,
    /// The connection broke.
    Lost,
}

impl CloseReason {
    /// The code and the text, in one table.
    const fn parts(self) -> (Option<u16>, &'static str) {
        match self {
            CloseReason::GoingAway => (Some(1001), "going away"),
            CloseReason::Protocol => (Some(1002), "protocol error"),
            CloseReason::NotUtf8 => (Some(1007), "not UTF-8"),
            CloseReason::TooLarge => (Some(1009), "frame too large"),
            CloseReason::FeedLost => (Some(1013), "try again later"),
            CloseReason::TokenExpired => (Some(4001), "token expired"),
            CloseReason::Silent => (Some(4002), "nothing heard"),
            CloseReason::SessionEnded => (Some(4003), "session ended"),
            CloseReason::TooSlow => (Some(4008), "too slow"),
            CloseReason::Flood => (Some(4009), "too many bad frames"),
            CloseReason::Left => (None, "left"),
            CloseReason::Lost => (None, "connection lost"),
        }
    }

    /// The WebSocket close code; `None` where no client is left to be told.
    pub const fn code(self) -> Option<u16> {
        self.parts().0
    }

    /// The text, for people, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        self.parts().1
    }
}
