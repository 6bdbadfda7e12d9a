//! A token bucket, for one socket's rates. The clock is the caller's.

use tokio::time::Instant;

/// So many at once, and so many a second on.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    left: f64,
    burst: f64,
    per_second: f64,
    at: Instant,
}

impl TokenBucket {
    /// Full.
    pub fn new(burst: u32, per_second: u32, now: Instant) -> TokenBucket {
        TokenBucket {
            left: f64::from(burst),
            burst: f64::from(burst),
            per_second: f64::from(per_second),
            at: now,
        }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.left = (self.left + gained).min(self.burst);
        self.at = now;
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn gives_the_burst_then_the_rate() {
        let start = Instant::now();
        let mut token_bucket = TokenBucket::new(3, 2, start);
        let taken = |token_bucket: &mut TokenBucket, now| {
            (0..10).filter(|_| token_bucket.take(now)).count()
        };
        assert_eq!(taken(&mut token_bucket, start), 3);
        assert_eq!(taken(&mut token_bucket, start + Duration::from_secs(1)), 2);
        assert_eq!(taken(&mut token_bucket, start + Duration::from_secs(60)), 3);
    }
}
