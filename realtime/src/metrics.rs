//! Metrics of the hot path and of several modules. Metrics that one module counts stand there.

use contract::{Id, Timestamp};
use metrics::{Counter, Histogram, counter, histogram};
use tracing::warn;

use crate::room::frame::Frame;

/// Handles of the busiest metrics. Looking a metric up for each of a million deliveries a second
/// would cost more than the deliveries.
pub struct Metrics {
    deliveries: Counter,
    fanout: Histogram,
}

impl Metrics {
    /// The metrics of this process.
    pub fn new() -> Metrics {
        Metrics {
            deliveries: counter!("realtime_deliveries_total"),
            fanout: histogram!("realtime_fanout_seconds"),
        }
    }

    /// Counts a frame that was queued for this many sockets.
    pub fn delivered(&self, sockets: usize) {
        self.deliveries.increment(sockets as u64);
    }

    /// Records how long after the log has stored an event its frame goes to a socket. Of several
    /// frames that go out together, only the first is recorded.
    pub fn handed_out(&self, frame: &Frame) {
        if let Some(origin) = frame.origin() {
            self.fanout
                .record(Timestamp::now().since(origin.stored_at).as_secs_f64());
        }
    }
}

/// Counts and logs a message of a company that no socket gets.
pub fn count_skipped(company: Id, reason: &'static str, seq: Option<u64>) {
    counter!("realtime_skipped_total", "reason" => reason).increment(1);
    warn!(company = %company, reason, seq, "an event was not delivered");
}
