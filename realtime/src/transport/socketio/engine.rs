//! Engine.IO, protocol 4: the packets under Socket.IO, alone in a WebSocket frame or many in the
//! body of a poll. Reads and writes text only, and knows neither connection nor event.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::Serialize;

use crate::transport::timing::{PING_INTERVAL, SILENCE_LIMIT};

/// The character between the packets of a body.
const SEPARATOR: char = '\u{1e}';
/// Packets in one body of a client. Beyond it, the body is refused. Because a page joins all its
/// conversations when it opens, there may be many.
pub const MAX_PACKETS: usize = 4_096;
/// A ping of the server, as a WebSocket frame.
pub const PING_FRAME: Bytes = Bytes::from_static(b"\x81\x012");

/// The id of a session. It is secret, because a request that knows it can poll. The `socket.id` of
/// clients is another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sid(u128);

impl Sid {
    /// An id of 128 random bits.
    pub const fn new(random: u128) -> Sid {
        Sid(random)
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Sid {
    type Err = BadPacket;

    fn from_str(text: &str) -> Result<Sid, BadPacket> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        digits
            .then(|| u128::from_str_radix(text, 16).ok().map(Sid))
            .flatten()
            .ok_or(BadPacket)
    }
}

/// A packet of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// The client leaves.
    Close,
    /// A probe on the connection that the client wants to change to, with its text.
    Ping(&'a str),
    /// The answer to a ping of the server.
    Pong,
    /// A packet of Socket.IO.
    Message(&'a str),
    /// The client changes to this connection.
    Upgrade,
    /// A packet without meaning.
    Noop,
    /// Bytes, which no event of this service has.
    Binary,
}

/// The text is no packet of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Engine.IO packet")]
pub struct BadPacket;

impl Packet<'_> {
    /// Reads a packet.
    ///
    /// # Errors
    /// [`BadPacket`]
    pub fn parse(text: &str) -> Result<Packet<'_>, BadPacket> {
        let mut rest = text.chars();
        let kind = rest.next().ok_or(BadPacket)?;
        let rest = rest.as_str();
        match kind {
            '1' => Ok(Packet::Close),
            '2' => Ok(Packet::Ping(rest)),
            '3' => Ok(Packet::Pong),
            '4' => Ok(Packet::Message(rest)),
            '5' => Ok(Packet::Upgrade),
            '6' => Ok(Packet::Noop),
            'b' => Ok(Packet::Binary),
            _ => Err(BadPacket),
        }
    }
}

/// Splits a body into the texts of its packets.
///
/// # Errors
/// The body has more than [`MAX_PACKETS`], or an empty packet.
pub fn split(body: &str) -> Result<Vec<&str>, BadPacket> {
    let packets: Vec<&str> = body.split(SEPARATOR).take(MAX_PACKETS + 1).collect();
    match packets.len() > MAX_PACKETS || packets.iter().any(|p| p.is_empty()) {
        true => Err(BadPacket),
        false => Ok(packets),
    }
}

/// Joins the texts of packets into a body.
pub fn join<'a>(packets: impl ExactSizeIterator<Item = &'a str> + Clone) -> String {
    let mut body = String::with_capacity(
        packets
            .clone()
            .map(|p| p.len() + SEPARATOR.len_utf8())
            .sum(),
    );
    for (n, packet) in packets.enumerate() {
        if n > 0 {
            body.push(SEPARATOR);
        }
        body.push_str(packet);
    }
    body
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Open<'a> {
    sid: String,
    upgrades: &'a [&'a str],
    ping_interval: u64,
    ping_timeout: u64,
    max_payload: usize,
}

/// The first packet of a session. `max_payload` is the largest body of a POST, in bytes.
///
/// # Errors
/// None in practice, because numbers and short texts can be serialised.
pub fn open(sid: Sid, can_upgrade: bool, max_payload: usize) -> Result<String, serde_json::Error> {
    let upgrades: &[&str] = if can_upgrade { &["websocket"] } else { &[] };
    let open = Open {
        sid: sid.to_string(),
        upgrades,
        ping_interval: PING_INTERVAL.as_millis() as u64,
        ping_timeout: SILENCE_LIMIT.as_millis() as u64,
        max_payload,
    };
    serde_json::to_string(&open).map(|json| format!("0{json}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_of_packet_is_read() {
        for (text, packet) in [
            ("1", Packet::Close),
            ("2probe", Packet::Ping("probe")),
            ("3", Packet::Pong),
            ("42[\"a\"]", Packet::Message("2[\"a\"]")),
            ("5", Packet::Upgrade),
            ("6", Packet::Noop),
            ("bAAEC", Packet::Binary),
        ] {
            assert_eq!(Packet::parse(text), Ok(packet), "{text}");
        }
        // Only servers send `0`.
        for text in ["", "0{}", "7", "x", "é"] {
            assert_eq!(Packet::parse(text), Err(BadPacket), "{text}");
        }
    }

    #[test]
    fn a_body_is_split_into_packets_and_joined_again() {
        assert_eq!(split("3\u{1e}42[\"a\"]"), Ok(vec!["3", "42[\"a\"]"]));
        for body in ["", "\u{1e}", "3\u{1e}", "3\u{1e}\u{1e}3"] {
            assert_eq!(split(body), Err(BadPacket), "{body:?}");
        }
        assert_eq!(
            split(&vec!["3"; MAX_PACKETS].join("\u{1e}")).map(|p| p.len()),
            Ok(MAX_PACKETS)
        );
        assert_eq!(
            split(&vec!["3"; MAX_PACKETS + 1].join("\u{1e}")),
            Err(BadPacket)
        );
        assert_eq!(join(["2", "42[]"].into_iter()), "2\u{1e}42[]");
        assert_eq!(join([].into_iter()), "");
    }

    #[test]
    fn the_open_packet_holds_the_times_and_the_limit() {
        let json: serde_json::Value =
            serde_json::from_str(&open(Sid::new(0xab), true, 65_536).unwrap()[1..]).unwrap();
        let sid = format!("{:0>32}", "ab");
        assert_eq!(
            json,
            serde_json::json!({
                "sid": sid,
                "upgrades": ["websocket"],
                "pingInterval": 25_000,
                "pingTimeout": 60_000,
                "maxPayload": 65_536,
            })
        );
    }

    #[test]
    fn a_sid_is_read_only_as_it_is_written() {
        let sid = Sid::new(u128::MAX - 1);
        assert!(sid.to_string().parse() == Ok(sid));
        for text in [
            "",
            "+0000000000000000000000000000000",
            &"0".repeat(31),
            &"g".repeat(32),
        ] {
            assert!(text.parse::<Sid>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reading_any_body_does_not_panic(body in any::<String>()) {
            for packet in split(&body).unwrap_or_default() {
                let _ = Packet::parse(packet);
            }
            let _ = body.parse::<Sid>();
        }

        #[test]
        fn joined_packets_are_split_into_the_same_packets(
            packets in prop::collection::vec("[^\u{1e}]{1,20}", 1..40),
        ) {
            let body = join(packets.iter().map(String::as_str));
            prop_assert_eq!(split(&body).unwrap(), packets);
        }

        #[test]
        fn the_rest_of_a_message_packet_is_kept(rest in any::<String>()) {
            let text = format!("4{rest}");
            prop_assert_eq!(Packet::parse(&text), Ok(Packet::Message(&rest)));
        }

        #[test]
        fn every_sid_is_read_as_written(random in any::<u128>()) {
            let sid = Sid::new(random);
            prop_assert!(sid.to_string().parse() == Ok(sid));
        }
    }
}
