//! When a failed call is repeated: exponential with full jitter until the message is too old. Knows no clock and no randomness.

use std::time::Duration;

use nats::Timestamp;

/// Longest pause after the first failed call. It doubles with each further one.
pub const FIRST: Duration = Duration::from_secs(1);
/// It doubles up to this.
pub const LONGEST: Duration = Duration::from_secs(5 * 60);
/// Full jitter may draw next to nothing; a bot that has just failed gets at least this.
pub const SHORTEST: Duration = Duration::from_millis(100);
/// Longest `Retry-After` that is obeyed: a wrong header must not use up a message's day.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);
/// Meta lets a company answer for 24 hours; a message older than that is not sent any more.
pub const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether a message is too old to be sent at all.
pub fn is_expired(accepted_at: Timestamp, now: Timestamp) -> bool {
    now.since(accepted_at) >= MAX_AGE
}

/// The pause after the call number `attempt` (from 1) has failed; `None` if the message would be too old then. `jitter` is
/// uniform in 0..1. What the bot asked for (`retry_after`) is the least pause.
pub fn pause(attempt: u64, retry_after: Option<Duration>, accepted_at: Timestamp, now: Timestamp, jitter: f64) -> Option<Duration> {
    let doublings = attempt.saturating_sub(1).min(31) as u32;
    let most = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    let drawn = most.mul_f64(jitter.clamp(0.0, 1.0)).max(SHORTEST);
    let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
    let pause = drawn.max(asked);
    (!is_expired(accepted_at, now.plus(pause))).then_some(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_760_000_000_000);

    fn at(attempt: u64, retry_after: Option<u64>, jitter: f64) -> Option<Duration> {
        pause(attempt, retry_after.map(Duration::from_secs), START, START, jitter)
    }

    #[test]
    fn the_upper_bound_doubles_from_one_second_to_five_minutes() {
        for (attempt, seconds) in [(1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (64, 300), (u64::MAX, 300)] {
            assert_eq!(at(attempt, None, 1.0), Some(Duration::from_secs(seconds)), "attempt {attempt}");
        }
    }

    #[test]
    fn jitter_draws_from_the_whole_range_but_never_nothing() {
        assert_eq!(at(3, None, 0.5), Some(Duration::from_secs(2)));
        assert_eq!(at(1, None, 0.0), Some(SHORTEST));
    }

    #[test]
    fn retry_after_is_the_least_pause_and_is_clamped() {
        assert_eq!(at(1, Some(30), 1.0), Some(Duration::from_secs(30)));
        assert_eq!(at(10, Some(30), 1.0), Some(LONGEST));
        assert_eq!(at(1, Some(86_400 * 365), 1.0), Some(LONGEST_RETRY_AFTER));
    }

    #[test]
    fn a_message_ends_with_its_day() {
        let late = START.plus(MAX_AGE - Duration::from_secs(10));
        assert!(!is_expired(START, late) && is_expired(START, START.plus(MAX_AGE)));
        assert_eq!(pause(3, None, START, late, 1.0), Some(Duration::from_secs(4)));
        assert_eq!(pause(5, None, START, late, 1.0), None);
    }
}
