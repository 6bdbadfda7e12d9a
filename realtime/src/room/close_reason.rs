//! Why a socket ends, and what a client is told of it. Codes from 4000 are ours. How a door says it
//! is the door's matter.

/// Why a socket ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// This node stops. Connect again, to another.
    GoingAway,
    /// The company's events cannot be had on this node right now. Connect again.
    FeedLost,
    /// Connect again with a fresh token.
    TokenExpired,
    /// The login has ended. Log in again first.
    SessionEnded,
    /// It did not take its events as fast as they came. Connect again with `last_seq`.
    TooSlow,
    /// Too many malformed or over-limit frames. A client's fault; connecting again will not mend
    /// it.
    Flood,
    /// A frame beyond the size limit.
    TooLarge,
    /// Not the door's protocol.
    Protocol,
    /// A text that is not UTF-8.
    NotUtf8,
    /// Nothing was heard of it for too long.
    Silent,
    /// The client closed it.
    Left,
    /// The connection broke.
    Lost,
}

impl CloseReason {
    /// The code and the words; as one table.
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

    /// What a client is told, a WebSocket close code; nothing where nobody is there any more.
    pub const fn code(self) -> Option<u16> {
        self.parts().0
    }

    /// For people, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        self.parts().1
    }
}
