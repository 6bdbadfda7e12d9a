//! What a node knows of the other realtime nodes. Delivers no event.

pub mod heartbeat;
pub mod membership;
pub mod presence_exchange;
