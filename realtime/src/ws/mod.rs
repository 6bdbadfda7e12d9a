//! The door `/ws`: plain WebSocket with JSON frames. What an event is, who gets it and what a
//! command does is not known here.

mod door;
mod frame;
pub mod pipe;
mod socket;
pub mod upgrade;
pub mod wire;

pub use door::routes;
