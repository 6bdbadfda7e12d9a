//! Buckets of NATS KV, and what is watched in them. Knows no service that writes them, except the bot probe.

pub mod bot_watch;
pub mod bucket;
