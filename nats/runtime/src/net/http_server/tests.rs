use std::net::{Ipv4Addr, SocketAddr};

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

async fn running(max_connections: usize, when_full: WhenFull) -> Running {
    let (begun, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let (starts, waits) = (begun.clone(), leave.clone());
    let answer = move || async move {
        starts.notify_one();
        waits.notified().await;
        "answered"
    };
    let limits = Limits {
        connections: max_connections,
        when_full,
        idle_within: Duration::from_secs(75),
        buffer_bytes: 64 * 1024,
        drain_within: Duration::from_secs(20),
    };
    let connections = Timed { stop: stop.clone() };
    let router = Router::new().route("/", get(answer));
    let server = HttpServer::new(router, connections, limits, tasks.clone(), stop.clone());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(server.run(listener));
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
    let port = running(1, WhenFull::Refuse).await;
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
async fn at_the_stop_open_requests_are_answered_and_other_connections_closed() {
    let port = running(9, WhenFull::Refuse).await;
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

#[tokio::test]
async fn where_connections_wait_one_too_many_is_served_after_another_has_ended() {
    let port = running(1, WhenFull::Wait).await;
    let mut first = TcpStream::connect(port.address).await.unwrap();
    first.write_all(REQUEST).await.unwrap();
    port.begun.notified().await;
    let mut second = TcpStream::connect(port.address).await.unwrap();
    second.write_all(REQUEST).await.unwrap();
    port.leave.notify_one();
    first.read_exact(&mut [0; 15]).await.unwrap();
    drop(first);
    port.begun.notified().await;
    port.leave.notify_one();
    let mut answer = vec![0; 15];
    second.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200 OK");
    port.stop.cancel();
    tokio::time::timeout(BOUND, port.tasks.wait())
        .await
        .expect("nothing is left");
}
