//! How a client may behave, whichever door it came by: so many frames, and so many bad ones. The clock is the caller's.

use metrics::counter;
use tokio::time::Instant;

use crate::bucket::Bucket;
use crate::close::CloseReason;
use crate::command::Failure;

/// A client may send the frames of so many seconds at once.
const BURST_SECONDS: u32 = 3;
/// Malformed or over-limit frames at once before the socket is closed, …
const STRIKES: u32 = 100;
/// … and how many are forgiven a second.
const FORGIVEN_PER_SECOND: u32 = 1;

/// What one client has used up.
#[derive(Clone, Copy, Debug)]
pub struct Conduct {
    frames: Bucket,
    strikes: Bucket,
}

impl Conduct {
    /// Of one that has done nothing yet.
    pub fn new(frames_per_second: u32, now: Instant) -> Conduct {
        Conduct {
            frames: Bucket::new(frames_per_second.saturating_mul(BURST_SECONDS), frames_per_second, now),
            strikes: Bucket::new(STRIKES, FORGIVEN_PER_SECOND, now),
        }
    }

    /// A frame has come.
    ///
    /// # Errors
    /// One too many: it is not to be looked at, but is a bad frame.
    pub fn frame(&mut self, now: Instant) -> Result<(), Failure> {
        if self.frames.take(now) { Ok(()) } else { Err(Failure::RATE_LIMITED) }
    }

    /// It was a bad one.
    ///
    /// # Errors
    /// One too many: the socket shall close.
    pub fn strike(&mut self, failure: Failure, now: Instant) -> Result<(), CloseReason> {
        counter!("realtime_bad_frames_total", "code" => failure.code).increment(1);
        if self.strikes.take(now) { Ok(()) } else { Err(CloseReason::Flood) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn frames_come_back_with_time_and_too_many_bad_ones_end_it() {
        let start = Instant::now();
        let mut conduct = Conduct::new(2, start);
        let good = |conduct: &mut Conduct, now| (0..99).filter(|_| conduct.frame(now).is_ok()).count();
        assert_eq!(good(&mut conduct, start), 6);
        assert_eq!(good(&mut conduct, start + Duration::from_secs(1)), 2);
        let struck = (0..200).filter(|_| conduct.strike(Failure::RATE_LIMITED, start).is_ok()).count();
        assert_eq!(struck, STRIKES as usize);
        assert_eq!(conduct.strike(Failure::RATE_LIMITED, start), Err(CloseReason::Flood));
    }
}
