//! How many frames a client may send, and how many bad ones, whichever its transport. Closes no
//! socket; the clock is the caller's.

use metrics::counter;
use tokio::time::Instant;

use super::command::Failure;
use super::token_bucket::TokenBucket;
use crate::config::Limits;
use crate::room::close_reason::CloseReason;

/// The frames of this many seconds may come at once, and one join for each conversation that the
/// client may join. Because pages join all their conversations when they connect, fewer would
/// refuse a page that behaves well.
const BURST_SECONDS: u32 = 3;
/// Violations, which are malformed or over-limit frames, that a client may commit at once. Beyond
/// them, the socket is closed with 4009.
const VIOLATIONS: u32 = 100;
/// Violations that are forgiven each second.
const FORGIVEN_PER_SECOND: u32 = 1;

/// The frames and violations of one client.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    frames: TokenBucket,
    violations: TokenBucket,
}

impl RateLimit {
    /// For a client that has sent nothing yet.
    pub fn new(limits: &Limits, now: Instant) -> RateLimit {
        let joins = u32::try_from(limits.rooms).unwrap_or(u32::MAX);
        let burst = limits
            .frames_per_second
            .saturating_mul(BURST_SECONDS)
            .saturating_add(joins);
        RateLimit {
            frames: TokenBucket::new(burst, limits.frames_per_second, now),
            violations: TokenBucket::new(VIOLATIONS, FORGIVEN_PER_SECOND, now),
        }
    }

    /// Counts a frame.
    ///
    /// # Errors
    /// The frame is over the limit. It must not be read, and is a violation.
    pub fn frame(&mut self, now: Instant) -> Result<(), Failure> {
        if self.frames.take(now) {
            Ok(())
        } else {
            Err(Failure::RATE_LIMITED)
        }
    }

    /// Counts a violation. An event that does not exist is none: pages of the Express backend send
    /// some for as long as they are open.
    ///
    /// # Errors
    /// The client has committed too many. The socket must close.
    pub fn violation(&mut self, failure: Failure, now: Instant) -> Result<(), CloseReason> {
        counter!("realtime_bad_frames_total", "code" => failure.code).increment(1);
        if failure == Failure::UNKNOWN_EVENT || self.violations.take(now) {
            Ok(())
        } else {
            Err(CloseReason::Flood)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use runtime::service::settings::Settings;
    use std::time::Duration;

    fn limits(rooms: usize, frames_per_second: u32) -> Limits {
        Limits {
            rooms,
            frames_per_second,
            ..Config::read(&mut Settings::of([])).limits
        }
    }

    #[test]
    fn a_page_may_join_all_its_conversations_at_once() {
        let (rooms, now) = (1_000, Instant::now());
        let mut rate_limit = RateLimit::new(&limits(rooms, 20), now);
        assert!(
            (0..=rooms).all(|_| rate_limit.frame(now).is_ok()),
            "the joins, and the packet with the token"
        );
        assert!(
            (0..rooms).any(|_| rate_limit.frame(now).is_err()),
            "there is a bound"
        );
    }

    #[test]
    fn frames_are_allowed_again_with_time_and_too_many_violations_close_the_socket() {
        let start = Instant::now();
        let mut rate_limit = RateLimit::new(&limits(1, 2), start);
        let allowed = |rate_limit: &mut RateLimit, now| {
            (0..99).filter(|_| rate_limit.frame(now).is_ok()).count()
        };
        assert_eq!(allowed(&mut rate_limit, start), 6 + 1);
        assert_eq!(allowed(&mut rate_limit, start + Duration::from_secs(1)), 2);
        assert!((0..200).all(|_| {
            let unknown = rate_limit.violation(Failure::UNKNOWN_EVENT, start);
            unknown.is_ok()
        }));
        let tolerated = (0..200)
            .filter(|_| rate_limit.violation(Failure::RATE_LIMITED, start).is_ok())
            .count();
        assert_eq!(tolerated, VIOLATIONS as usize);
        assert_eq!(
            rate_limit.violation(Failure::RATE_LIMITED, start),
            Err(CloseReason::Flood)
        );
    }
}
