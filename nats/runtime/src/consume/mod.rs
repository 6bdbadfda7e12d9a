//! Durable consumers: the worker loop, pinned consumers and the pull below both. Publishes nothing
//! but dead letters.

mod delivery;
mod durable;
pub mod pinned_consumer;
mod pull;
pub mod worker;
