//! A client of `/ws`: reads events by name, sends frames and reports the close code.

use async_nats::jetstream;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::support::SOON;

/// An open socket.
pub struct Socket(pub WebSocketStream<MaybeTlsStream<TcpStream>>);

/// What a socket receives.
#[derive(Debug)]
pub enum Incoming {
    /// An event: its name and data.
    Event(String, Value),
    /// The connection closed, with the close code if there was one.
    Closed(Option<u16>),
}

impl Socket {
    /// Connects to a node (`http://…`); a refusal is an error.
    pub async fn try_open(node: &str, token: &str, last_seq: Option<u64>) -> Result<Socket, Error> {
        let resume = last_seq
            .map(|seq| format!("&last_seq={seq}"))
            .unwrap_or_default();
        let url = format!(
            "{}/ws?token={token}{resume}",
            node.replacen("http", "ws", 1)
        );
        Ok(Socket(tokio_tungstenite::connect_async(url).await?.0))
    }

    /// Connects to a node, which must accept.
    pub async fn open(node: &str, token: &str, last_seq: Option<u64>) -> Socket {
        Socket::try_open(node, token, last_seq)
            .await
            .unwrap_or_else(|e| panic!("{node}: {e}"))
    }

    /// Waits for the next event or the close. Cancel safe: a dropped future loses no event.
    pub async fn receive(&mut self) -> Incoming {
        while let Some(frame) = self.0.next().await {
            match frame {
                Ok(Message::Text(text)) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    return Incoming::Event(
                        frame["event"].as_str().unwrap().to_owned(),
                        frame["data"].clone(),
                    );
                }
                Ok(Message::Close(close)) => {
                    return Incoming::Closed(close.map(|close| close.code.into()));
                }
                Ok(_) => {}
                Err(_) => return Incoming::Closed(None),
            }
        }
        Incoming::Closed(None)
    }

    /// The data of the next event of this name that satisfies `is_it`; other events are skipped.
    pub async fn event_where(&mut self, name: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let look = async {
            loop {
                match self.receive().await {
                    Incoming::Event(event, data) if event == name && is_it(&data) => return data,
                    Incoming::Event(..) => {}
                    Incoming::Closed(code) => panic!("closed with {code:?} before {name}"),
                }
            }
        };
        timeout(SOON, look)
            .await
            .unwrap_or_else(|_| panic!("not seen: {name}"))
    }

    /// The data of the next event of this name.
    pub async fn event(&mut self, name: &str) -> Value {
        self.event_where(name, |_| true).await
    }

    /// The sequences of the next `count` events that are in the log.
    pub async fn seqs(&mut self, count: usize) -> Vec<u64> {
        let mut seqs = Vec::new();
        let read = async {
            while seqs.len() < count {
                match self.receive().await {
                    Incoming::Event(event, data) if is_in_log(&event) => {
                        seqs.extend(data["seq"].as_u64())
                    }
                    Incoming::Event(..) => {}
                    Incoming::Closed(code) => panic!("closed with {code:?}"),
                }
            }
        };
        timeout(SOON, read)
            .await
            .unwrap_or_else(|_| panic!("fewer than {count} events came"));
        seqs
    }

    /// Skips all events and returns the close code.
    pub async fn closed(&mut self) -> Option<u16> {
        let look = async {
            loop {
                if let Incoming::Closed(code) = self.receive().await {
                    return code;
                }
            }
        };
        timeout(SOON, look).await.expect("it is closed")
    }

    pub async fn send(&mut self, event: &str, data: Value) {
        self.0
            .send(Message::text(
                json!({"event": event, "data": data}).to_string(),
            ))
            .await
            .unwrap();
    }
}

/// Whether an event is in the log. `ready` and `resync` are not, though they name a sequence.
pub fn is_in_log(event: &str) -> bool {
    !["ready", "resync"].contains(&event)
}

/// The sequences of a company's message events in `EVENTS` after the sequence `after`.
pub async fn log_of(jetstream: &jetstream::Context, company: &str, after: u64) -> Vec<u64> {
    let stream = jetstream.get_stream_no_info("EVENTS").await.unwrap();
    let mut seqs = Vec::new();
    let mut from = after + 1;
    while let Ok(message) = stream
        .direct_get_next_for_subject(format!("message.*.{company}.>"), Some(from))
        .await
    {
        seqs.push(message.sequence);
        from = message.sequence + 1;
    }
    seqs
}

/// Reads events of a socket until one satisfies `wanted`.
pub async fn event<S>(socket: &mut S, what: &str, wanted: impl Fn(&Value) -> bool) -> Value
where
    S: StreamExt<Item = Result<Frame, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    let look = async {
        while let Some(frame) = socket.next().await {
            if let Frame::Text(text) = frame.unwrap() {
                let event: Value = serde_json::from_str(&text).unwrap();
                if wanted(&event) {
                    return event;
                }
            }
        }
        panic!("the socket closed before {what}")
    };
    tokio::time::timeout(SOON, look)
        .await
        .unwrap_or_else(|_| panic!("not seen: {what}"))
}
