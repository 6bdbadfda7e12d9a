//! Realtime: pushes what the log stores to the sockets of a company's staff, and carries typing
//! between them.
//!
//! A node holds four NATS subscriptions for each company that has sockets on it: two for what the
//! server republishes to `live.>` as it stores it, one for typing, one for who is online. It keeps
//! nothing beyond its open sockets, the last events of their companies and who is online in them,
//! and reads no database. What was missed while it was disconnected it reads from the log before it
//! hands out anything newer (`feed`); what a client missed, when that comes back, from its memory
//! or the log (`catch_up`).

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use runtime::CancellationToken;
use runtime::log::publisher::Publisher;
use runtime::service::{self, Service, ServiceError};
use tokio::net::TcpListener;

use crate::auth::{handshake::Handshake, revocation};
use crate::cluster::{heartbeat, leader};
use crate::node::Node;
use crate::transport::{socketio, ws};

mod admission;
mod asyncapi;
mod auth;
mod cluster;
mod config;
mod lifecycle;
mod listener;
mod log;
mod metrics;
mod node;
mod room;
mod subscriber;
mod transport;

pub use config::Config;

/// The whole `main` of the binary.
pub fn main() -> ExitCode {
    service::main(Config::read, run)
}

/// Runs until `shutdown`; then every socket is closed with 1001 before this returns.
///
/// # Errors
/// The port cannot be had, or a task ended early; see [`ServiceError`].
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ServiceError> {
    let address = SocketAddr::new(config.common.host, config.port);
    let port = TcpListener::bind(address)
        .await
        .map_err(|error| ServiceError::Listen { address, error })?;
    let mut service = Service::start("realtime", &config.common, shutdown).await?;
    service.health.expect(&["hub"]);
    let publisher = Publisher::start(&mut service);
    let node = Node::new(
        service.connection.clone(),
        publisher,
        config.limits,
        service.tasks.clone(),
        service.stop.clone(),
    );
    let handshake = Arc::new(Handshake::new(&config));
    let doors = ws::routes(handshake.clone(), node.clone())
        .merge(socketio::routes(handshake, node.clone()));
    let router = doors.merge(asyncapi::routes()).merge(service.ops_routes());
    service.spawn("leader watch", leader::watch(node.clone()));
    service.spawn("nodes", heartbeat::run(node.clone()));
    service.spawn("sessions", revocation::run(node.clone()));
    service.spawn("lifecycle", lifecycle::run(node, service.health.clone()));
    let port = listener::Port::new(
        port,
        router,
        &config.limits,
        service.tasks.clone(),
        service.stop.clone(),
    );
    service.spawn("port", port.run());
    service.finish().await
}
