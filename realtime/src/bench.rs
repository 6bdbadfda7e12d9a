//! The fan-out for the benchmark `fanout_frame`. Hidden, because no part of the service uses it.

use std::sync::Arc;

use contract::domain::StaffRole;
use contract::event::Envelope;
use contract::{Id, Timestamp};

use crate::auth::session::Session;
use crate::room::frame::{Frame, Origin};
use crate::room::queue::Queue;
use crate::room::{Room, payload};

/// Bytes that may wait for one socket, far more than one frame.
const QUEUE_BYTES: usize = 1024 * 1024;

/// A frame of a stored event.
pub struct EventFrame(Frame);

impl EventFrame {
    /// Reads an event as the log stores it and makes its frame. Returns `None` if the event cannot
    /// be read or sockets are not told of it.
    pub fn new(event: &[u8], seq: u64) -> Option<EventFrame> {
        let origin = Origin {
            seq,
            stored_at: Timestamp::from_millis(0),
        };
        let envelope = Envelope::from_json(event).ok()?;
        payload::of_event(envelope, origin)
            .ok()
            .flatten()
            .map(EventFrame)
    }

    /// Encodes the frame for both transports. Returns the number of bytes.
    pub fn encode(&self) -> usize {
        self.0.websocket().len() + self.0.socket_io().len()
    }
}

/// A room with live sockets.
pub struct FanOut {
    room: Room,
    queues: Vec<Arc<Queue>>,
    seq: u64,
}

impl FanOut {
    /// A room with this many live sockets, which have read their first frames.
    pub fn new(sockets: usize) -> FanOut {
        let company = Id::from_bytes([0xaa; 12]);
        let room = Room::new(company);
        room.begin(0);
        let now = Timestamp::from_millis(0);
        let queues = (0..sockets).map(|_| {
            let (socket, queue) = (Id::generate(now), Arc::new(Queue::new(QUEUE_BYTES)));
            let session = Session {
                user: socket,
                company,
                role: StaffRole::Manager,
                session: None,
                expires: now,
            };
            room.add(socket, session, queue.clone());
            room.start(socket, None);
            while queue.take().is_some() {}
            queue
        });
        let queues = queues.collect();
        FanOut {
            room,
            queues,
            seq: 0,
        }
    }

    /// Delivers a frame as the next event. Returns the number of sockets that got it.
    pub fn deliver(&mut self, frame: &EventFrame) -> usize {
        self.seq += 1;
        self.room
            .deliver(self.seq, Some(frame.0.clone()))
            .unwrap_or(0)
    }

    /// Takes the frame out of every queue and encodes it for `/ws`. Returns the number of bytes.
    pub fn take(&self) -> usize {
        let frames = self.queues.iter().filter_map(|queue| queue.take()?.ok());
        frames.map(|frame| frame.websocket().clone().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_gets_the_frame_that_the_benchmark_delivers() {
        let event = include_bytes!("../../nats/golden/message.created.v1.json");
        let frame = EventFrame::new(event, 1).unwrap();
        let mut fan_out = FanOut::new(3);
        assert_eq!(fan_out.deliver(&frame), 3);
        assert_eq!(fan_out.take(), 3 * frame.0.websocket().len());
        assert_eq!(fan_out.take(), 0);
    }
}
