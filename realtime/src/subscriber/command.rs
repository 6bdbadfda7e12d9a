//! The commands of clients, whichever their transport, and how they are carried out. Knows no
//! connection of a client.

use std::time::Duration;

use contract::domain::Platform;
use contract::event::{Actor, Envelope, Event, MessageRead};
use contract::subject;
use contract::trace::TraceContext;
use contract::{Id, Timestamp};
use futures_util::future::BoxFuture;
use metrics::counter;
use runtime::log::publisher::{Outgoing, PublishError, Publisher};
use runtime::net::connection::Connection;
use serde::{Deserialize, Deserializer, Serialize};
use tracing::warn;

use crate::auth::session::Session;
use crate::room::typing::Typing;

/// Longest wait until the NATS client has taken a typing indicator. Beyond it, the indicator is
/// dropped and the command fails.
const TYPING_DEADLINE: Duration = Duration::from_secs(1);

/// A command of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `conversation:join`
    Join(Id),
    /// `conversation:leave`
    Leave(Id),
    /// `typing:start`, `typing:stop`
    Typing { conversation: Id, is_typing: bool },
    /// `message:read`
    Read {
        conversation: Id,
        /// Set if only the messages of one platform are read.
        platform: Option<Platform>,
    },
}

/// Why a command was not carried out: the `data` of an `error` event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The kind of failure, for programs.
    pub code: &'static str,
    /// The text, for people.
    pub message: &'static str,
}

impl Failure {
    /// The frame cannot be read.
    pub const fn malformed(message: &'static str) -> Failure {
        Failure {
            code: "MALFORMED_FRAME",
            message,
        }
    }

    /// There is no such event.
    pub const UNKNOWN_EVENT: Failure = Failure {
        code: "UNKNOWN_EVENT",
        message: "there is no such event",
    };
    /// NATS cannot be reached.
    pub const UNAVAILABLE: Failure = Failure {
        code: "UNAVAILABLE",
        message: "this cannot be done right now; try again",
    };
    /// The client sends too many frames a second.
    pub const RATE_LIMITED: Failure = Failure {
        code: "RATE_LIMITED",
        message: "too many frames; this one was ignored",
    };
    /// The socket has joined too many conversations.
    pub const TOO_MANY_CONVERSATIONS: Failure = Failure {
        code: "TOO_MANY_CONVERSATIONS",
        message: "this socket has joined as many conversations as it may",
    };
}

/// The success of a command: the `data` of an `ack`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Done {
    /// Always `true`.
    pub ok: bool,
    /// The sequence of the event that the command stored, if it stored one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

impl Done {
    /// The success of a command that stores nothing.
    pub const OK: Done = Done {
        ok: true,
        seq: None,
    };
}

/// How a command ends.
pub type Outcome = Result<Done, Failure>;

/// How a command is carried out.
pub enum Execution {
    /// The command has ended.
    Now(Outcome),
    /// The command ends within [`runtime::log::publisher::PUBLISH_DEADLINE`].
    Later(BoxFuture<'static, Outcome>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    conversation_id: Id,
    #[serde(default, deserialize_with = "in_any_case")]
    platform: Option<Platform>,
}

/// Reads the name of a platform as the gateway does: upper and lower case are the same.
fn in_any_case<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Platform>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let platform = text.trim().to_lowercase().parse();
    platform.map(Some).map_err(serde::de::Error::custom)
}

impl Command {
    /// Reads an event of a client. `data` is JSON.
    ///
    /// # Errors
    /// There is no such event, or its data has the wrong shape. The error does not repeat the text.
    pub fn parse(event: &str, data: Option<&str>) -> Result<Command, Failure> {
        let make: fn(Target) -> Command = match event {
            "conversation:join" => |t| Command::Join(t.conversation_id),
            "conversation:leave" => |t| Command::Leave(t.conversation_id),
            "typing:start" => |t| Command::Typing {
                conversation: t.conversation_id,
                is_typing: true,
            },
            "typing:stop" => |t| Command::Typing {
                conversation: t.conversation_id,
                is_typing: false,
            },
            "message:read" => |t| Command::Read {
                conversation: t.conversation_id,
                platform: t.platform,
            },
            _ => return Err(Failure::UNKNOWN_EVENT),
        };
        let target = data.and_then(|data| serde_json::from_str(data).ok());
        target.map(make).ok_or(Failure::malformed(
            "`data` needs `conversationId`, 24 hex digits; `platform`, where given, is one of ours",
        ))
    }
}

