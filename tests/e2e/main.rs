//! End-to-end tests of the public surface of the real system (HTTP, WebSocket, the `nats` CLI,
//! MongoDB), which the runner of `cargo run` starts. Every wait is bounded and is for a state. What
//! one module does is tested by the unit tests beside it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what is wrong by panicking

mod support;

mod api;
mod cluster;
mod contract;
mod dead_letters;
mod delivery;
mod faults;
mod jobs;
mod soak;
mod sockets;
