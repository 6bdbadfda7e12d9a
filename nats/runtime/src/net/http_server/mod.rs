//! An HTTP/1.1 port with limits: accepts so many connections and no more, serves each within limits
//! of size and time, and lets open requests end at the stop. A request that hyper refuses (a head
//! that is no HTTP, too large or too long) gets its bare status and a close. Speaks no TLS and no
//! HTTP/2: both end at the balancer. Knows no route.

mod timed_stream;

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::counter;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, error};

use crate::CancellationToken;

pub use self::timed_stream::{RequestGuard, RequestTracker, TimedStream};

/// Largest head of a request, in bytes. A larger one is refused. The lines of a head are at most
/// 100, which is hyper's own bound.
const HEAD_BYTES: usize = 16 * 1024;
/// Pause after a failed accept, such as for want of file descriptors. Some are free by then.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The limits of a port.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections that are open at a time.
    pub connections: usize,
    /// What happens to a further connection.
    pub when_full: WhenFull,
    /// How long a connection may wait for the head of its next request. After that it is closed.
    pub idle_within: Duration,
    /// Bytes that one connection buffers of bodies that nobody has asked for yet.
    pub buffer_bytes: usize,
    /// How long requests that are open at the stop may take. After that their connection is cut.
    /// Less than the service has to stop (30 s).
    pub drain_within: Duration,
}

/// What happens to a connection for which there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The connection is closed without a word: an answer would cost what it is refused for.
    Refuse,
    /// The connection waits in the system's own, bounded, queue.
    Wait,
}

/// A connection that was accepted.
pub struct Accepted {
    /// The connection.
    pub tcp: TcpStream,
    /// The other end.
    pub peer: IpAddr,
    /// Counts the connection among [`Limits::connections`] until it is dropped.
    pub permit: OwnedSemaphorePermit,
}

/// What a port makes of its connections, beyond [`Limits`].
pub trait Connections: Send + Sync + 'static {
    /// The connection with limits of its own.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Sees each request of one connection.
    type Requests: Requests;

    /// Takes in a connection. Stream or requests must keep the permit.
    ///
    /// # Errors
    /// The connection is refused; the label `reason` of `http_connections_refused_total`.
    fn open(&self, accepted: Accepted) -> Result<(Self::Stream, Self::Requests), &'static str>;
}

/// Sees each request of one connection.
pub trait Requests: Send + 'static {
    /// Dropped when the request is answered.
    type Guard: Send + 'static;

    /// A request begins: its head is complete.
    fn begin(&self, request: &mut Request<Body>) -> Self::Guard;
}

/// Connections on which heads and answers must come to an end, and nothing else is special.
pub struct Timed {
    /// The stop of the service.
    pub stop: CancellationToken,
}

/// The requests of one connection of [`Timed`].
pub struct Tracked {
    requests: RequestTracker,
    _permit: OwnedSemaphorePermit,
}

impl Connections for Timed {
    type Stream = TimedStream<TcpStream>;
    type Requests = Tracked;

    fn open(&self, accepted: Accepted) -> Result<(Self::Stream, Tracked), &'static str> {
        let requests = RequestTracker::default();
        let stream = TimedStream::new(accepted.tcp, requests.clone(), self.stop.clone());
        let tracked = Tracked {
            requests,
            _permit: accepted.permit,
        };
        Ok((stream, tracked))
    }
}

impl Requests for Tracked {
    type Guard = RequestGuard;

    fn begin(&self, _: &mut Request<Body>) -> RequestGuard {
        self.requests.begin()
    }
}

/// A port that is about to be served.
pub struct HttpServer<C> {
    router: Router,
    connections: C,
    limits: Limits,
    room: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl<C: Connections> HttpServer<C> {
    /// Connections are among `tasks`, which must be waited for after `stop`.
    pub fn new(
        router: Router,
        connections: C,
        limits: Limits,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> HttpServer<C> {
        let room = Arc::new(Semaphore::new(limits.connections));
        HttpServer {
            router,
            connections,
            limits,
            room,
            tasks,
            stop,
        }
    }

    /// Serves until the stop.
    pub async fn run(self, listener: TcpListener) {
        while let Some(permit) = self.permit().await {
            match self.stop.run_until_cancelled(listener.accept()).await {
                Some(Ok((tcp, peer))) => self.admit(tcp, peer.ip().to_canonical(), permit),
                Some(Err(e)) if is_of_one_connection(&e) => debug!(error = %e, "accept"),
                Some(Err(e)) => {
                    error!(error = %e, "no connection can be accepted");
                    let pause = tokio::time::sleep(ACCEPT_PAUSE);
                    let _ = self.stop.run_until_cancelled(pause).await;
                }
                None => return,
            }
        }
    }

    /// Waits for room where connections wait. `None` at the stop; `Some(None)` if the room is to be
    /// sought once there is a connection.
    async fn permit(&self) -> Option<Option<OwnedSemaphorePermit>> {
        match self.limits.when_full {
            WhenFull::Refuse => Some(None),
            WhenFull::Wait => {
                let permit = self.room.clone().acquire_owned();
                let permit = self.stop.run_until_cancelled(permit).await?;
                permit.ok().map(Some)
            }
        }
    }

    fn admit(&self, tcp: TcpStream, peer: IpAddr, permit: Option<OwnedSemaphorePermit>) {
        let permit = match permit {
            Some(permit) => Ok(permit),
            None => self.room.clone().try_acquire_owned().map_err(|_| "total"),
        };
        let opened = permit.and_then(|permit| {
            // Answers and events are small. Otherwise each would wait for the client's
            // acknowledgement of the one before.
            if let Err(e) = tcp.set_nodelay(true) {
                debug!(error = %e, "TCP_NODELAY");
            }
            self.connections.open(Accepted { tcp, peer, permit })
        });
        match opened {
            Ok((stream, requests)) => {
                let (router, stop) = (self.router.clone(), self.stop.clone());
                self.tasks
                    .spawn(converse(stream, requests, router, self.limits, stop));
            }
            Err(reason) => {
                counter!("http_connections_refused_total", "reason" => reason).increment(1);
                debug!(%peer, reason, "connection refused");
            }
        }
    }
}

/// Serves one connection until it ends or is upgraded, or until the stop has come and the request
/// that was open then is answered.
async fn converse<S, R>(
    stream: S,
    requests: R,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    R: Requests,
{
    let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        let guard = requests.begin(&mut request);
        let answer = router.clone().oneshot(request);
        async move {
            let answer = answer.await;
            drop(guard);
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_within)
        .max_header_size(HEAD_BYTES)
        .max_buf_size(limits.buffer_bytes)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(limits.drain_within, connection).await.unwrap_or_else(|_| {
                counter!("http_connections_cut_total", "reason" => "stop").increment(1);
                Ok(())
            })
        }
    };
    if let Err(e) = ended {
        debug!(error = %e, "connection");
    }
}

/// Whether an error of accept concerns one connection and says nothing about the next.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests;
