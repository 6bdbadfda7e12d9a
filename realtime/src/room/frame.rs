//! What clients are told: one event, encoded once for each transport, shared by all sockets that
//! get it. Knows no socket.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use contract::Timestamp;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::encode;
use super::server_event::ServerEvent;

/// Bytes that a queue counts for each frame besides the frame's data: the queue's own entry and
/// what the transport writes around the data.
const OVERHEAD_BYTES: usize = 64;

/// The log position of a stored event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The event's sequence: the cursor of a client that has received the event.
    pub seq: u64,
    /// When the log stored the event.
    pub stored_at: Timestamp,
}

/// One event for clients. Cloning copies a pointer.
#[derive(Clone, Debug)]
pub struct Frame(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    event: ServerEvent,
    data: Box<RawValue>,
    origin: Option<Origin>,
    websocket: OnceLock<Bytes>,
    socket_io: OnceLock<Bytes>,
}

impl Frame {
    /// A frame that the log does not hold: typing, presence, and what the server says about itself.
    ///
    /// # Errors
    /// None in practice, because every type that this crate writes can be serialised.
    pub fn passing<D: Serialize>(event: ServerEvent, data: &D) -> Result<Frame, serde_json::Error> {
        Frame::new(event, data, None)
    }

    /// The frame of an event of the log.
    ///
    /// # Errors
    /// As [`Frame::passing`].
    pub fn stored<D: Serialize>(
        event: ServerEvent,
        data: &D,
        origin: Origin,
    ) -> Result<Frame, serde_json::Error> {
        Frame::new(event, data, Some(origin))
    }

    fn new<D: Serialize>(
        event: ServerEvent,
        data: &D,
        origin: Option<Origin>,
    ) -> Result<Frame, serde_json::Error> {
        let data = to_raw_value(data)?;
        Ok(Frame(Arc::new(Parts {
            event,
            data,
            origin,
            websocket: OnceLock::new(),
            socket_io: OnceLock::new(),
        })))
    }

    /// The event.
    #[cfg(test)]
    pub fn event(&self) -> ServerEvent {
        self.0.event
    }

    /// The event's data as JSON.
    #[cfg(test)]
    pub fn data(&self) -> &RawValue {
        &self.0.data
    }

    /// The event's log position; `None` for a frame that the log does not hold.
    pub fn origin(&self) -> Option<Origin> {
        self.0.origin
    }

    /// Bytes that limits count for this frame: its data once, and a constant. The encodings of the
    /// transports stay in the frame once they are made, so a frame takes up to three times as much
    /// memory. All holders of the frame share that memory.
    pub fn bytes(&self) -> usize {
        self.0.data.get().len() + OVERHEAD_BYTES
    }

    /// The encoding for `/ws`: a WebSocket text frame with `{"event","data"}`, header included. It
    /// is made once.
    pub fn websocket(&self) -> &Bytes {
        self.0.websocket.get_or_init(|| {
            let (event, data) = (self.0.event.as_str(), self.0.data.get());
            encode::text_frame(&format!(r#"{{"event":"{event}","data":{data}}}"#))
        })
    }

    /// The encoding for `/socket.io/`: a WebSocket text frame with the packet `42["event",data]`. A
    /// poll takes the packet out of the frame. It is made once.
    pub fn socket_io(&self) -> &Bytes {
        self.0.socket_io.get_or_init(|| {
            let (event, data) = (self.0.event.as_str(), self.0.data.get());
            encode::text_frame(&encode::socket_io_event(event, data))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_transport_has_its_own_encoding_and_it_is_made_once() {
        let frame = Frame::passing(ServerEvent::MessageNew, &json!({"seq": 7})).unwrap();
        assert_eq!(
            (frame.event(), frame.data().get()),
            (ServerEvent::MessageNew, r#"{"seq":7}"#)
        );
        assert_eq!(
            frame.websocket().as_ref(),
            b"\x81\x28{\"event\":\"message:new\",\"data\":{\"seq\":7}}"
        );
        assert_eq!(
            frame.socket_io().as_ref(),
            b"\x81\x1b42[\"message:new\",{\"seq\":7}]"
        );
        let copy = frame.clone();
        assert!(std::ptr::eq(
            frame.websocket().as_ptr(),
            copy.websocket().as_ptr()
        ));
        assert!(std::ptr::eq(
            frame.socket_io().as_ptr(),
            copy.socket_io().as_ptr()
        ));
    }
}
