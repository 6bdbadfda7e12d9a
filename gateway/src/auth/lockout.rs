//! Lockout: five failed logins of one email within 15 minutes lock the email for 15 more, on all
//! gateways, whether there is such a user or not. An attempt counts *before* its password is
//! checked. Otherwise many attempts at once would be more than five. Checks no password.

use std::fmt::Write;
use std::time::Duration;

use contract::Timestamp;
use contract::domain::Email;
use contract::inventory::{self, LOCKOUT_WINDOW};
use metrics::counter;
use runtime::net::connection::Connection;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::api::problem::Problem;
use runtime::kv::bucket::{Bucket, BucketError};

/// The attempts within the window that lock an email.
const ATTEMPTS: usize = 5;
/// How often the writing of an attempt may be overtaken by other attempts of the same email. Beyond
/// it the attempt is refused. Of attempts at the same moment one is written each time.
const TRIES: u32 = 3 * ATTEMPTS as u32;

/// The bucket `lockouts`.
#[derive(Clone)]
pub struct Lockout {
    bucket: Bucket,
}

/// The attempts of one email that have failed or are being checked, oldest first, as the bucket
/// keeps them. The key is a digest of the email.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Attempts {
    at: Vec<Timestamp>,
}

/// How long a lock still lasts.
#[derive(Debug, PartialEq, Eq)]
struct Locked(Duration);

impl Attempts {
    /// The attempts that still count, and one more at `now`, unless the email is locked.
    fn with(self, now: Timestamp) -> Result<Attempts, Locked> {
        if let Some(last) = self.at.get(ATTEMPTS - 1) {
            let left = last.plus(LOCKOUT_WINDOW).since(now);
            if !left.is_zero() {
                return Err(Locked(left));
            }
        }
        let mut at = self.at;
        at.retain(|at| now.since(*at) < LOCKOUT_WINDOW);
        at.push(now);
        Ok(Attempts { at })
    }
}

impl Lockout {
    pub fn new(connection: Connection) -> Lockout {
        Lockout {
            bucket: Bucket::new(connection, inventory::LOCKOUTS),
        }
    }

    /// Counts an attempt that is about to be checked.
    ///
    /// # Errors
    /// [`Problem::Locked`] after five attempts. The attempt must not be checked after any error,
    /// because it was not counted.
    pub async fn reserve(&self, email: &Email) -> Result<(), Problem> {
        let key = key(email);
        for _ in 0..TRIES {
            let entry = self.bucket.read::<Attempts>(&key).await?;
            let attempts = entry
                .value
                .unwrap_or_default()
                .with(Timestamp::now())
                .map_err(|Locked(left)| {
                    counter!("login_refused_total", "reason" => "locked").increment(1);
                    Problem::Locked { left }
                })?;
            match self
                .bucket
                .write(&key, &attempts, entry.revision, LOCKOUT_WINDOW)
                .await
            {
                Ok(()) => {
                    if attempts.at.len() == ATTEMPTS {
                        warn!(key, "unless this login is good, the email is locked");
                    }
                    return Ok(());
                }
                Err(BucketError::Overtaken) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(BucketError::Overtaken.into())
    }

    /// Forgets the attempts, because the password was right. If the bucket does not answer they go
    /// on counting, which harms nobody.
    pub async fn forget(&self, email: &Email) {
        // An error is in the log by now.
        let _ = self.bucket.remove(&key(email), None).await;
    }
}

/// The key of an email: a digest, so that the bucket does not tell whose logins fail.
fn key(email: &Email) -> String {
    Sha256::digest(email.as_str())
        .iter()
        .fold(String::new(), |mut key, byte| {
            let _ = write!(key, "{byte:02x}"); // a String takes everything
            key
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(minute: u64) -> Timestamp {
        Timestamp::from_millis(1_760_000_000_000).plus(Duration::from_secs(60 * minute))
    }

    fn attempts(minutes: &[u64]) -> Attempts {
        Attempts {
            at: minutes.iter().map(|m| minute(*m)).collect(),
        }
    }

    #[test]
    fn the_sixth_attempt_is_refused_for_a_window_after_the_fifth() {
        let five = || attempts(&[0, 3, 6, 9, 14]);
        assert_eq!(five().with(minute(14)).unwrap_err(), Locked(LOCKOUT_WINDOW));
        // The first failure is over the window by now; the lock is not.
        assert_eq!(
            five().with(minute(28)).unwrap_err(),
            Locked(Duration::from_secs(60))
        );
        assert_eq!(five().with(minute(29)).unwrap().at, [minute(29)]);
    }

    #[test]
    fn attempts_older_than_the_window_do_not_count() {
        assert_eq!(
            attempts(&[0, 1, 2, 3]).with(minute(16)).unwrap().at,
            [2, 3, 16].map(minute)
        );
        assert_eq!(Attempts::default().with(minute(0)).unwrap().at, [minute(0)]);
    }

    #[test]
    fn the_key_is_a_digest_that_ignores_case() {
        let email = |text| Email::new(text).unwrap();
        assert_eq!(
            key(&email("Ada@Example.com")),
            key(&email("ada@example.com"))
        );
        assert_eq!(key(&email("abc@example.com")).len(), 64);
    }
}
