//! The pause before a failed call is repeated: exponential with full jitter. Knows no clock and no
//! randomness.

use std::time::Duration;

/// The longest pause after the first failed call. Each further failure doubles the longest pause.
pub const FIRST: Duration = Duration::from_secs(1);
/// The default for where the doubling ends.
pub const LONGEST: Duration = Duration::from_secs(5 * 60);
/// The shortest pause. Otherwise full jitter could draw next to nothing for a bot that has just failed.
pub const SHORTEST: Duration = Duration::from_millis(100);
/// The longest `Retry-After` that is obeyed. Otherwise a wrong header could outlast a message's
/// deadline.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// The pause after the call number `attempt` (from 1) has failed. `jitter` is uniform in 0..1. The
/// pause is never shorter than `retry_after`, which the bot asked for. `longest` bounds only the drawn
/// part.
pub fn pause(
    attempt: u64,
    retry_after: Option<Duration>,
    longest: Duration,
    jitter: f64,
) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31) as u32;
    let most = FIRST.saturating_mul(1 << doublings).min(longest);
    let drawn = most.mul_f64(jitter.clamp(0.0, 1.0)).max(SHORTEST);
    let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
    drawn.max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(attempt: u64, retry_after: Option<u64>, jitter: f64) -> Duration {
        pause(
            attempt,
            retry_after.map(Duration::from_secs),
            LONGEST,
            jitter,
        )
    }

    #[test]
    fn the_upper_bound_doubles_from_one_second_to_five_minutes() {
        for (attempt, seconds) in [
            (1, 1),
            (2, 2),
            (3, 4),
            (9, 256),
            (10, 300),
            (64, 300),
            (u64::MAX, 300),
        ] {
            assert_eq!(
                at(attempt, None, 1.0),
                Duration::from_secs(seconds),
                "attempt {attempt}"
            );
        }
    }

    #[test]
    fn jitter_draws_from_the_whole_range_but_never_nothing() {
        assert_eq!(at(3, None, 0.5), Duration::from_secs(2));
        assert_eq!(at(1, None, 0.0), SHORTEST);
    }

    #[test]
    fn retry_after_is_the_least_pause_and_is_clamped() {
        assert_eq!(at(1, Some(30), 1.0), Duration::from_secs(30));
        assert_eq!(at(10, Some(30), 1.0), LONGEST);
        assert_eq!(at(1, Some(86_400 * 365), 1.0), LONGEST_RETRY_AFTER);
    }
}
