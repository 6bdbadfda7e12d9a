//! How a client may behave, whichever door it came by: so many frames, and so many bad ones. The
//! clock is the caller's.

use metrics::counter;
use tokio::time::Instant;

use crate::config::Limits;
use crate::room::close_reason::CloseReason;
use crate::subscriber::command::Failure;
use crate::subscriber::token_bucket::TokenBucket;

/// A client may send the frames of so many seconds at once, and a join for each conversation that
/// it may have joined: pages do that when they connect.
const BURST_SECONDS: u32 = 3;
/// Malformed or over-limit frames at once before the socket is closed, …
const STRIKES: u32 = 100;
/// … and how many are forgiven a second.
const FORGIVEN_PER_SECOND: u32 = 1;

/// What one client has used up.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    frames: TokenBucket,
    strikes: TokenBucket,
}

impl RateLimit {
    /// Of one that has done nothing yet.
    pub fn new(limits: &Limits, now: Instant) -> RateLimit {
        let joins = u32::try_from(limits.rooms).unwrap_or(u32::MAX);
        let burst = limits
            .frames_per_second
            .saturating_mul(BURST_SECONDS)
            .saturating_add(joins);
        RateLimit {
            frames: TokenBucket::new(burst, limits.frames_per_second, now),
            strikes: TokenBucket::new(STRIKES, FORGIVEN_PER_SECOND, now),
        }
    }

    /// A frame has come.
    ///
    /// # Errors
    /// One too many: it is not to be looked at, but is a bad frame.
    pub fn frame(&mut self, now: Instant) -> Result<(), Failure> {
        if self.frames.take(now) {
            Ok(())
        } else {
            Err(Failure::RATE_LIMITED)
        }
    }

    /// It was a bad one.
    ///
    /// # Errors
    /// One too many: the socket shall close.
    pub fn strike(&mut self, failure: Failure, now: Instant) -> Result<(), CloseReason> {
        counter!("realtime_bad_frames_total", "code" => failure.code).increment(1);
        if self.strikes.take(now) {
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

    /// So many conversations, and frames a second.
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
            "and say who it is"
        );
        assert!(
            (0..rooms).any(|_| rate_limit.frame(now).is_err()),
            "there is a bound"
        );
    }

    #[test]
    fn frames_come_back_with_time_and_too_many_bad_ones_end_it() {
        let start = Instant::now();
        let mut rate_limit = RateLimit::new(&limits(1, 2), start);
        let good = |rate_limit: &mut RateLimit, now| {
            (0..99).filter(|_| rate_limit.frame(now).is_ok()).count()
        };
        assert_eq!(good(&mut rate_limit, start), 6 + 1);
        assert_eq!(good(&mut rate_limit, start + Duration::from_secs(1)), 2);
        let struck = (0..200)
            .filter(|_| rate_limit.strike(Failure::RATE_LIMITED, start).is_ok())
            .count();
        assert_eq!(struck, STRIKES as usize);
        assert_eq!(
            rate_limit.strike(Failure::RATE_LIMITED, start),
            Err(CloseReason::Flood)
        );
    }
}
