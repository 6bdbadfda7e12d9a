//! Latency histograms and their figures in the result.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Longest latency that is told apart, in microseconds; a longer one counts as this.
const MAX_MICROS: u64 = 600_000_000;
/// Significant digits.
const PRECISION: u8 = 3;

/// Latencies in microseconds, from 1 µs to 10 min.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    #[expect(
        clippy::expect_used,
        reason = "the bounds are constants that the library takes"
    )]
    pub fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(1, MAX_MICROS, PRECISION).expect("valid bounds"))
    }

    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(MAX_MICROS);
        self.0.saturating_record(micros.max(1));
    }

    #[expect(clippy::expect_used, reason = "all histograms have the same bounds")]
    pub fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("same bounds");
    }

    pub fn reset(&mut self) {
        self.0.reset();
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Count, mean and percentiles in milliseconds.
    pub fn figures(&self) -> Value {
        if self.0.is_empty() {
            return json!({"n": 0});
        }
        let millis = |micros: u64| round(micros as f64 / 1000.0);
        json!({
            "n": self.0.len(),
            "mean_ms": round(self.0.mean() / 1000.0),
            "p50_ms": millis(self.0.value_at_quantile(0.50)),
            "p95_ms": millis(self.0.value_at_quantile(0.95)),
            "p99_ms": millis(self.0.value_at_quantile(0.99)),
            "max_ms": millis(self.0.max()),
        })
    }
}

/// Two decimals.
pub fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}
