//! End-to-end tests: they drive the public surface of the real system (HTTP, WebSocket, the `nats` CLI, MongoDB), started
//! by the same runner as `cargo run`. Waits are bounded and on state.

mod harness;

mod bad_input;
mod compose;
mod cookbook;
mod faults;
mod permissions;
mod rebuild;
mod replicas;
mod runner;
mod spine;
mod view;
mod workspace;
