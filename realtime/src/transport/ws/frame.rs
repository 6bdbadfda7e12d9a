//! JSON frames of `/ws`: reads what clients send, writes what answers them. `{"event", "data",
//! "id"?}` both ways.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::room::encode;
use crate::subscriber::command::{Command, Failure, Outcome};

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

/// A frame of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFrame {
    /// With it the client wants an answer.
    pub id: Option<FrameId>,
    /// What it wants.
    pub command: Command,
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

impl ClientFrame {
    /// Reads a text frame.
    ///
    /// # Errors
    /// Not JSON of the right shape, or an event that does not exist. The text itself is not
    /// repeated.
    pub fn parse(text: &str) -> Result<ClientFrame, BadFrame> {
        let outer: Outer<'_> = serde_json::from_str(text).map_err(|_| BadFrame {
            id: None,
            failure: Failure::malformed(
                "a frame is JSON: {\"event\": text, \"data\": object, \"id\"?: text or number}",
            ),
        })?;
        let (id, bad_id) = match outer.id {
            Some(FrameId::Text(text)) if text.len() > MAX_FRAME_ID => (None, true),
            id => (id, false),
        };
        if bad_id {
            return Err(BadFrame {
                id,
                failure: Failure::malformed("`id` is longer than 64 bytes"),
            });
        }
        match Command::parse(&outer.event, outer.data.map(RawValue::get)) {
            Ok(command) => Ok(ClientFrame { id, command }),
            Err(failure) => Err(BadFrame { id, failure }),
        }
    }
}

#[derive(Serialize)]
struct Answer<'a, D> {
    event: &'a str,
    data: D,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a FrameId>,
}

/// What answers a client's frame: `ack` if it had an `id`, `error` in any case. `None` where
/// nothing is to be said.
pub fn answer(id: Option<&FrameId>, outcome: Outcome) -> Option<Bytes> {
    let text = match outcome {
        Ok(_) if id.is_none() => return None,
        Ok(data) => serde_json::to_string(&Answer {
            event: "ack",
            data,
            id,
        }),
        Err(data) => serde_json::to_string(&Answer {
            event: "error",
            data,
            id,
        }),
    };
    text.inspect_err(|e| tracing::error!(error = %e, "an answer cannot be written"))
        .ok()
        .map(|text| encode::text_frame(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscriber::command::Done;
    use contract::Id;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn parse(frame: Value) -> Result<ClientFrame, BadFrame> {
        ClientFrame::parse(&frame.to_string())
    }

    fn code(result: Result<ClientFrame, BadFrame>) -> &'static str {
        result.unwrap_err().failure.code
    }

    #[test]
    fn a_frame_is_an_event_with_data_and_perhaps_an_id() {
        let text = "b".repeat(24);
        let command = Command::Join(text.parse::<Id>().unwrap());
        let frame =
            parse(json!({"event": "conversation:join", "data": {"conversationId": text}, "id": 7}));
        assert_eq!(
            frame,
            Ok(ClientFrame {
                id: Some(FrameId::Number(7)),
                command
            })
        );
        let frame = parse(
            json!({"event": "conversation:join", "data": {"conversationId": text}, "more": 1}),
        );
        assert_eq!(frame, Ok(ClientFrame { id: None, command }));
    }

    #[test]
    fn what_is_wrong_is_told_with_the_id_where_there_is_one() {
        for text in [
            "",
            "null",
            "[]",
            "{}",
            "{\"event\":1}",
            "{\"event\":\"typing:start\",\"id\":{}}",
        ] {
            assert_eq!(code(ClientFrame::parse(text)), "MALFORMED_FRAME", "{text}");
        }
        let bad = parse(json!({"event": "conversation:join", "data": {}, "id": "q"})).unwrap_err();
        assert_eq!(
            (bad.id, bad.failure.code),
            (Some(FrameId::Text("q".into())), "MALFORMED_FRAME")
        );
        assert_eq!(
            code(parse(json!({"event": "message:new", "data": {}}))),
            "UNKNOWN_EVENT"
        );
        assert_eq!(
            code(parse(json!({"event": "typing:stop", "id": "i".repeat(65)}))),
            "MALFORMED_FRAME"
        );
    }

    #[test]
    fn an_answer_carries_the_clients_id() {
        let (id, seven) = (
            FrameId::Text("7".into()),
            Done {
                seq: Some(7),
                ..Done::OK
            },
        );
        let ack = encode::text_frame(r#"{"event":"ack","data":{"ok":true,"seq":7},"id":"7"}"#);
        assert_eq!(answer(Some(&id), Ok(seven)), Some(ack));
        assert_eq!(answer(None, Ok(Done::OK)), None);
        let error = encode::text_frame(r#"{"event":"error","data":{"code":"C","message":"m"}}"#);
        assert_eq!(
            answer(
                None,
                Err(Failure {
                    code: "C",
                    message: "m"
                })
            ),
            Some(error)
        );
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
