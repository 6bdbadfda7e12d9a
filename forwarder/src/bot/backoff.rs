//! The pauses before a failed call to the bot is repeated. The formula is that of all services, see
//! [`Backoff`].

use std::time::Duration;

use runtime::net::backoff::Backoff;

/// The longest pause after the first failed call. Each further failure doubles the longest pause.
pub const FIRST: Duration = Duration::from_secs(1);
/// The default for where the doubling ends.
pub const LONGEST: Duration = Duration::from_secs(5 * 60);
/// The shortest pause. Otherwise full jitter could draw next to nothing for a bot that has just
/// failed.
pub const SHORTEST: Duration = Duration::from_millis(100);
/// The longest `Retry-After` that is obeyed. Otherwise a wrong header could outlast a message's
/// deadline.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// The pause after the call number `attempt` (from 1) has failed. `longest` bounds only the drawn
/// part, not the time that the bot asked for.
pub fn pause(
    attempt: u64,
    retry_after: Option<Duration>,
    longest: Duration,
    jitter: f64,
) -> Duration {
    let backoff = Backoff {
        first: FIRST,
        longest,
        shortest: SHORTEST,
        longest_retry_after: LONGEST_RETRY_AFTER,
    };
    backoff.pause(attempt, retry_after, jitter)
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
