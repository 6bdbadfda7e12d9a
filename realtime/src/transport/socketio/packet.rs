//! Socket.IO, protocol 5: reads and writes the packets in the messages of Engine.IO. Knows the main
//! namespace only. What an event does is in `subscriber::command`.

use std::fmt;

use contract::Id;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::subscriber::cursor::Cursor;

/// Longest number of an acknowledgement, in digits. A packet with a longer one is refused.
const MAX_ACK_DIGITS: usize = 15;
/// Attachments of one packet. A packet with more is refused.
const MAX_ATTACHMENTS: usize = 100;
/// Longest name of a namespace, in bytes. A packet with a longer one is refused.
const MAX_NAMESPACE: usize = 64;

/// The number by which a client recognises the answer to its event.
pub type AckId = u64;

/// The `auth` of a client's `io(url, {auth})`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Auth {
    /// The access token.
    pub token: Option<String>,
    /// The sequence of the last event that the client has. The client gets the events after it.
    pub last_seq: Option<Cursor>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("last_seq", &self.last_seq)
            .finish_non_exhaustive()
    }
}

/// A packet of a client.
#[derive(Debug)]
pub enum Packet<'a> {
    /// The client wants to be admitted.
    Connect(Auth),
    /// The client leaves.
    Disconnect,
    /// The client gives a command.
    Event(Event<'a>),
    /// An answer to the server. The server never asks for one.
    Ack,
    /// A packet for a namespace that does not exist. `true` means that the client wants to be
    /// admitted there.
    OtherNamespace(&'a str, bool),
}

/// An event of a client.
#[derive(Debug)]
pub struct Event<'a> {
    /// The event's name.
    pub name: String,
    /// The first argument. Further arguments are ignored.
    pub data: Option<&'a RawValue>,
    /// Set if the client has a callback for the answer.
    pub ack: Option<AckId>,
    /// Whether the arguments contain bytes, which follow as attachments.
    pub is_binary: bool,
}

/// A packet that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPacket {
    /// The text is no packet of Socket.IO.
    Malformed,
    /// The `auth` of a `Connect` has the wrong shape.
    Auth,
}

impl Packet<'_> {
    /// Reads the text of an Engine.IO message.
    ///
    /// # Errors
    /// See [`BadPacket`]. The error does not repeat the text.
    pub fn parse(text: &str) -> Result<Packet<'_>, BadPacket> {
        let mut rest = text.chars();
        let kind = rest.next().ok_or(BadPacket::Malformed)?;
        let rest = match kind {
            '5' | '6' => split_attachments(rest.as_str())?.1,
            _ => rest.as_str(),
        };
        if rest.starts_with('/') {
            let namespace = rest.split(',').next().unwrap_or_default();
            return match namespace.len() <= MAX_NAMESPACE {
                // A client may name the main namespace, too.
                true if namespace == "/" => Packet::of(kind, rest.get(2..).unwrap_or_default()),
                true => Ok(Packet::OtherNamespace(namespace, kind == '0')),
                false => Err(BadPacket::Malformed),
            };
        }
        Packet::of(kind, rest)
    }

    fn of(kind: char, rest: &str) -> Result<Packet<'_>, BadPacket> {
        match kind {
            '0' if rest.is_empty() => Ok(Packet::Connect(Auth::default())),
            '0' => serde_json::from_str::<Option<Auth>>(rest)
                .map(|a| Packet::Connect(a.unwrap_or_default()))
                .map_err(|_| BadPacket::Auth),
            '1' => Ok(Packet::Disconnect),
            '2' | '5' => event(rest, kind == '5').map(Packet::Event),
            '3' | '6' => Ok(Packet::Ack),
            _ => Err(BadPacket::Malformed),
        }
    }
}

/// How many binary packets follow a packet as its attachments.
pub fn attachments(text: &str) -> usize {
    let counted = text.strip_prefix(['5', '6']).map(split_attachments);
    counted.and_then(Result::ok).map_or(0, |(count, _)| count)
}

/// The number before the first `-`, and what follows it.
fn split_attachments(text: &str) -> Result<(usize, &str), BadPacket> {
    let (count, rest) = text.split_once('-').ok_or(BadPacket::Malformed)?;
    match count.parse() {
        Ok(count) if count <= MAX_ATTACHMENTS => Ok((count, rest)),
        _ => Err(BadPacket::Malformed),
    }
}

