//! Which clients may open a socket, and for how long. Signs no token; the gateway does.

pub mod handshake;
pub mod revocation;
pub mod session;
