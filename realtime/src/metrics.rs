//! What is counted for each event, looked up once: at a million deliveries a second the looking up
//! would cost the most.

use contract::Timestamp;
use metrics::{Counter, Histogram, counter, histogram};

use crate::room::frame::Frame;

/// Handles of the busiest metrics.
pub struct Metrics {
    deliveries: Counter,
    fanout: Histogram,
}

impl Metrics {
    /// Of this process.
    pub fn new() -> Metrics {
        Metrics {
            deliveries: counter!("realtime_deliveries_total"),
            fanout: histogram!("realtime_fanout_seconds"),
        }
    }

    /// A frame was queued for so many sockets.
    pub fn delivered(&self, sockets: usize) {
        self.deliveries.increment(sockets as u64);
    }

    /// A frame goes out to a socket: how long after the log took it. Of those that go out together,
    /// the first is looked at.
    pub fn handed_out(&self, frame: &Frame) {
        if let Some(origin) = frame.origin() {
            self.fanout
                .record(Timestamp::now().since(origin.stored_at).as_secs_f64());
        }
    }
}
