//! End-to-end tests: they drive the public surface of the real system (HTTP, WebSocket, the `nats`
//! CLI, MongoDB), started by the same runner as `cargo run`. Waits are bounded and on state.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what is wrong by panicking

mod harness;
mod openapi;

mod abuse;
mod audit;
mod auth;
mod bad_input;
mod batch;
mod clients;
mod compose;
mod contacts;
mod cookbook;
mod dead_letters;
mod delivery;
mod examples;
mod faults;
mod integrations;
mod invitations;
mod jobs;
mod lockout;
mod ordering;
mod permissions;
mod prefer;
mod protection;
mod reads;
mod realtime;
mod rebuild;
mod repeats;
mod replicas;
mod rest;
mod runner;
mod sla;
mod socket;
mod socketio;
mod spine;
mod tenants;
mod view;
mod workspace;
