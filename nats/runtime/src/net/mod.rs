//! What a service needs of the network: the connection to NATS, and the checks of requests that
//! several services share. Knows no event.

pub mod access_token;
pub mod connection;
pub mod origins;
