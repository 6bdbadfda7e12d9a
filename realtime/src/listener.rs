//! The port: accepts so many connections and no more, speaks HTTP/1.1, and gives each a bounded time to become a socket.
//! axum's own listener bounds neither, and would keep its part of every upgraded connection in memory.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use nats::runtime::CancellationToken;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, error};

use crate::config::Limits;

/// Connections beside the open sockets: handshakes under way, those that get 503, the operator's requests.
const MORE_CONNECTIONS: usize = 512;
/// Largest head of a request, in bytes.
const HEAD_BYTES: usize = 16 * 1024;
/// What one connection buffers before it is a socket, in bytes.
const BUFFER_BYTES: usize = 32 * 1024;
/// After a failed accept, such as for want of file descriptors; some will be free by then.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Requests that are open at the stop are answered within this.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// A TCP port with bounds.
pub struct Port {
    listener: TcpListener,
    router: Router,
    room: Arc<Semaphore>,
    handshake: Duration,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Port {
    /// For so many sockets and some more connections. Further ones wait in the system's own, bounded, queue.
    pub fn new(listener: TcpListener, router: Router, limits: &Limits, tasks: TaskTracker, stop: CancellationToken) -> Port {
        let room = Arc::new(Semaphore::new(limits.sockets + MORE_CONNECTIONS));
        Port { listener, router, room, handshake: limits.handshake, tasks, stop }
    }

    /// Serves until the stop. Connections are tasks of the service.
    pub async fn run(self) {
        while let Some(Ok(permit)) = self.stop.run_until_cancelled(self.room.clone().acquire_owned()).await {
            match self.stop.run_until_cancelled(self.listener.accept()).await {
                Some(Ok((tcp, _))) => drop(self.tasks.spawn(converse(
                    Stream::new(tcp, permit, self.handshake),
                    self.router.clone(),
                    self.handshake,
                    self.stop.clone(),
                ))),
                Some(Err(e)) => {
                    debug!(error = %e, "accept");
                    if !was_the_clients(&e) {
                        error!(error = %e, "no connection can be accepted");
                        let _ = self.stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
                    }
                }
                None => return,
            }
        }
    }
}

/// One connection, until it ends or has become a socket, or the stop has come and the request that was open is answered.
async fn converse(stream: Stream, router: Router, handshake: Duration, stop: CancellationToken) {
    let lease = stream.lease.clone();
    let answer = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(lease.clone());
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(handshake)
        .max_header_size(HEAD_BYTES)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN_WITHIN, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(e) = ended {
        debug!(error = %e, "connection");
    }
}

/// Errors of one connection, which say nothing about the next.
fn was_the_clients(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Lets a connection live beyond the handshake's deadline. A request has it as an extension.
#[derive(Clone, Debug, Default)]
pub struct Lease(Arc<AtomicBool>);

impl Lease {
    /// From now on the connection belongs to a socket.
    pub fn extend(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A TCP connection that fails to read after the deadline, unless its lease was extended.
pub struct Stream {
    tcp: TcpStream,
    deadline: Option<Pin<Box<Sleep>>>,
    lease: Lease,
    permit: OwnedSemaphorePermit,
}

impl Stream {
    fn new(tcp: TcpStream, permit: OwnedSemaphorePermit, handshake: Duration) -> Stream {
        // Events are small and must not wait for each other.
        if let Err(e) = tcp.set_nodelay(true) {
            debug!(error = %e, "TCP_NODELAY");
        }
        Stream { tcp, deadline: Some(Box::pin(tokio::time::sleep(handshake))), lease: Lease::default(), permit }
    }

    /// The bare connection, and its place among this node's.
    pub fn into_parts(self) -> (TcpStream, OwnedSemaphorePermit) {
        (self.tcp, self.permit)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.lease.0.load(Ordering::Relaxed) {
            self.deadline = None;
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}
