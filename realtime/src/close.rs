//! Why a socket ends, and what its close frame says of it. Codes from 4000 are ours.

use axum::extract::ws::{CloseFrame, Utf8Bytes};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;

/// Why a socket ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// This node stops. Connect again, to another.
    GoingAway,
    /// The company's events cannot be had on this node right now. Connect again.
    FeedLost,
    /// Connect again with a fresh token.
    TokenExpired,
    /// It did not take its events as fast as they came. Connect again and refetch.
    TooSlow,
    /// Too many malformed or over-limit frames. A client's fault; connecting again will not mend it.
    Flood,
    /// A frame beyond the size limit.
    TooLarge,
    /// Not WebSocket.
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
            CloseReason::TooSlow => (Some(4008), "too slow"),
            CloseReason::Flood => (Some(4009), "too many bad frames"),
            CloseReason::Left => (None, "left"),
            CloseReason::Lost => (None, "connection lost"),
        }
    }

    /// For people, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        self.parts().1
    }

    /// What to send; nothing where nobody is there any more.
    pub fn frame(self) -> Option<CloseFrame> {
        let (code, words) = self.parts();
        code.map(|code| CloseFrame { code, reason: Utf8Bytes::from_static(words) })
    }

    /// What a failed read means.
    pub fn of_error(error: axum::Error) -> CloseReason {
        match error.into_inner().downcast_ref::<Error>() {
            Some(Error::Capacity(_)) => CloseReason::TooLarge,
            Some(Error::Utf8(_)) => CloseReason::NotUtf8,
            Some(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => CloseReason::Lost,
            Some(Error::Protocol(_)) => CloseReason::Protocol,
            _ => CloseReason::Lost,
        }
    }
}
