//! The sockets: events without a gap over both transports, with real clients.

mod conformance;
mod doors;
mod examples;
mod real_clients;
mod resume;
mod socketio;
