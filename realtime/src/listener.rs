//! The port: accepts so many connections and no more, speaks HTTP/1.1, and gives each a bounded
//! time to become a socket, and to take its answers. axum's own listener bounds neither, and would
//! keep its part of every upgraded connection in memory.

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
use runtime::CancellationToken;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, error};

use crate::config::Limits;

/// Connections beside the open sockets: handshakes under way, those that get 503, the operator's
/// requests.
const MORE_CONNECTIONS: usize = 512;
/// Largest head of a request, in bytes.
const HEAD_BYTES: usize = 16 * 1024;
/// What one connection buffers before it is a socket, in bytes.
const BUFFER_BYTES: usize = 32 * 1024;
/// After a failed accept, such as for want of file descriptors; some will be free by then.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// A client that takes nothing of an answer for so long is gone. hyper waits for as long as it
/// likes.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
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
    /// For so many sockets and some more connections. Further ones wait in the system's own,
    /// bounded, queue.
    pub fn new(
        listener: TcpListener,
        router: Router,
        limits: &Limits,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Port {
        let room = Arc::new(Semaphore::new(limits.sockets + MORE_CONNECTIONS));
        Port {
            listener,
            router,
            room,
            handshake: limits.handshake,
            tasks,
            stop,
        }
    }

    /// Serves until the stop. Connections are tasks of the service.
    pub async fn run(self) {
        while let Some(Ok(permit)) = self
            .stop
            .run_until_cancelled(self.room.clone().acquire_owned())
            .await
        {
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
                        let _ = self
                            .stop
                            .run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE))
                            .await;
                    }
                }
                None => return,
            }
        }
    }
}

/// One connection, until it ends or has become a socket, or the stop has come and the request that
/// was open is answered.
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
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
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

/// A TCP connection that fails to read after the deadline, unless its lease was extended; and to
/// write, once nothing of it was taken for [`WRITE_DEADLINE`].
pub struct Stream {
    tcp: TcpStream,
    deadline: Option<Pin<Box<Sleep>>>,
    /// While a write waits.
    write_deadline: Option<Pin<Box<Sleep>>>,
    lease: Lease,
    permit: OwnedSemaphorePermit,
}

impl Stream {
    fn new(tcp: TcpStream, permit: OwnedSemaphorePermit, handshake: Duration) -> Stream {
        // Events are small and must not wait for each other.
        if let Err(e) = tcp.set_nodelay(true) {
            debug!(error = %e, "TCP_NODELAY");
        }
        let deadline = Some(Box::pin(tokio::time::sleep(handshake)));
        Stream {
            tcp,
            deadline,
            write_deadline: None,
            lease: Lease::default(),
            permit,
        }
    }

    /// What has become of a write; a failure, if it has waited for too long.
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

    /// The bare connection, and its place among this node's.
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
