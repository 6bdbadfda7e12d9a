//! What a room and its sockets get from the log: events as they are stored, and events that were
//! missed. Writes nothing to the log.

pub mod catch_up;
pub mod feed;
mod merge;
