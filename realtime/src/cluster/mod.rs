//! What a node knows of the other realtime nodes and of the NATS cluster. Delivers no event.

pub mod heartbeat;
pub mod leader;
pub mod membership;
pub mod presence_exchange;
