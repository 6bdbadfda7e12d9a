//! The port of the gateway: the limits of its connections, and how many of them one address may
//! have. The serving itself is [`HttpServer`].

mod connection_limit;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use runtime::CancellationToken;
use runtime::net::http_server::{
    self, Accepted, Connections, HttpServer, RequestGuard, RequestTracker, Requests, TimedStream,
    WhenFull,
};
use runtime::service::{self, Service, ServiceError};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tracing::info;

use crate::middleware::{Peer, TrustedProxies, network};
use connection_limit::{ConnectionGuard, ConnectionLimit};

/// How long a connection may wait for its next request. After that it is closed. Longer than the
/// balancer keeps a connection for reuse.
const IDLE_WITHIN: Duration = Duration::from_secs(75);
/// Bytes that one connection buffers of bodies that nobody has asked for yet. Beyond them the client
/// has to wait.
const BUFFER_BYTES: usize = 64 * 1024;
/// How long requests that are open at the stop may take. After that their connection is cut. Less
/// than the service has to stop (30 s).
const DRAIN_WITHIN: Duration = Duration::from_secs(20);

/// How many connections.
pub struct Limits {
    /// In total; a further one is closed at once.
    pub max_connections: usize,
    /// From one address, or from one IPv6 network; 0 switches the limit off.
    pub max_per_address: usize,
    /// Proxies, to which `max_per_address` does not apply, because they bring everybody's requests.
    pub trusted: TrustedProxies,
}

/// Listens, and serves until the service stops. Then open requests are answered.
///
/// # Errors
/// The port cannot be had.
pub async fn serve(
    service: &mut Service,
    address: SocketAddr,
    router: Router,
    limits: Limits,
) -> Result<(), ServiceError> {
    let listener = service::listen(address).await?;
    info!(%address, "listening");
    let (tasks, stop) = (service.tasks.clone(), service.stop.clone());
    let of_port = http_server::Limits {
        connections: limits.max_connections,
        when_full: WhenFull::Refuse,
        idle_within: IDLE_WITHIN,
        buffer_bytes: BUFFER_BYTES,
        drain_within: DRAIN_WITHIN,
    };
    let connections = LimitedByAddress {
        open: ConnectionLimit::default(),
        max: limits.max_per_address,
        trusted: limits.trusted,
        stop: stop.clone(),
    };
    let server = HttpServer::new(router, connections, of_port, tasks, stop);
    service.spawn("http", server.run(listener));
    Ok(())
}

/// Connections of which no address has too many.
struct LimitedByAddress {
    open: ConnectionLimit,
    /// 0 switches the limit off.
    max: usize,
    trusted: TrustedProxies,
    stop: CancellationToken,
}

impl Connections for LimitedByAddress {
    type Stream = TimedStream<TcpStream>;
    type Requests = FromPeer;

    fn open(&self, accepted: Accepted) -> Result<(Self::Stream, FromPeer), &'static str> {
        let Accepted { tcp, peer, permit } = accepted;
        let is_counted = self.max > 0 && !self.trusted.contains(peer);
        let guard = match is_counted {
            true => Some(self.open.enter(network(peer), self.max).ok_or("address")?),
            false => None,
        };
        let requests = RequestTracker::default();
        let stream = TimedStream::new(tcp, requests.clone(), self.stop.clone());
        let from_peer = FromPeer {
            peer,
            requests,
            _guard: guard,
            _permit: permit,
        };
        Ok((stream, from_peer))
    }
}

/// The requests of one connection. Each of them is told the [`Peer`].
struct FromPeer {
    peer: IpAddr,
    requests: RequestTracker,
    _guard: Option<ConnectionGuard>,
    _permit: OwnedSemaphorePermit,
}

impl Requests for FromPeer {
    type Guard = RequestGuard;

    fn begin(&self, request: &mut Request<Body>) -> RequestGuard {
        request.extensions_mut().insert(Peer(self.peer));
        self.requests.begin()
    }
}
