//! The transport `/socket.io/`: Socket.IO 4 (Engine.IO protocol 4, Socket.IO protocol 5) by
//! WebSocket and by polling, for the clients of the Express backend. What an event is, who gets it
//! and what a command does is not known here.

mod client;
mod engine;
mod handler;
mod packet;
mod polling;
mod sessions;
mod websocket;

pub use handler::routes;
