//! The pause before a failed call is repeated: exponential with full jitter. Knows no clock and no
//! randomness.

use std::time::Duration;

/// The bounds of the pauses of one kind of call.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Longest pause after the first failed call. It doubles with each further failure.
    pub first: Duration,
    /// The doubling ends here.
    pub longest: Duration,
    /// Shortest pause. Otherwise full jitter may draw next to nothing.
    pub shortest: Duration,
    /// Longest `Retry-After` that is obeyed. A longer one counts as this one.
    pub longest_retry_after: Duration,
}

impl Backoff {
    /// The pause after the call number `attempt` (from 1) has failed. `jitter` is uniform in 0..1.
    /// The time that the other side asked for, `retry_after`, is the least pause.
    pub fn pause(&self, attempt: u64, retry_after: Option<Duration>, jitter: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31) as u32;
        let most = self.first.saturating_mul(1 << doublings).min(self.longest);
        let drawn = most.mul_f64(jitter.clamp(0.0, 1.0)).max(self.shortest);
        let asked = retry_after
            .unwrap_or_default()
            .min(self.longest_retry_after);
        drawn.max(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(5 * 60),
        shortest: Duration::from_millis(100),
        longest_retry_after: Duration::from_secs(60 * 60),
    };

    fn pause(attempt: u64, retry_after: Option<u64>, jitter: f64) -> Duration {
        BACKOFF.pause(attempt, retry_after.map(Duration::from_secs), jitter)
    }

    #[test]
    fn the_upper_bound_doubles_up_to_the_longest() {
        for (attempt, seconds) in [
            (0, 1),
            (1, 1),
            (2, 2),
            (3, 4),
            (9, 256),
            (10, 300),
            (64, 300),
            (u64::MAX, 300),
        ] {
            assert_eq!(
                pause(attempt, None, 1.0),
                Duration::from_secs(seconds),
                "attempt {attempt}"
            );
        }
    }

    #[test]
    fn jitter_draws_from_the_whole_range_but_never_nothing() {
        assert_eq!(pause(3, None, 0.5), Duration::from_secs(2));
        assert_eq!(pause(1, None, 0.0), BACKOFF.shortest);
    }

    #[test]
    fn retry_after_is_the_least_pause_and_is_clamped() {
        assert_eq!(pause(1, Some(30), 1.0), Duration::from_secs(30));
        assert_eq!(pause(10, Some(30), 1.0), BACKOFF.longest);
        assert_eq!(
            pause(1, Some(86_400 * 365), 1.0),
            BACKOFF.longest_retry_after
        );
    }
}
