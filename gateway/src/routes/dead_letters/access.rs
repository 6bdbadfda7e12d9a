//! The handlers' access to the dead letters: few requests at a time, because each dead letter that
//! is looked at comes with its payload, up to 512 KiB.

use contract::Timestamp;
use runtime::dead_letters::DeadLetters;
use runtime::net::connection::Connection;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::api::problem::Problem;

/// Requests about dead letters that one gateway works on at a time. Further ones get 503.
const MAX_AT_A_TIME: usize = 8;

/// The dead letters, and the permits of the requests about them.
pub struct DeadLetterAccess {
    dead_letters: DeadLetters,
    permits: Semaphore,
}

impl DeadLetterAccess {
    pub fn new(connection: Connection) -> DeadLetterAccess {
        DeadLetterAccess {
            dead_letters: DeadLetters::new(connection, Timestamp::now),
            permits: Semaphore::new(MAX_AT_A_TIME),
        }
    }

    /// The dead letters, for as long as the permit is kept.
    ///
    /// # Errors
    /// [`Problem::Overloaded`] if no permit is free.
    pub fn acquire(&self) -> Result<(&DeadLetters, SemaphorePermit<'_>), Problem> {
        let permit = self
            .permits
            .try_acquire()
            .map_err(|_| Problem::Overloaded)?;
        Ok((&self.dead_letters, permit))
    }
}
