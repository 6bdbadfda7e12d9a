//! Buckets of NATS KV, and a check that watches one entry. Knows no service that writes them,
//! except the probe of the bot.

pub mod bot_watch;
pub mod bucket;