fn event(rest: &str, is_binary: bool) -> Result<Event<'_>, BadPacket> {
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, arguments) = rest.split_at(digits);
    let ack = match number.len() {
        0 => None,
        1..=MAX_ACK_DIGITS => Some(number.parse().map_err(|_| BadPacket::Malformed)?),
        _ => return Err(BadPacket::Malformed),
    };
    let Arguments { name, data } =
        serde_json::from_str(arguments).map_err(|_| BadPacket::Malformed)?;
    Ok(Event {
        name,
        data,
        ack,
        is_binary,
    })
}

/// The name of an event. The clients' library takes numbers, too.
#[derive(Deserialize)]
#[serde(untagged)]
enum Name {
    Text(String),
    Number(serde_json::Number),
}

/// `["name", first, …]`
struct Arguments<'a> {
    name: String,
    data: Option<&'a RawValue>,
}

impl<'de> Deserialize<'de> for Arguments<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Arguments<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list that begins with a name")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let name: Name = list
                    .next_element()?
                    .ok_or_else(|| serde::de::Error::invalid_length(0, &self))?;
                let data = list.next_element()?;
                while list.next_element::<IgnoredAny>()?.is_some() {}
                let name = match name {
                    Name::Text(name) => name,
                    Name::Number(number) => number.to_string(),
                };
                Ok(Arguments { name, data })
            }
        }

        deserializer.deserialize_seq(List)
    }
}

/// The packet that removes the client from the namespace.
pub const DISCONNECT: &str = "41";

/// The answer to an event.
///
/// # Errors
/// None in practice, because every answer of this crate can be serialised.
pub fn write_ack(id: AckId, answer: &impl Serialize) -> Result<String, serde_json::Error> {
    serde_json::to_string(answer).map(|json| format!("43{id}[{json}]"))
}

/// Tells the client that it is admitted. The client sees `id` as `socket.id`.
pub fn write_connected(id: Id) -> String {
    format!("40{{\"sid\":\"{id}\"}}")
}

/// Tells the client that it is not admitted. Its `connect_error` has `err.message` and `err.data`.
///
/// # Errors
/// None in practice, because every refusal of this crate can be serialised.
pub fn write_connect_error(
    message: &str,
    data: &impl Serialize,
) -> Result<String, serde_json::Error> {
    #[derive(Serialize)]
    struct Refused<'a, D> {
        message: &'a str,
        data: &'a D,
    }
    serde_json::to_string(&Refused { message, data }).map(|json| format!("44{json}"))
}

