//! WebSocket frames as a server writes them: unmasked, so one and the same for all sockets. Reading
//! is tungstenite's work.

use bytes::{BufMut, Bytes, BytesMut};

/// An empty ping.
pub const PING: Bytes = Bytes::from_static(&[0x89, 0]);

/// Final fragment, text.
const TEXT: u8 = 0x81;
/// Payloads above this have their length in two bytes, …
const SHORT: usize = 125;
/// … and above this in eight.
const MEDIUM: usize = u16::MAX as usize;
/// Longest header.
const HEADER_BYTES: usize = 10;

/// A text frame, header and all.
pub fn text(text: &str) -> Bytes {
    let mut frame = BytesMut::with_capacity(text.len() + HEADER_BYTES);
    frame.put_u8(TEXT);
    match text.len() {
        length @ ..=SHORT => frame.put_u8(length as u8),
        length @ ..=MEDIUM => {
            frame.put_u8(126);
            frame.put_u16(length as u16);
        }
        length => {
            frame.put_u8(127);
            frame.put_u64(length as u64);
        }
    }
    frame.put_slice(text.as_bytes());
    frame.freeze()
}

/// The text of a frame that [`text()`] has made.
pub fn of_text(frame: &Bytes) -> &str {
    let header = match frame.get(1) {
        Some(127) => 10,
        Some(126) => 4,
        _ => 2,
    };
    frame
        .get(header..)
        .and_then(|text| std::str::from_utf8(text).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use tokio::io::AsyncWriteExt;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    #[tokio::test]
    async fn a_client_reads_every_length_as_it_was_written() {
        let (mut server, client) = tokio::io::duplex(1 << 20);
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        for length in [0, 1, SHORT, SHORT + 1, MEDIUM, MEDIUM + 1, 200_000] {
            let sent = "é".repeat(length / 2) + if length % 2 == 1 { "x" } else { "" };
            assert_eq!(of_text(&text(&sent)), sent);
            server.write_all(&text(&sent)).await.unwrap();
            assert_eq!(client.next().await.unwrap().unwrap(), Message::text(sent));
        }
        server.write_all(&PING).await.unwrap();
        assert_eq!(
            client.next().await.unwrap().unwrap(),
            Message::Ping(Bytes::new())
        );
    }
}
