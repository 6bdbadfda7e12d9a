//! The port of a realtime node: gives each connection a bounded time to become a socket, and to take
//! its answers. The serving itself is [`HttpServer`]. axum's own listener bounds neither, and would
//! keep its part of every upgraded connection in memory.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use runtime::net::http_server::{self, Accepted, Connections, HttpServer, Requests, WhenFull};
use runtime::service::Service;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

use crate::config::Limits;

/// Connections beside the open sockets: handshakes under way, those that get 503, the operator's
/// requests. Further ones wait in the system's own, bounded, queue.
const MORE_CONNECTIONS: usize = 512;
/// Bytes that one connection buffers before it is a socket. Beyond them the client has to wait.
const BUFFER_BYTES: usize = 32 * 1024;
/// Time in which a client must take something of an answer. After that the connection ends.
/// Otherwise hyper would wait for as long as the client likes.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// How long requests that are open at the stop may take. After that their connection is cut.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// The server of a node's port, with room for the sockets and some more connections.
pub fn server(router: Router, limits: &Limits, service: &Service) -> HttpServer<Handshakes> {
    let of_port = http_server::Limits {
        connections: limits.sockets + MORE_CONNECTIONS,
        when_full: WhenFull::Wait,
        idle_within: limits.handshake,
        buffer_bytes: BUFFER_BYTES,
        drain_within: DRAIN_WITHIN,
    };
    let connections = Handshakes {
        within: limits.handshake,
    };
    let (tasks, stop) = (service.tasks.clone(), service.stop.clone());
    HttpServer::new(router, connections, of_port, tasks, stop)
}

/// Connections that must become sockets in time.
pub struct Handshakes {
    within: Duration,
}

impl Connections for Handshakes {
    type Stream = Stream;
    type Requests = Lease;

    fn open(&self, accepted: Accepted) -> Result<(Stream, Lease), &'static str> {
        let stream = Stream::new(accepted.tcp, accepted.permit, self.within);
        let lease = stream.lease.clone();
        Ok((stream, lease))
    }
}

impl Requests for Lease {
    type Guard = ();

    fn begin(&self, request: &mut Request<Body>) {
        request.extensions_mut().insert(self.clone());
    }
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

/// A TCP connection that fails to read after the deadline, unless its lease was extended, and fails
/// to write once the client has taken nothing for [`WRITE_DEADLINE`].
pub struct Stream {
    tcp: TcpStream,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Set while a write waits.
    write_deadline: Option<Pin<Box<Sleep>>>,
    lease: Lease,
    permit: OwnedSemaphorePermit,
}

impl Stream {
    fn new(tcp: TcpStream, permit: OwnedSemaphorePermit, handshake: Duration) -> Stream {
        let deadline = Some(Box::pin(tokio::time::sleep(handshake)));
        Stream {
            tcp,
            deadline,
            write_deadline: None,
            lease: Lease::default(),
            permit,
        }
    }

    /// The result of a write, or a failure if the write has waited for too long.
    fn in_time(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.write_deadline = None;
            return written;
        }
        let deadline = self
            .write_deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_DEADLINE)));
        deadline
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The bare connection, and its permit among the connections of this node.
    pub fn into_parts(self) -> (TcpStream, OwnedSemaphorePermit) {
        (self.tcp, self.permit)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.in_time(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bytes);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;
    use tokio::time::{Instant, timeout};

    /// A connection of the port and its client's end.
    async fn connected() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        (
            Stream::new(
                listener.accept().await.unwrap().0,
                permit,
                Duration::from_secs(10),
            ),
            client,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_ends_its_connection() {
        let (mut stream, _client) = connected().await;
        stream.lease.extend();
        let begun = Instant::now();
        // Once what the system buffers is full.
        let written = timeout(2 * WRITE_DEADLINE, async {
            while stream.write(&[0; 65_536]).await? > 0 {}
            io::Result::Ok(())
        })
        .await;
        assert_eq!(
            written.expect("an end").map_err(|e| e.kind()),
            Err(io::ErrorKind::TimedOut)
        );
        assert!(begun.elapsed() >= WRITE_DEADLINE);
    }

    #[tokio::test]
    async fn an_answer_that_is_taken_starts_the_time_again() {
        let (mut stream, mut client) = connected().await;
        while timeout(Duration::from_millis(50), stream.write(&[0; 65_536]))
            .await
            .is_ok()
        {}
        assert!(stream.write_deadline.is_some());
        let take = async {
            while client.read(&mut [0; 65_536]).await? > 0 {}
            io::Result::Ok(())
        };
        tokio::select! {
            taken = take => unreachable!("{taken:?}"),
            written = stream.write(&[0]) => assert_eq!(written.map_err(|e| e.kind()), Ok(1)),
        }
        assert!(stream.write_deadline.is_none());
    }
}
