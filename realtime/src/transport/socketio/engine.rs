//! Engine.IO, protocol 4: the packets under Socket.IO, alone in a WebSocket frame or many in the
//! body of a poll. Text only; it knows no transport and no event.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// Between the packets of a body.
const SEPARATOR: char = '\u{1e}';
/// Packets in one body of a client. A page that opens may join many conversations at once; how many
/// it may is not known here.
pub const MAX_PACKETS: usize = 4_096;

/// The secret name of a session: who knows it can poll. Clients see another one as `socket.id`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sid(u128);

impl Sid {
    /// Of random bits.
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
    /// A probe of the transport that it wants to change to, with its text.
    Ping(&'a str),
    /// The answer to ours.
    Pong,
    /// A packet of Socket.IO.
    Message(&'a str),
    /// The change of transport is done.
    Upgrade,
    /// Nothing.
    Noop,
    /// Bytes. There are none in our events.
    Binary,
}

/// Not a packet of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Engine.IO packet")]
pub struct BadPacket;

impl Packet<'_> {
    /// Reads one.
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

/// The packets of a body, as texts.
///
/// # Errors
/// More than [`MAX_PACKETS`], or an empty one.
pub fn split(body: &str) -> Result<Vec<&str>, BadPacket> {
    let packets: Vec<&str> = body.split(SEPARATOR).take(MAX_PACKETS + 1).collect();
    match packets.len() > MAX_PACKETS || packets.iter().any(|p| p.is_empty()) {
        true => Err(BadPacket),
        false => Ok(packets),
    }
}

/// A body of packets that are written already.
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
/// None in practice: numbers and short texts.
pub fn open(sid: Sid, can_upgrade: bool, max_payload: usize) -> Result<String, serde_json::Error> {
    let upgrades: &[&str] = if can_upgrade { &["websocket"] } else { &[] };
    let (ping_interval, ping_timeout) = (
        super::PING_INTERVAL.as_millis() as u64,
        super::PING_TIMEOUT.as_millis() as u64,
    );
    let open = Open {
        sid: sid.to_string(),
        upgrades,
        ping_interval,
        ping_timeout,
        max_payload,
    };
    serde_json::to_string(&open).map(|json| format!("0{json}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_packet_is_read() {
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
        // `0` comes from servers only.
        for text in ["", "0{}", "7", "x", "é"] {
            assert_eq!(Packet::parse(text), Err(BadPacket), "{text}");
        }
    }

    #[test]
    fn bodies_are_split_and_joined() {
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
    fn a_session_opens_with_its_times() {
        let json: serde_json::Value =
            serde_json::from_str(&open(Sid::new(0xab), true, 65_536).unwrap()[1..]).unwrap();
        let sid = format!("{:0>32}", "ab");
        assert_eq!(
            json,
            serde_json::json!({"sid": sid, "upgrades": ["websocket"], "pingInterval": 25_000, "pingTimeout": 60_000, "maxPayload": 65_536})
        );
    }

    #[test]
    fn a_sid_is_read_as_written_only() {
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
        fn no_body_panics(body in any::<String>()) {
            for packet in split(&body).unwrap_or_default() {
                let _ = Packet::parse(packet);
            }
        }
    }
}
