//! WebSocket client for both transports: plain JSON frames, and Socket.IO 4 framed by hand. Of
//! Socket.IO it knows no more than to open a socket, to answer pings and to tell events.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::{Common, Result, http, token};

/// A socket that is not open by then has failed.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
const OPEN_ATTEMPTS: usize = 3;
const OPEN_PAUSE: Duration = Duration::from_millis(100);
/// Bytes that a socket reads at once. Thousands of sockets make a larger buffer a matter of memory.
const READ_BUFFER: usize = 4096;

#[derive(Copy, Clone, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// JSON frames at /ws?token=…
    Ws,
    /// Socket.IO 4 over Engine.IO 4 at /socket.io/, by WebSocket only
    Socketio,
}

impl Transport {
    /// Name in the result.
    pub fn path(self) -> &'static str {
        match self {
            Transport::Ws => "/ws",
            Transport::Socketio => "/socket.io/",
        }
    }
}

#[derive(Args)]
pub struct SocketOptions {
    /// Address of the sockets, where it is not --base-url
    #[arg(long)]
    socket_url: Option<String>,
    #[arg(long, value_enum, default_value = "socketio")]
    pub transport: Transport,
    /// Sockets that are being opened at the same time
    #[arg(long, default_value_t = 64)]
    connect_concurrency: usize,
}

/// Opens sockets to one server.
pub struct Dialer {
    address: SocketAddr,
    url: String,
    transport: Transport,
    token: String,
    concurrency: usize,
}

/// An open socket that the server has let in.
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    transport: Transport,
}

impl Dialer {
    pub async fn new(common: &Common, options: &SocketOptions) -> Result<Arc<Dialer>> {
        let token = token::mint(common)?;
        let base = options.socket_url.as_ref().unwrap_or(&common.base_url);
        let (host, port) = http::host_and_port(base)?;
        let query = match options.transport {
            Transport::Ws => format!("token={token}"),
            Transport::Socketio => "EIO=4&transport=websocket".to_owned(),
        };
        let path = options.transport.path();
        Ok(Arc::new(Dialer {
            address: http::resolve(&host, port).await?,
            url: format!("ws://{host}:{port}{path}?{query}"),
            transport: options.transport,
            token,
            concurrency: options.connect_concurrency.max(1),
        }))
    }

    /// Opens a socket and waits until the server has accepted the token.
    async fn open(&self) -> Result<Socket> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0);
        let (stream, _) =
            tokio_tungstenite::client_async_with_config(self.url.as_str(), tcp, Some(config))
                .await?;
        let mut socket = Socket {
            stream,
            transport: self.transport,
        };
        if self.transport == Transport::Socketio {
            socket.connect_namespace(&self.token).await?;
        }
        Ok(socket)
    }

    /// Opens so many sockets; the result has those that opened, and how many did not.
    pub async fn open_many(self: &Arc<Self>, count: usize) -> (Vec<Socket>, usize) {
        let permits = Arc::new(Semaphore::new(self.concurrency));
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                let (dialer, permits) = (self.clone(), permits.clone());
                tokio::spawn(async move {
                    let _permit = permits.acquire().await.ok()?;
                    dialer.open_with_retries().await
                })
            })
            .collect();
        let mut sockets = Vec::with_capacity(count);
        for task in tasks {
            sockets.extend(task.await.ok().flatten());
        }
        let failed = count - sockets.len();
        (sockets, failed)
    }

    async fn open_with_retries(&self) -> Option<Socket> {
        for attempt in 1..=OPEN_ATTEMPTS {
            match timeout(OPEN_TIMEOUT, self.open()).await {
                Ok(Ok(socket)) => return Some(socket),
                Ok(Err(error)) if attempt == OPEN_ATTEMPTS => eprintln!("socket: {error}"),
                Err(_) if attempt == OPEN_ATTEMPTS => eprintln!("socket: not open in time"),
                _ => sleep(OPEN_PAUSE).await,
            }
        }
        None
    }
}

impl Socket {
    /// The handshake of Socket.IO, after that of Engine.IO.
    async fn connect_namespace(&mut self, token: &str) -> Result<()> {
        loop {
            let packet = self.text().await.ok_or("closed during the handshake")?;
            match packet.as_str() {
                open if open.starts_with('0') => {
                    self.send(format!("40{}", json!({"token": token}))).await?;
                }
                connected if connected.starts_with("40") => return Ok(()),
                refusal if refusal.starts_with("44") => {
                    return Err(format!("refused: {refusal}").into());
                }
                _ => {}
            }
        }
    }

    async fn send(&mut self, text: String) -> Result<()> {
        Ok(self.stream.send(Message::text(text)).await?)
    }

    /// The next text frame. Pings of Engine.IO are answered here, those of WebSocket by the
    /// library.
    async fn text(&mut self) -> Option<Utf8Bytes> {
        loop {
            match self.stream.next().await? {
                Ok(Message::Text(text)) => {
                    if self.transport == Transport::Socketio && text.as_str() == "2" {
                        self.send("3".to_owned()).await.ok()?;
                        continue;
                    }
                    return Some(text);
                }
                // The library has queued a pong, and sends it with the next write or flush.
                Ok(Message::Ping(_)) => self.stream.flush().await.ok()?,
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next event's frame as it came; `None` once the socket is closed.
    pub async fn event(&mut self) -> Option<Utf8Bytes> {
        loop {
            let text = self.text().await?;
            if self.transport == Transport::Ws || text.starts_with("42") {
                return Some(text);
            }
        }
    }
}
