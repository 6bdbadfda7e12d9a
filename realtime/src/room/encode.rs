//! The bytes that one encoding gives all sockets of a transport: a WebSocket frame as a server
//! writes it, unmasked, and the event packet of Socket.IO. Reads no frame of a client.

use bytes::{BufMut, Bytes, BytesMut};

/// An empty WebSocket ping.
pub const PING: Bytes = Bytes::from_static(&[0x89, 0]);

/// First byte of a WebSocket frame: final fragment, text.
const TEXT: u8 = 0x81;
/// The longest payload, in bytes, whose length fits into the second byte of a frame. The length of
/// a longer payload follows in two bytes.
const SHORT: usize = 125;
/// The longest payload, in bytes, whose length fits into two bytes. The length of a longer payload
/// follows in eight bytes.
const MEDIUM: usize = u16::MAX as usize;
/// Length of the longest header of a frame, in bytes.
const HEADER_BYTES: usize = 10;

/// A WebSocket text frame, header included.
pub fn text_frame(text: &str) -> Bytes {
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

/// The text inside a frame that [`text_frame`] has made.
pub fn text_of(frame: &Bytes) -> &str {
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

/// The Socket.IO packet of an event whose `data` is JSON already. The event names of this crate
/// need no escape in JSON.
pub fn socket_io_event(name: &str, data: &str) -> String {
    let mut text = String::with_capacity(name.len() + data.len() + 7);
    for part in ["42[\"", name, "\",", data, "]"] {
        text.push_str(part);
    }
    text
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
    async fn a_client_reads_frames_of_every_header_length() {
        let (mut server, client) = tokio::io::duplex(1 << 20);
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        for length in [0, 1, SHORT, SHORT + 1, MEDIUM, MEDIUM + 1, 200_000] {
            let sent = "é".repeat(length / 2) + if length % 2 == 1 { "x" } else { "" };
            assert_eq!(text_of(&text_frame(&sent)), sent);
            server.write_all(&text_frame(&sent)).await.unwrap();
            assert_eq!(client.next().await.unwrap().unwrap(), Message::text(sent));
        }
        server.write_all(&PING).await.unwrap();
        assert_eq!(
            client.next().await.unwrap().unwrap(),
            Message::Ping(Bytes::new())
        );
    }

    #[test]
    fn an_event_packet_of_socket_io_holds_name_and_data() {
        assert_eq!(
            socket_io_event("message:new", r#"{"seq":1}"#),
            r#"42["message:new",{"seq":1}]"#
        );
    }
}
