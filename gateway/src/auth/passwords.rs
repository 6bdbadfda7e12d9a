//! Password hashes: bcrypt outside the async threads, no more at a time than there are cores.
//! Counts no failures: `lockout` does.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use contract::trace::TraceContext;
use contract::{Id, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::problem::Problem;

/// How long a login waits for a core. Beyond it the login gets 503.
const PASSWORD_WAIT: Duration = Duration::from_secs(2);
/// The length of a password in bytes. A longer one is refused, because bcrypt reads no more than 72
/// bytes and would cut it silently.
pub const PASSWORD_BYTES: RangeInclusive<usize> = 8..=72;

/// Hashes passwords and compares with hashes.
#[derive(Clone)]
pub struct Passwords {
    rounds: u32,
    slots: Arc<Semaphore>,
    /// The hash to compare with if there is no such user. Otherwise the quicker answer would tell
    /// that there is none.
    decoy: Arc<str>,
}

/// The permit to use one core.
pub type Permit = OwnedSemaphorePermit;

impl Passwords {
    /// `rounds` is the cost of a hash. Takes as long as one login.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn new(rounds: u32) -> Result<Passwords, bcrypt::BcryptError> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let nobodys = format!(
            "{}{}",
            Id::generate(Timestamp::now()),
            TraceContext::generate().trace_id()
        );
        let decoy = bcrypt::hash(nobodys, rounds)?.into();
        Ok(Passwords {
            rounds,
            slots: Arc::new(Semaphore::new(cores)),
            decoy,
        })
    }

    /// Waits for a core.
    ///
    /// # Errors
    /// [`Problem::Overloaded`] if no core is free within [`PASSWORD_WAIT`].
    pub async fn acquire(&self) -> Result<Permit, Problem> {
        match tokio::time::timeout(PASSWORD_WAIT, self.slots.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Problem::Overloaded),
        }
    }

    /// The hash of a new password.
    ///
    /// # Errors
    /// As [`Passwords::acquire`].
    pub async fn hash(&self, password: String) -> Result<String, Problem> {
        let (permit, rounds) = (self.acquire().await?, self.rounds);
        blocking(permit, move || bcrypt::hash(password, rounds))
            .await?
            .map_err(|e| {
                tracing::error!(error = %e, "a password cannot be hashed");
                Problem::Internal
            })
    }

    /// Whether the password is the user's. Takes as long for a user that does not exist, who has no
    /// hash.
    ///
    /// # Errors
    /// [`Problem::Internal`] if the task panics.
    pub async fn check(
        &self,
        permit: Permit,
        password: String,
        hash: Option<String>,
    ) -> Result<bool, Problem> {
        // Nobody has a password of another length, and of a longer one bcrypt would compare the
        // beginning.
        let possible = hash.is_some() && PASSWORD_BYTES.contains(&password.len());
        let hash = hash.unwrap_or_else(|| self.decoy.to_string());
        let matches = blocking(permit, move || {
            bcrypt::verify(password, &hash).unwrap_or(false)
        })
        .await?;
        Ok(matches && possible)
    }
}

/// Runs `work` where it may block. The permit goes with the work, because a caller who goes away
/// does not end it.
async fn blocking<T: Send + 'static>(
    permit: Permit,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    let work = move || {
        let done = work();
        drop(permit);
        done
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Problem::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_compared_with_its_hash_and_nobody_has_the_decoys() {
        let passwords = Passwords::new(4).unwrap();
        let hash = passwords.hash("correct horse".into()).await.unwrap();
        let check = async |password: &str, hash: Option<&String>| {
            let permit = passwords.acquire().await.unwrap();
            passwords
                .check(permit, password.into(), hash.cloned())
                .await
                .unwrap()
        };
        assert!(check("correct horse", Some(&hash)).await);
        assert!(!check("wrong horse", Some(&hash)).await);
        assert!(!check("anything", None).await);
    }

    #[tokio::test]
    async fn a_password_is_compared_to_its_end() {
        let passwords = Passwords::new(4).unwrap();
        let longest = "x".repeat(*PASSWORD_BYTES.end());
        let hash = passwords.hash(longest.clone()).await.unwrap();
        assert!(
            passwords
                .check(
                    passwords.acquire().await.unwrap(),
                    longest.clone(),
                    Some(hash.clone())
                )
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .check(
                    passwords.acquire().await.unwrap(),
                    longest + "y",
                    Some(hash)
                )
                .await
                .unwrap()
        );
    }
}
