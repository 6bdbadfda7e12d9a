//! Realtime: pushes the events of the log to the sockets of a company's staff, and carries typing
//! and presence between them. Reads no database and answers no REST request.
//!
//! A node holds four NATS subscriptions for each company that has sockets on it: two for the events
//! that the NATS server republishes to `live.>` as it stores them, one for typing, one for
//! presence. A node keeps nothing but its open sockets, and the last events and the presence of
//! their companies. Events that a node missed while it was disconnected are read from the log
//! before anything newer is delivered. Events that a client missed come from the memory of its room
//! or from the log.
//!
//! The parts, from the bottom up:
//! - `room`: the sockets of one company, the fan-out, and what clients are told;
//! - `node`: the services and the registry of rooms that all sockets use;
//! - `cluster`: the other realtime nodes;
//! - `log`: follows a company for its room, and catches a socket up;
//! - `auth`: tokens, pages, and the end of logins;
//! - `subscriber`: one open socket, its commands and limits;
//! - `admission`: makes a socket a subscriber;
//! - `transport`: WebSocket and Socket.IO.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use runtime::CancellationToken;
use runtime::log::publisher::Publisher;
use runtime::service::{self, Service, ServiceError};

use crate::auth::{handshake::Handshake, revocation};
use crate::cluster::heartbeat;
use crate::node::Node;
use crate::transport::{socketio, ws};

mod admission;
mod asyncapi;
mod auth;
#[doc(hidden)]
pub mod bench;
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

/// The `main` function of the binary.
pub fn main() -> ExitCode {
    service::main(Config::read, run)
}

/// Runs the service until `shutdown`. Every socket is closed with 1001 before this returns.
///
/// # Errors
/// The port cannot be opened, or a task ended early; see [`ServiceError`].
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ServiceError> {
    let address = SocketAddr::new(config.common.host, config.port);
    let port = service::listen(address).await?;
    let mut service = Service::start("realtime", &config.common, shutdown).await?;
    service.health.expect(&["hub"]);
    let publisher = Publisher::start(&mut service, None);
    let node = Node::new(
        service.connection.clone(),
        publisher,
        config.limits,
        service.tasks.clone(),
        service.stop.clone(),
    );
    let handshake = Arc::new(Handshake::new(&config));
    let router = ws::routes(handshake.clone(), node.clone())
        .merge(socketio::routes(handshake, node.clone()))
        .merge(asyncapi::routes())
        .merge(service.ops_routes());
    service.spawn("nodes", heartbeat::run(node.clone()));
    service.spawn("sessions", revocation::run(node.clone()));
    service.spawn("lifecycle", lifecycle::run(node, service.health.clone()));
    let server = listener::server(router, &config.limits, &service);
    service.spawn("port", server.run(port));
    service.finish().await
}
