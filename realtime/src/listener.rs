//! The port: accepts so many connections and no more, and gives each a bounded time to become a socket. axum's own listener
//! bounds neither, and a client that sends half a request would hold a stop up.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use nats::runtime::CancellationToken;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tracing::{debug, error};

/// A connection that has not become a socket is read for so long; also the operator's requests, which open a new one then.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Connections beside the open sockets: handshakes under way, those that get 503, the operator's requests.
const MORE_CONNECTIONS: usize = 512;

/// Serves `router` until `stop`.
pub async fn serve(port: Bounded, router: Router, stop: CancellationToken) {
    let service = router.into_make_service_with_connect_info::<Lease>();
    if let Err(e) = axum::serve(port, service).with_graceful_shutdown(stop.cancelled_owned()).await {
        error!(error = %e, "port");
    }
}

/// A TCP port with bounds.
pub struct Bounded {
    port: TcpListener,
    room: Arc<Semaphore>,
}

impl Bounded {
    /// For so many sockets and some more connections. Further ones wait in the system's own, bounded, queue.
    pub fn new(port: TcpListener, max_sockets: usize) -> Bounded {
        Bounded { port, room: Arc::new(Semaphore::new(max_sockets + MORE_CONNECTIONS)) }
    }
}

impl Listener for Bounded {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        let permit = loop {
            match self.room.clone().acquire_owned().await {
                Ok(permit) => break permit,
                Err(_) => std::future::pending().await, // never closed
            }
        };
        let (tcp, address) = Listener::accept(&mut self.port).await;
        // Events are small and must not wait for each other.
        if let Err(e) = tcp.set_nodelay(true) {
            debug!(error = %e, "TCP_NODELAY");
        }
        let deadline = Some(Box::pin(tokio::time::sleep(HANDSHAKE_DEADLINE)));
        (Stream { tcp, deadline, lease: Lease::default(), _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.port.local_addr()
    }
}

/// Lets a connection live beyond the handshake's deadline.
#[derive(Clone, Debug, Default)]
pub struct Lease(Arc<AtomicBool>);

impl Lease {
    /// From now on the connection is a socket.
    pub fn extend(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Connected<IncomingStream<'_, Bounded>> for Lease {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Lease {
        stream.io().lease.clone()
    }
}

/// A TCP connection that fails to read after the deadline, unless its lease was extended.
pub struct Stream {
    tcp: TcpStream,
    deadline: Option<Pin<Box<Sleep>>>,
    lease: Lease,
    _permit: OwnedSemaphorePermit,
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
