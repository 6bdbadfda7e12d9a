//! The dead letters as the handlers use them: few requests at a time, for each letter that is
//! looked at comes with its payload, up to 512 KiB.

use contract::Timestamp;
use runtime::dead_letters::DeadLetters;
use runtime::net::connection::Connection;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::api::problem::Problem;

/// Requests about dead letters that a gateway works on; beyond it 503.
const MAX_AT_A_TIME: usize = 8;

/// The letters, and the turns of those who ask for them.
pub struct DeadLetterAccess {
    letters: DeadLetters,
    turns: Semaphore,
}

impl DeadLetterAccess {
    /// Over this connection.
    pub fn new(connection: Connection) -> DeadLetterAccess {
        DeadLetterAccess {
            letters: DeadLetters::new(connection, Timestamp::now),
            turns: Semaphore::new(MAX_AT_A_TIME),
        }
    }

    /// The letters, for as long as the turn is kept.
    ///
    /// # Errors
    /// [`Problem::Overloaded`]
    pub fn turn(&self) -> Result<(&DeadLetters, SemaphorePermit<'_>), Problem> {
        let turn = self.turns.try_acquire().map_err(|_| Problem::Overloaded)?;
        Ok((&self.letters, turn))
    }
}
