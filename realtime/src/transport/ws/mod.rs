//! The transport `/ws`: plain WebSocket with JSON frames. What an event is, who gets it and what a
//! command does is not known here.

pub mod connection;
mod frame;
mod handler;
mod socket;
pub mod upgrade;

pub use handler::routes;
