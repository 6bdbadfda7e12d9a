//! A client of `/socket.io/` that sends and reads single packets, by WebSocket and by polling.

use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::{SOON, Staff, System};

/// Opens a session by polling.
pub const OPEN: &str = "/socket.io/?EIO=4&transport=polling";

/// A client over WebSocket.
pub struct Web {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The server's close frame.
    closed: Option<CloseFrame>,
    /// Whether there was one, which may have no code.
    has_close_frame: bool,
}

impl Web {
    /// A WebSocket to this address, which must be accepted.
    pub async fn upgrade(address: &str) -> Web {
        Web::of(connect_async(address).await.unwrap().0)
    }

    /// A WebSocket that is open.
    pub fn of(socket: WebSocketStream<MaybeTlsStream<TcpStream>>) -> Web {
        Web {
            socket,
            closed: None,
            has_close_frame: false,
        }
    }

    /// Whether the server has sent a close frame.
    pub fn has_close_frame(&self) -> bool {
        self.has_close_frame
    }

    /// A session that has begun.
    pub async fn connect(url: &str) -> Web {
        Web::connect_with(url, "").await
    }

    /// The same, with more in the query string.
    pub async fn connect_with(url: &str, query: &str) -> Web {
        let url = url.replacen("http", "ws", 1);
        let address = format!("{url}/socket.io/?EIO=4&transport=websocket{query}");
        let mut web = Web::upgrade(&address).await;
        let open = web.next().await.unwrap();
        let open: Value = serde_json::from_str(open.strip_prefix('0').unwrap()).unwrap();
        assert_eq!(
            (
                &open["upgrades"],
                &open["pingInterval"],
                &open["pingTimeout"]
            ),
            (&json!([]), &json!(25_000), &json!(60_000))
        );
        web
    }

    /// Connects and joins the company's room.
    pub async fn join(url: &str, staff: &Staff<'_>) -> Web {
        let mut web = Web::connect(url).await;
        web.say(&auth(staff)).await;
        let connected = web.next().await.unwrap();
        assert!(connected.starts_with("40{\"sid\":"), "{connected}");
        assert!(web.event("ready").await["seq"].is_u64());
        web
    }

    pub async fn say(&mut self, packet: &str) {
        self.socket.send(Frame::text(packet)).await.unwrap();
    }

    /// The next packet; `None` at the end.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            match timeout(SOON, self.socket.next())
                .await
                .expect("a packet or the end")?
            {
                Ok(Frame::Text(text)) => return Some(text.to_string()),
                Ok(Frame::Close(frame)) => {
                    self.closed = frame;
                    self.has_close_frame = true;
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// All remaining packets, and the close code.
    pub async fn rest(&mut self) -> (Vec<String>, Option<u16>) {
        let mut packets = Vec::new();
        while let Some(packet) = self.next().await {
            packets.push(packet);
        }
        (packets, self.closed.as_ref().map(|frame| frame.code.into()))
    }

    pub async fn event(&mut self, name: &str) -> Value {
        loop {
            let packet = self
                .next()
                .await
                .unwrap_or_else(|| panic!("closed before {name}"));
            if let Some(found) = find(&packet, name) {
                return found;
            }
        }
    }
}

/// A client over polling.
pub struct Poll<'a> {
    staff: &'a Staff<'a>,
    pub url: String,
}

impl<'a> Poll<'a> {
    /// A session that has begun.
    pub async fn open(staff: &'a Staff<'a>, url: &str) -> Poll<'a> {
        let (status, body) = ask(staff.system, Method::GET, &format!("{url}{OPEN}"), "").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let open: Value = serde_json::from_str(&body[1..]).unwrap();
        assert_eq!(
            (&open["upgrades"], &open["maxPayload"]),
            (&json!(["websocket"]), &json!(65_536)),
            "{body}"
        );
        Poll {
            staff,
            url: format!("{url}{OPEN}&sid={}", open["sid"].as_str().unwrap()),
        }
    }

    pub async fn join(staff: &'a Staff<'a>, url: &str) -> Poll<'a> {
        let poll = Poll::open(staff, url).await;
        assert_eq!(poll.say(&auth(staff)).await, (StatusCode::OK, "ok".into()));
        poll.packet("ready", |packet| find(packet, "ready")).await;
        poll
    }

    pub async fn say(&self, body: &str) -> (StatusCode, String) {
        ask(self.staff.system, Method::POST, &self.url, body).await
    }

    pub async fn next(&self) -> (StatusCode, String) {
        ask(self.staff.system, Method::GET, &self.url, "").await
    }

    /// Polls until a packet satisfies `wanted`; other packets are dropped.
    pub async fn packet<T>(&self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        let look = async {
            loop {
                let (status, body) = self.next().await;
                assert_eq!(status, StatusCode::OK, "{body}");
                if let Some(found) = body.split('\u{1e}').find_map(&wanted) {
                    return found;
                }
            }
        };
        timeout(SOON, look)
            .await
            .unwrap_or_else(|_| panic!("not polled: {what}"))
    }

    /// All packets up to the one that ends the session.
    pub async fn rest(&self) -> Vec<String> {
        let mut packets = Vec::new();
        loop {
            match self.next().await {
                (StatusCode::OK, body) => {
                    packets.extend(body.split('\u{1e}').map(str::to_owned));
                    if packets.last().is_some_and(|packet| packet == "1") {
                        return packets;
                    }
                }
                (status, body) => {
                    assert_eq!(
                        (status, code(&body)),
                        (StatusCode::BAD_REQUEST, 1),
                        "{body}"
                    );
                    return packets;
                }
            }
        }
    }
}

/// The packet with the token.
pub fn auth(staff: &Staff<'_>) -> String {
    format!("40{}", json!({"token": staff.token}))
}

/// The number of an error of Engine.IO.
pub fn code(body: &str) -> u64 {
    serde_json::from_str::<Value>(body).unwrap()["code"]
        .as_u64()
        .unwrap()
}

/// The data of the packet, if it is an event of this name.
pub fn find(packet: &str, name: &str) -> Option<Value> {
    let event: Value = serde_json::from_str(packet.strip_prefix("42")?).ok()?;
    (event[0] == name).then(|| event[1].clone())
}

/// Sends one request.
pub async fn ask(system: &System, method: Method, url: &str, body: &str) -> (StatusCode, String) {
    let request = system
        .http
        .request(method, url)
        .header("content-type", "text/plain;charset=UTF-8")
        .body(body.to_owned());
    let answer = request
        .send()
        .await
        .unwrap_or_else(|e| panic!("{url}: {e:?}"));
    (answer.status(), answer.text().await.unwrap())
}
