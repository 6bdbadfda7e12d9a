//! What clients are told: one event, encoded once, shared by every socket of every door. Knows no
//! socket.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use contract::Timestamp;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// What a queue counts for a frame beside its text: its place, and what a door writes around it.
const OVERHEAD_BYTES: usize = 64;

/// Where a stored event stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its sequence: the cursor of a client that has got it.
    pub seq: u64,
    /// When the log took it.
    pub stored_at: Timestamp,
}

/// One event for clients. Cloning copies a pointer.
#[derive(Clone, Debug)]
pub struct Frame(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    event: &'static str,
    data: Box<RawValue>,
    origin: Option<Origin>,
    websocket: OnceLock<Bytes>,
    socket_io: OnceLock<Bytes>,
}

impl Frame {
    /// Of something that no log has: typing, presence, what the server says of itself.
    ///
    /// # Errors
    /// None in practice: every type that is written here serialises.
    pub fn passing<D: Serialize>(
        event: &'static str,
        data: &D,
    ) -> Result<Frame, serde_json::Error> {
        Frame::new(event, data, None)
    }

    /// Of an event of the log.
    ///
    /// # Errors
    /// As [`Frame::passing`].
    pub fn stored<D: Serialize>(
        event: &'static str,
        data: &D,
        origin: Origin,
    ) -> Result<Frame, serde_json::Error> {
        Frame::new(event, data, Some(origin))
    }

    fn new<D: Serialize>(
        event: &'static str,
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

    /// The event's name. None of ours needs escaping in JSON.
    #[cfg(test)]
    pub fn event(&self) -> &'static str {
        self.0.event
    }

    /// Its data, as JSON.
    #[cfg(test)]
    pub fn data(&self) -> &RawValue {
        &self.0.data
    }

    /// Where the log has it; nowhere, if it was only passing.
    pub fn origin(&self) -> Option<Origin> {
        self.0.origin
    }

    /// What limits count for it, in bytes: its text, once, and a little. The forms of the doors,
    /// once they are made, are kept with it, so it takes up to three times as much of the memory;
    /// all who hold it share that.
    pub fn bytes(&self) -> usize {
        self.0.data.get().len() + OVERHEAD_BYTES
    }

    /// The door `/ws`: a whole WebSocket text frame with `{"event","data"}`, header included, as a
    /// server sends it. Made once.
    pub fn websocket(&self) -> &Bytes {
        self.0.websocket.get_or_init(|| {
            let text = format!(
                r#"{{"event":"{}","data":{}}}"#,
                self.0.event,
                self.0.data.get()
            );
            crate::room::encode::text(&text)
        })
    }

    /// The door `/socket.io/`: a whole WebSocket text frame with the packet `42["event",data]`; a
    /// poll takes the packet out of it. Made once.
    pub fn socket_io(&self) -> &Bytes {
        self.0.socket_io.get_or_init(|| {
            crate::room::encode::text(&crate::transport::socketio::event(
                self.0.event,
                self.0.data.get(),
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_door_has_its_form_and_it_is_made_once() {
        let frame = Frame::passing("message:new", &json!({"seq": 7})).unwrap();
        assert_eq!(
            (frame.event(), frame.data().get()),
            ("message:new", r#"{"seq":7}"#)
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
