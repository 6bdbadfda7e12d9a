//! Password hashes: bcrypt off the async threads, no more at a time than there are cores. Counts no
//! failures; see `lockout`.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use contract::trace::TraceContext;
use contract::{Id, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::problem::Problem;

/// How long a login waits for its turn.
const PASSWORD_WAIT: Duration = Duration::from_secs(2);
/// bcrypt reads no more than 72 bytes; a longer password would be cut silently.
pub const PASSWORD_BYTES: RangeInclusive<usize> = 8..=72;

/// Hashes passwords and compares with hashes.
#[derive(Clone)]
pub struct Passwords {
    rounds: u32,
    slots: Arc<Semaphore>,
    /// Compared against where there is no such user, so that the answer takes as long.
    decoy: Arc<str>,
}

/// The turn to use one core.
pub type Turn = OwnedSemaphorePermit;

impl Passwords {
    /// With this cost. Takes as long as one login.
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

    /// Waits for a turn.
    ///
    /// # Errors
    /// [`Problem::Overloaded`] if none comes within [`PASSWORD_WAIT`].
    pub async fn turn(&self) -> Result<Turn, Problem> {
        match tokio::time::timeout(PASSWORD_WAIT, self.slots.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Problem::Overloaded),
        }
    }

    /// The hash to store.
    ///
    /// # Errors
    /// As [`Passwords::turn`].
    pub async fn hash(&self, password: String) -> Result<String, Problem> {
        let (turn, rounds) = (self.turn().await?, self.rounds);
        blocking(turn, move || bcrypt::hash(password, rounds))
            .await?
            .map_err(|e| {
                tracing::error!(error = %e, "a password cannot be hashed");
                Problem::Internal
            })
    }

    /// Whether it is the user's password; as slow for a user that does not exist.
    ///
    /// # Errors
    /// None but a bug of ours.
    pub async fn check(
        &self,
        turn: Turn,
        password: String,
        hash: Option<String>,
    ) -> Result<bool, Problem> {
        // Nobody has a password of another length, and bcrypt would compare a longer one's
        // beginning.
        let possible = hash.is_some() && PASSWORD_BYTES.contains(&password.len());
        let hash = hash.unwrap_or_else(|| self.decoy.to_string());
        let matches = blocking(turn, move || {
            bcrypt::verify(password, &hash).unwrap_or(false)
        })
        .await?;
        Ok(matches && possible)
    }
}

/// The turn goes with the work: a caller who leaves does not end it.
async fn blocking<T: Send + 'static>(
    turn: Turn,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    let work = move || {
        let done = work();
        drop(turn);
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
    async fn passwords_are_checked_and_nobody_has_the_decoys() {
        let passwords = Passwords::new(4).unwrap();
        let hash = passwords.hash("correct horse".into()).await.unwrap();
        let check = async |password: &str, hash: Option<&String>| {
            let turn = passwords.turn().await.unwrap();
            passwords
                .check(turn, password.into(), hash.cloned())
                .await
                .unwrap()
        };
        assert!(check("correct horse", Some(&hash)).await);
        assert!(!check("wrong horse", Some(&hash)).await);
        assert!(!check("anything", None).await);
    }

    #[tokio::test]
    async fn a_password_is_compared_whole() {
        let passwords = Passwords::new(4).unwrap();
        let longest = "x".repeat(*PASSWORD_BYTES.end());
        let hash = passwords.hash(longest.clone()).await.unwrap();
        assert!(
            passwords
                .check(
                    passwords.turn().await.unwrap(),
                    longest.clone(),
                    Some(hash.clone())
                )
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .check(passwords.turn().await.unwrap(), longest + "y", Some(hash))
                .await
                .unwrap()
        );
    }
}
