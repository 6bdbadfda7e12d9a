//! The port: accepts connections, so many and no more, and speaks HTTP/1.1 on each within limits of
//! time and size. What hyper refuses before there is a request (a head that is no HTTP, too large
//! or too long) gets its bare status and a close. Speaks no TLS and no HTTP/2: both end at the
//! balancer.

mod crowd;
mod stream;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::counter;
use runtime::CancellationToken;
use runtime::service::{Service, ServiceError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, error, info};

use crate::middleware::{Peer, TrustedProxies, network};
use crowd::{Crowd, Seat};
use stream::{TimedStream, Turns};

/// A connection that waits for its next request is closed after this; longer than the balancer
/// keeps one for reuse.
const IDLE_WITHIN: Duration = Duration::from_secs(75);
/// Largest head of a request, in bytes. Its lines are at most 100, which is hyper's own bound.
const HEAD_BYTES: usize = 16 * 1024;
/// What one connection buffers of bodies that nobody has asked for yet, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;
/// After a failed accept, such as for want of file descriptors; some will be free by then.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Requests that are open at the stop are answered within this; less than the service has to stop
/// (30 s).
const DRAIN_WITHIN: Duration = Duration::from_secs(20);

/// How many connections.
pub struct Limits {
    /// In total; a further one is closed at once.
    pub max_connections: usize,
    /// From one address, or from one IPv6 network; 0 switches it off.
    pub max_per_address: usize,
    /// Those to whom `max_per_address` does not apply, because they bring everybody's requests.
    pub trusted: TrustedProxies,
}

/// Listens, and serves until the service stops; then open requests are answered.
///
/// # Errors
/// The port cannot be had.
pub async fn serve(
    service: &mut Service,
    address: SocketAddr,
    router: Router,
    limits: Limits,
) -> Result<(), ServiceError> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| ServiceError::Listen { address, error })?;
    info!(%address, "listening");
    let room = Arc::new(Semaphore::new(limits.max_connections));
    let (tasks, stop) = (service.tasks.clone(), service.stop.clone());
    let port = Port {
        router,
        limits,
        room,
        crowd: Crowd::default(),
        tasks,
        stop,
    };
    service.spawn("http", port.run(listener));
    Ok(())
}

struct Port {
    router: Router,
    limits: Limits,
    room: Arc<Semaphore>,
    crowd: Crowd,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Port {
    async fn run(self, listener: TcpListener) {
        while let Some(accepted) = self.stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((tcp, peer)) => self.admit(tcp, peer.ip().to_canonical()),
                Err(e) if was_the_clients(&e) => debug!(error = %e, "accept"),
                Err(e) => {
                    error!(error = %e, "no connection can be accepted");
                    let _ = self
                        .stop
                        .run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE))
                        .await;
                }
            }
        }
    }

    /// One that is refused is closed without a word: an answer would cost what it is refused for.
    fn admit(&self, tcp: TcpStream, peer: IpAddr) {
        match self.place(peer) {
            Ok(place) => {
                let connection = converse(tcp, peer, self.router.clone(), self.stop.clone());
                self.tasks.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(reason) => {
                counter!("http_connections_refused_total", "reason" => reason).increment(1);
                debug!(%peer, reason, "connection refused");
            }
        }
    }

    fn place(&self, peer: IpAddr) -> Result<(OwnedSemaphorePermit, Option<Seat>), &'static str> {
        let permit = self.room.clone().try_acquire_owned().map_err(|_| "total")?;
        let is_counted = self.limits.max_per_address > 0 && !self.limits.trusted.contains(peer);
        let seat = is_counted
            .then(|| {
                self.crowd
                    .enter(network(peer), self.limits.max_per_address)
                    .ok_or("address")
            })
            .transpose()?;
        Ok((permit, seat))
    }
}

/// One connection, until it ends, or the stop has come and the request that was open then is
/// answered.
async fn converse(tcp: TcpStream, peer: IpAddr, router: Router, stop: CancellationToken) {
    // Answers are small; without it they would wait for the client's acknowledgement.
    if let Err(e) = tcp.set_nodelay(true) {
        debug!(error = %e, "TCP_NODELAY");
    }
    let turns = Turns::default();
    let stream = TokioIo::new(TimedStream::new(tcp, turns.clone(), stop.clone()));
    let answer = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let turn = turns.begin();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        let answer = router.clone().oneshot(request);
        async move {
            let answer = answer.await;
            drop(turn);
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_WITHIN)
        .max_header_size(HEAD_BYTES)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(stream, answer);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN_WITHIN, connection).await.unwrap_or_else(|_| {
                counter!("http_connections_cut_total", "reason" => "stop").increment(1);
                Ok(())
            })
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

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;

    use super::*;

    const BOUND: Duration = Duration::from_secs(10);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n";

    /// A port whose answers wait for `leave`, and say in `begun` that they do.
    struct Running {
        address: SocketAddr,
        begun: Arc<Notify>,
        leave: Arc<Notify>,
        tasks: TaskTracker,
        stop: CancellationToken,
    }

    async fn running(max_connections: usize) -> Running {
        let (begun, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (starts, waits) = (begun.clone(), leave.clone());
        let answer = move || async move {
            starts.notify_one();
            waits.notified().await;
            "answered"
        };
        let trusted = TrustedProxies::read(&mut runtime::service::settings::Settings::of([]));
        let port = Port {
            router: Router::new().route("/", get(answer)),
            limits: Limits {
                max_connections,
                max_per_address: 0,
                trusted,
            },
            room: Arc::new(Semaphore::new(max_connections)),
            crowd: Crowd::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn(port.run(listener));
        tasks.close();
        Running {
            address,
            begun,
            leave,
            tasks,
            stop,
        }
    }

    async fn until_closed(mut connection: TcpStream) -> String {
        let mut said = String::new();
        let read = tokio::time::timeout(BOUND, connection.read_to_string(&mut said)).await;
        let _ = read.expect("closed in time"); // a reset is an end too
        said
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed_and_the_others_are_served() {
        let port = running(1).await;
        let mut first = TcpStream::connect(port.address).await.unwrap();
        first.write_all(REQUEST).await.unwrap();
        port.begun.notified().await;
        assert_eq!(
            until_closed(TcpStream::connect(port.address).await.unwrap()).await,
            ""
        );
        port.leave.notify_one();
        let mut answer = vec![0; 15];
        first.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 200 OK");
        port.stop.cancel();
        tokio::time::timeout(BOUND, port.tasks.wait())
            .await
            .expect("nothing is left");
    }

    #[tokio::test]
    async fn at_the_stop_open_requests_are_answered_and_nobody_else_holds_it_up() {
        let port = running(9).await;
        let idle = TcpStream::connect(port.address).await.unwrap();
        let mut half = TcpStream::connect(port.address).await.unwrap();
        half.write_all(&REQUEST[..10]).await.unwrap();
        let mut open = TcpStream::connect(port.address).await.unwrap();
        open.write_all(REQUEST).await.unwrap();
        port.begun.notified().await;
        port.stop.cancel();
        assert_eq!(
            (until_closed(idle).await, until_closed(half).await),
            (String::new(), String::new())
        );
        assert!(!port.tasks.is_empty(), "a request is open");
        port.leave.notify_one();
        let answer = until_closed(open).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK")
                && answer.contains("connection: close")
                && answer.ends_with("answered"),
            "{answer}"
        );
        tokio::time::timeout(BOUND, port.tasks.wait())
            .await
            .expect("nothing is left");
        assert!(TcpStream::connect(port.address).await.is_err());
    }
}
