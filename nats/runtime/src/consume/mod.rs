//! Durable consumers: the worker loop, pinned consumers and the pull below both. Publishes nothing but
//! dead letters.

pub mod pinned_consumer;
mod pull;
pub mod worker;