/// Tells the client that there is no such namespace, in the words of the original server.
pub fn write_invalid_namespace(namespace: &str) -> String {
    format!("44{namespace},{{\"message\":\"Invalid namespace\"}}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse_event(text: &str) -> (String, Option<String>, Option<AckId>) {
        match Packet::parse(text) {
            Ok(Packet::Event(e)) => (e.name, e.data.map(|d| d.get().to_owned()), e.ack),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_connect_packet_holds_the_token_if_there_is_one() {
        let auth = |text| match Packet::parse(text) {
            Ok(Packet::Connect(auth)) => auth,
            other => panic!("{text}: {other:?}"),
        };
        let full = auth(r#"0{"token":"t","last_seq":7,"more":[]}"#);
        assert_eq!(
            (full.token.as_deref(), full.last_seq),
            (Some("t"), Some(Cursor::After(7)))
        );
        assert!(
            !format!("{full:?}").contains("\"t\""),
            "tokens are not shown"
        );
        for text in ["0", "0{}", "0null", "0/", "0/,", "0/,{}"] {
            assert_eq!(auth(text), Auth::default(), "{text}");
        }
        assert_eq!(auth(r#"0/,{"token":"t"}"#).token.as_deref(), Some("t"));
        for (text, cursor) in [
            (r#"0{"last_seq":"7"}"#, Some(Cursor::After(7))),
            (r#"0{"last_seq":""}"#, Some(Cursor::Unusable)),
            (r#"0{"last_seq":-1}"#, Some(Cursor::Unusable)),
            (r#"0{"last_seq":null}"#, None),
        ] {
            assert_eq!(auth(text).last_seq, cursor, "{text}");
        }
        for text in ["0[]", "0x", r#"0{"token":1}"#] {
            assert!(
                matches!(Packet::parse(text), Err(BadPacket::Auth)),
                "{text}"
            );
        }
    }

    #[test]
    fn an_event_packet_holds_name_argument_and_number() {
        assert_eq!(
            parse_event(r#"2["typing:stop"]"#),
            ("typing:stop".into(), None, None)
        );
        assert_eq!(
            parse_event(r#"217["a",{"b":[1]},"c"]"#),
            ("a".into(), Some(r#"{"b":[1]}"#.into()), Some(17))
        );
        assert_eq!(
            parse_event(r#"2/,0["a","b"]"#),
            ("a".into(), Some("\"b\"".into()), Some(0))
        );
        for text in [
            "",
            "2",
            "2[]",
            "2[{}]",
            "2{}",
            "2abc",
            r#"2abc["a"]"#,
            r#"2["a""#,
            r#"21234567890123456["a"]"#,
            r#"2-1["a"]"#,
            r#"5["a"]"#,
            r#"5-["a"]"#,
            r#"5x-["a"]"#,
            r#"5101-["a"]"#,
            "5",
            "6",
            "7",
            "abc",
            "x",
        ] {
            assert!(
                matches!(Packet::parse(text), Err(BadPacket::Malformed)),
                "{text}"
            );
        }
        assert_eq!(parse_event("2[7]"), ("7".into(), None, None));
    }

    #[test]
    fn a_binary_packet_says_how_many_attachments_follow() {
        for (text, name, ack, count) in [
            (r#"51-["a",{"_placeholder":true,"num":0}]"#, "a", None, 1),
            (r#"52-7["b",{},{}]"#, "b", Some(7), 2),
            (r#"51-/,7["c"]"#, "c", Some(7), 1),
            (r#"50-["d"]"#, "d", None, 0),
        ] {
            let Ok(Packet::Event(event)) = Packet::parse(text) else {
                panic!("{text}")
            };
            assert_eq!((event.name.as_str(), event.ack), (name, ack), "{text}");
            assert!(event.is_binary, "{text}");
            assert_eq!(attachments(text), count, "{text}");
        }
        assert!(matches!(Packet::parse("61-7[]"), Ok(Packet::Ack)));
        assert_eq!(attachments("61-7[]"), 1);
        assert!(matches!(
            Packet::parse(r#"53-/admin,["a"]"#),
            Ok(Packet::OtherNamespace("/admin", false))
        ));
        for text in ["2[\"a\"]", "0", "", "51", "5101-[\"a\"]"] {
            assert_eq!(attachments(text), 0, "{text}");
        }
    }

    #[test]
    fn packets_for_other_namespaces_are_recognised() {
        assert!(matches!(
            Packet::parse("0/admin,{}"),
            Ok(Packet::OtherNamespace("/admin", true))
        ));
        assert!(matches!(
            Packet::parse(r#"2/admin,["a"]"#),
            Ok(Packet::OtherNamespace("/admin", false))
        ));
        assert!(matches!(
            Packet::parse(&format!("0/{}", "a".repeat(MAX_NAMESPACE))),
            Err(BadPacket::Malformed)
        ));
        assert_eq!(
            write_invalid_namespace("/admin"),
            r#"44/admin,{"message":"Invalid namespace"}"#
        );
    }

    #[test]
    fn written_packets_are_socket_io() {
        assert_eq!(
            write_ack(3, &json!({"ok": true})).unwrap(),
            r#"433[{"ok":true}]"#
        );
        assert_eq!(
            write_connected(Id::from_bytes([0xab; 12])),
            format!(r#"40{{"sid":"{}"}}"#, "ab".repeat(12))
        );
        assert_eq!(
            write_connect_error("no", &json!({"code": "X"})).unwrap(),
            r#"44{"message":"no","data":{"code":"X"}}"#
        );
    }

    proptest! {
        #[test]
        fn parsing_any_text_does_not_panic(text in any::<String>()) {
            let _ = (Packet::parse(&text), attachments(&text));
        }

        #[test]
        fn every_event_is_read_as_written(
            name in any::<String>(),
            data in prop::option::of(any::<String>()),
            ack in prop::option::of(0..10_u64.pow(MAX_ACK_DIGITS as u32)),
        ) {
            let arguments = [Some(&name), data.as_ref()].into_iter().flatten();
            let arguments: Vec<&String> = arguments.collect();
            let ack_digits = ack.map_or(String::new(), |ack| ack.to_string());
            let text = format!("2{ack_digits}{}", json!(arguments));
            let data = data.map(|data| json!(data).to_string());
            prop_assert_eq!(parse_event(&text), (name, data, ack));
        }

        #[test]
        fn parsing_a_text_like_a_packet_does_not_panic(
            kind in "[0-6]{1,3}-?",
            rest in "[\\[\\]{}\":,/0-9a-f\\\\u é]{0,60}",
        ) {
            let _ = Packet::parse(&format!("{kind}{rest}"));
        }
    }
}
