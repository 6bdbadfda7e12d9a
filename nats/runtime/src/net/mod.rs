//! What a service needs of the network: the connection to NATS. Knows no event.

pub mod connection;
