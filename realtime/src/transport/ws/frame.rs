//! The JSON frames of `/ws`, `{"event", "data", "id"?}` both ways: reads those of clients and
//! writes the answers to them. Carries out no command.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::room::encode;
use crate::subscriber::command::{Command, Failure, Outcome};

/// Longest `id` that an answer repeats, in bytes. A frame with a longer one is refused.
const MAX_FRAME_ID: usize = 64;

/// The `id` that a client gives a frame, to recognise the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FrameId {
    /// A counter.
    Number(u64),
    /// A name of at most 64 bytes.
    Text(String),
}

/// A frame of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFrame {
    /// Set if the client wants an answer.
    pub id: Option<FrameId>,
    /// The command of the client.
    pub command: Command,
}

/// A frame that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFrame {
    /// The frame's `id`, if that could be read.
    pub id: Option<FrameId>,
    /// The answer to the client.
    pub failure: Failure,
}

#[derive(Deserialize)]
struct RawFrame<'a> {
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
    /// The text is no JSON of the right shape, or names an event that does not exist. The error
    /// does not repeat the text.
    pub fn parse(text: &str) -> Result<ClientFrame, BadFrame> {
        let raw: RawFrame<'_> = serde_json::from_str(text).map_err(|_| BadFrame {
            id: None,
            failure: Failure::malformed(
                "a frame is JSON: {\"event\": text, \"data\": object, \"id\"?: text or number}",
            ),
        })?;
        if let Some(FrameId::Text(id)) = &raw.id
            && id.len() > MAX_FRAME_ID
        {
            return Err(BadFrame {
                id: None,
                failure: Failure::malformed("`id` is longer than 64 bytes"),
            });
        }
        let id = raw.id;
        match Command::parse(&raw.event, raw.data.map(RawValue::get)) {
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

/// The answer to a client's frame: `ack` for a success if the frame had an `id`, `error` for every
/// failure. Returns `None` for a success without an `id`.
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
    fn a_frame_has_an_event_data_and_an_optional_id() {
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
    fn a_bad_frame_is_refused_with_its_id_if_that_is_readable() {
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
    fn an_answer_repeats_the_id_of_the_frame() {
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
        fn parsing_any_text_does_not_panic(text in any::<String>()) {
            let _ = ClientFrame::parse(&text);
        }

        #[test]
        fn parsing_a_text_like_a_frame_does_not_panic(
            event in "[a-z:]{0,20}",
            data in "[\\[\\]{}\":,0-9a-f\\\\u ]{0,60}",
            id in "[0-9\"-.e]{0,25}",
        ) {
            let text = format!(r#"{{"event":"{event}","data":{data},"id":{id}}}"#);
            let _ = ClientFrame::parse(&text);
        }
    }
}
