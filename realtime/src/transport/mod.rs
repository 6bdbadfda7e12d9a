//! The protocols by which a client is connected: plain WebSocket and Socket.IO. What an event is,
//! and who gets it, is not known here.

pub mod refusal;
pub mod socketio;
pub mod timing;
pub mod ws;