/// Publishes a typing indicator to all nodes. It is dropped if NATS cannot be reached.
pub async fn publish_typing(
    connection: Connection,
    company: Id,
    conversation: Id,
    typing: Typing,
) -> Outcome {
    let payload = serde_json::to_vec(&typing).map_err(|_| Failure::UNAVAILABLE)?;
    let subject = subject::typing(company, conversation);
    match connection
        .publish_now(subject, payload.into(), TYPING_DEADLINE)
        .await
    {
        Ok(()) => Ok(Done::OK),
        Err(_) => {
            counter!("realtime_typing_dropped_total").increment(1);
            Err(Failure::UNAVAILABLE)
        }
    }
}

/// Stores the event `message.read`. The persister applies it like `PUT mark-read`.
pub async fn publish_read(publisher: Publisher, session: Session, read: MessageRead) -> Outcome {
    let now = Timestamp::now();
    let envelope = Envelope::new(
        now,
        Actor::User { id: session.user },
        session.company,
        Event::MessageRead(read),
    );
    let stored = match Outgoing::event(&envelope, envelope.id.to_string(), TraceContext::generate())
    {
        Ok(event) => publisher.publish(event).await,
        Err(e) => Err(e),
    };
    match stored {
        Ok(receipt) => Ok(Done {
            ok: true,
            seq: Some(receipt.seq),
        }),
        Err(error) => {
            warn!(
                company = %session.company,
                user = %session.user,
                %error,
                "message:read was not stored"
            );
            Err(match error {
                PublishError::Refused(_) | PublishError::Taken(_) => Failure {
                    code: "REFUSED",
                    message: "the log refuses this",
                },
                PublishError::Overloaded | PublishError::Unavailable(_) | PublishError::Full => {
                    Failure::UNAVAILABLE
                }
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn every_kind_of_command_is_read() {
        let text = "b".repeat(24);
        let conversation: Id = text.parse().unwrap();
        let data = json!({"conversationId": text}).to_string();
        for (event, command) in [
            ("conversation:join", Command::Join(conversation)),
            ("conversation:leave", Command::Leave(conversation)),
            (
                "typing:start",
                Command::Typing {
                    conversation,
                    is_typing: true,
                },
            ),
            (
                "typing:stop",
                Command::Typing {
                    conversation,
                    is_typing: false,
                },
            ),
            (
                "message:read",
                Command::Read {
                    conversation,
                    platform: None,
                },
            ),
        ] {
            assert_eq!(Command::parse(event, Some(&data)), Ok(command));
        }
        for (name, platform) in [
            (json!("web"), Some(Platform::Web)),
            (json!("Facebook"), Some(Platform::Facebook)),
            (json!("WHATSAPP"), Some(Platform::Whatsapp)),
            (json!(" Telegram "), Some(Platform::Telegram)),
            (json!(null), None),
        ] {
            let data = json!({"conversationId": text, "platform": name}).to_string();
            let command = Command::Read {
                conversation,
                platform,
            };
            assert_eq!(Command::parse("message:read", Some(&data)), Ok(command));
        }
        for name in [json!("myspace"), json!(""), json!(1), json!(["web"])] {
            let data = json!({"conversationId": text, "platform": name}).to_string();
            let code = Command::parse("message:read", Some(&data))
                .unwrap_err()
                .code;
            assert_eq!(code, "MALFORMED_FRAME", "{name}");
        }
    }

    #[test]
    fn a_bad_command_is_refused_with_its_code() {
        for data in [
            None,
            Some("null"),
            Some("{}"),
            Some(r#"{"conversationId":"b"}"#),
            Some(r#"{"conversationId":1}"#),
            Some("\"b\""),
        ] {
            assert_eq!(
                Command::parse("conversation:join", data).unwrap_err().code,
                "MALFORMED_FRAME",
                "{data:?}"
            );
        }
        assert_eq!(
            Command::parse("message:new", Some("{}")).unwrap_err().code,
            "UNKNOWN_EVENT"
        );
    }

    proptest! {
        #[test]
        fn parsing_any_text_does_not_panic(event in "[a-z:]{0,20}", data in any::<String>()) {
            let _ = Command::parse(&event, Some(&data));
            let _ = Command::parse("message:read", Some(&data));
        }
    }
}
