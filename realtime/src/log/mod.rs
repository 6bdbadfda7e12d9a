//! What a room gets from the log: events as they are stored, and what was missed. Writes nothing to
//! the log.

pub mod catch_up;
pub mod feed;
mod merge;
