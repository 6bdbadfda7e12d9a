//! JSON frames of `/ws`: reads what clients send, writes what they get. `{"event", "data", "id"?}` both ways.

use std::borrow::Cow;

use axum::extract::ws::Utf8Bytes;
use nats::Id;
use nats::domain::Platform;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Longest `id` that is given back, in bytes.
const MAX_FRAME_ID: usize = 64;

/// What a client calls its frame, to know the answer by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FrameId {
    /// A counter.
    Number(u64),
    /// Any name of at most 64 bytes.
    Text(String),
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `conversation:join`
    Join(Id),
    /// `conversation:leave`
    Leave(Id),
    /// `typing:start`, `typing:stop`
    Typing { conversation: Id, is_typing: bool },
    /// `message:read`
    Read { conversation: Id, platform: Option<Platform> },
}

/// A frame of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFrame {
    /// With it the client wants an answer.
    pub id: Option<FrameId>,
    /// What it wants.
    pub command: Command,
}

/// Why a frame was not carried out: the `data` of an `error` event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// For programs.
    pub code: &'static str,
    /// For people.
    pub message: &'static str,
}

impl Failure {
    const fn malformed(message: &'static str) -> Failure {
        Failure { code: "MALFORMED_FRAME", message }
    }
}

/// A frame that cannot be read, with its `id` if that much could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFrame {
    /// As in [`ClientFrame`].
    pub id: Option<FrameId>,
    /// What is wrong.
    pub failure: Failure,
}

#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    id: Option<FrameId>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    conversation_id: Id,
    platform: Option<Platform>,
}

impl ClientFrame {
    /// Reads a text frame.
    ///
    /// # Errors
    /// Not JSON of the right shape, or an event that does not exist. The text itself is not repeated.
    pub fn parse(text: &str) -> Result<ClientFrame, BadFrame> {
        let outer: Outer<'_> = serde_json::from_str(text).map_err(|_| BadFrame {
            id: None,
            failure: Failure::malformed("a frame is JSON: {\"event\": text, \"data\": object, \"id\"?: text or number}"),
        })?;
        let (id, bad_id) = match outer.id {
            Some(FrameId::Text(text)) if text.len() > MAX_FRAME_ID => (None, true),
            id => (id, false),
        };
        if bad_id {
            return Err(BadFrame { id, failure: Failure::malformed("`id` is longer than 64 bytes") });
        }
        match Command::parse(&outer.event, outer.data) {
            Ok(command) => Ok(ClientFrame { id, command }),
            Err(failure) => Err(BadFrame { id, failure }),
        }
    }
}

impl Command {
    fn parse(event: &str, data: Option<&RawValue>) -> Result<Command, Failure> {
        let make: fn(Target) -> Command = match event {
            "conversation:join" => |t| Command::Join(t.conversation_id),
            "conversation:leave" => |t| Command::Leave(t.conversation_id),
            "typing:start" => |t| Command::Typing { conversation: t.conversation_id, is_typing: true },
            "typing:stop" => |t| Command::Typing { conversation: t.conversation_id, is_typing: false },
            "message:read" => |t| Command::Read { conversation: t.conversation_id, platform: t.platform },
            _ => return Err(Failure { code: "UNKNOWN_EVENT", message: "there is no such event" }),
        };
        let target = data.and_then(|data| serde_json::from_str(data.get()).ok());
        target.map(make).ok_or(Failure::malformed("`data` needs `conversationId`, 24 hex digits; `platform`, where given, is one of ours"))
    }
}

#[derive(Serialize)]
struct Written<'a, D> {
    event: &'a str,
    data: D,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a FrameId>,
}

/// A frame for clients.
///
/// # Errors
/// None in practice: every type that is written here serialises.
pub fn write<D: Serialize>(event: &str, data: D) -> Result<Utf8Bytes, serde_json::Error> {
    write_answer(event, data, None)
}

/// A frame that answers the client's frame `id`.
///
/// # Errors
/// As [`write()`].
pub fn write_answer<D: Serialize>(event: &str, data: D, id: Option<&FrameId>) -> Result<Utf8Bytes, serde_json::Error> {
    serde_json::to_string(&Written { event, data, id }).map(Utf8Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn parse(frame: Value) -> Result<ClientFrame, BadFrame> {
        ClientFrame::parse(&frame.to_string())
    }

    fn code(result: Result<ClientFrame, BadFrame>) -> &'static str {
        result.unwrap_err().failure.code
    }

    #[test]
    fn every_command_is_read() {
        let text = "b".repeat(24);
        let conversation: Id = text.parse().unwrap();
        for (event, command) in [
            ("conversation:join", Command::Join(conversation)),
            ("conversation:leave", Command::Leave(conversation)),
            ("typing:start", Command::Typing { conversation, is_typing: true }),
            ("typing:stop", Command::Typing { conversation, is_typing: false }),
            ("message:read", Command::Read { conversation, platform: None }),
        ] {
            let frame = parse(json!({"event": event, "data": {"conversationId": text}, "id": 7}));
            assert_eq!(frame, Ok(ClientFrame { id: Some(FrameId::Number(7)), command }));
        }
        let read = parse(json!({"event": "message:read", "data": {"conversationId": text, "platform": "web"}}));
        assert_eq!(read.unwrap().command, Command::Read { conversation, platform: Some(Platform::Web) });
    }

    #[test]
    fn what_is_wrong_is_told_with_the_id_where_there_is_one() {
        for text in ["", "null", "[]", "{}", "{\"event\":1}", "{\"event\":\"typing:start\",\"id\":{}}"] {
            assert_eq!(code(ClientFrame::parse(text)), "MALFORMED_FRAME", "{text}");
        }
        for data in [json!(null), json!({}), json!({"conversationId": "b"}), json!({"conversationId": 1}), json!("b")] {
            let bad = parse(json!({"event": "conversation:join", "data": data, "id": "q"})).unwrap_err();
            assert_eq!((bad.id, bad.failure.code), (Some(FrameId::Text("q".into())), "MALFORMED_FRAME"));
        }
        assert_eq!(code(parse(json!({"event": "message:new", "data": {}}))), "UNKNOWN_EVENT");
        assert_eq!(code(parse(json!({"event": "typing:stop", "id": "i".repeat(65)}))), "MALFORMED_FRAME");
    }

    #[test]
    fn an_answer_carries_the_clients_id() {
        let id = FrameId::Text("7".into());
        let text = write_answer("ack", json!({"ok": true}), Some(&id)).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({"event": "ack", "data": {"ok": true}, "id": "7"}));
        assert_eq!(write("error", json!({})).unwrap().as_str(), r#"{"event":"error","data":{}}"#);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = ClientFrame::parse(&text);
        }

        #[test]
        fn nothing_that_looks_like_a_frame_panics(event in "[a-z:]{0,20}", data in "[\\[\\]{}\":,0-9a-f\\\\u ]{0,60}", id in "[0-9\"-.e]{0,25}") {
            let _ = ClientFrame::parse(&format!(r#"{{"event":"{event}","data":{data},"id":{id}}}"#));
        }
    }
}
