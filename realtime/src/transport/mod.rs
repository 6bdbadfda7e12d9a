//! How packets reach a client: by plain WebSocket or by Socket.IO. What an event is, and who gets
//! it, is not known here.

pub mod refusal;
pub mod socketio;
pub mod ws;
