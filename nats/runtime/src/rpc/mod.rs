//! Requests over NATS: queries to the persister, and the outcome of a write. Keeps no state.

pub mod outcome;
pub mod query;
