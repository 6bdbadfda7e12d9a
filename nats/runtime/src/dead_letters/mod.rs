//! Dead letters as operators and managers see them: look through them, look at one, replay them,
//! discard one. The dead letters are in the stream `DEAD`, which nobody changes; what became of
//! each is in the bucket `dead-letters`. Which message becomes a dead letter is not decided here.

mod filter;
mod list;
mod model;
mod replay;
mod resolution;
pub mod store;

pub use filter::{Filter, ServiceName, StateFilter};
pub use list::{DeadLetters, MAX_DEAD_LETTERS, MAX_SCANNED};
pub use model::{DeadLetter, DeadLetterDetail, DeadLetterError, DeadLetterPage, Scope};
pub use replay::{MAX_REPLAYS, Mode, Replayed, Skipped};
