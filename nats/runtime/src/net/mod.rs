//! What a service needs of the network: the connection to NATS, calls to other people's HTTP
//! servers, a port of its own, and the checks of requests that several services share. Knows no
//! event.

pub mod access_token;
pub mod backoff;
pub mod connection;
pub mod http_client;
pub mod http_server;
pub mod origins;
pub mod platform_error;
