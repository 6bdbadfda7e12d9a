//! End-to-end tests: they drive the public surface of the real system (HTTP, WebSocket, the `nats`
//! CLI, MongoDB), started by the same runner as `cargo run`. Waits are bounded and on state.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what is wrong by panicking

mod support;

mod api;
mod contract;
mod dead_letters;
mod delivery;
mod faults;
mod jobs;
mod sockets;
