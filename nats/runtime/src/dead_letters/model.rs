//! A stored dead letter as a value: what its headers and its subject say, who may see which part of
//! it, and why something cannot be done with it. No I/O.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use serde_json::Value;

use crate::kv::bucket::BucketError;
use crate::log::direct_get::{ReadError, StoredMessage};
use contract::dead_letter::{Resolution, State, SubjectInfo};
use contract::{Id, Timestamp};
use contract::{header, subject};

/// Whose dead letters a caller may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The dead letters of all companies, and those of no company: for operators.
    All,
    /// The dead letters of one company. To its managers no other dead letter exists.
    Company(Id),
}

impl Scope {
    pub(super) fn company(self) -> Option<Id> {
        match self {
            Scope::All => None,
            Scope::Company(company) => Some(company),
        }
    }

    pub(super) fn has(self, info: &SubjectInfo) -> bool {
        self.company()
            .is_none_or(|company| info.company == Some(company))
    }
}

/// A dead letter without its payload.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DeadLetter {
    /// Its sequence in `DEAD`.
    pub seq: u64,
    /// What has become of it.
    pub state: State,
    /// Who gave it up.
    pub service: String,
    /// The subject that its message came on, and to which it is replayed.
    pub subject: String,
    /// Why; another build may have others than this one's.
    pub reason: String,
    /// The error's text. `None` where it could quote what the caller may not see.
    pub error: Option<String>,
    /// How often the message was tried.
    pub attempts: u64,
    /// The stream it was consumed from.
    pub stream: String,
    /// Its sequence there.
    pub stream_seq: u64,
    /// Its place in the log, which a replay keeps: the sequence in `EVENTS` that its event had
    /// first. The work of a job has none.
    pub event_seq: Option<u64>,
    /// When it became a dead letter.
    pub first_at: Timestamp,
    /// When `DEAD` has stored it. Filters go by it.
    pub stored_at: Timestamp,
    /// The letter that its message was replayed from.
    pub replay_of: Option<u64>,
    /// The tenant.
    pub company_id: Option<Id>,
    /// The conversation.
    pub contact_id: Option<Id>,
    /// The message.
    pub message_id: Option<Id>,
    /// Who decided what became of it, when and why.
    #[serde(rename = "fate")]
    pub resolution: Option<Resolution>,
}

impl DeadLetter {
    /// Returns `None` for a message whose subject is not that of a dead letter.
    pub(super) fn of(stored: &StoredMessage) -> Option<DeadLetter> {
        let (service, original) = subject::from_dead(&stored.subject)?;
        let text = |name: &str| stored.header(name).unwrap_or_default().to_owned();
        let number = |name: &str| stored.header(name).and_then(|n| n.parse().ok());
        let info = SubjectInfo::of(original);
        Some(DeadLetter {
            seq: stored.seq,
            state: State::Open,
            service: service.to_owned(),
            subject: original.to_owned(),
            reason: text(header::DEAD_REASON),
            error: stored.header(header::DEAD_ERROR).map(str::to_owned),
            attempts: number(header::DEAD_ATTEMPTS).unwrap_or(0),
            stream: text(header::DEAD_STREAM),
            stream_seq: number(header::DEAD_STREAM_SEQ).unwrap_or(0),
            event_seq: number(header::EVENT_SEQ),
            first_at: stored
                .header(header::DEAD_FIRST_AT)
                .and_then(|at| at.parse().ok())
                .unwrap_or(stored.stored_at),
            stored_at: stored.stored_at,
            replay_of: number(header::REPLAY_OF),
            company_id: info.company,
            contact_id: info.contact,
            message_id: message_id(&stored.payload),
            resolution: None,
        })
    }

    pub(super) fn subject_info(&self) -> SubjectInfo {
        SubjectInfo::of(&self.subject)
    }

    /// What has become of the dead letter, by [`DeadLetter::resolution`].
    pub(super) fn current_state(&self) -> State {
        self.resolution
            .as_ref()
            .map_or(State::Open, |resolution| resolution.state)
    }

    /// The dead letter as callers of this scope may see it.
    pub(super) fn for_scope(mut self, scope: Scope) -> DeadLetter {
        self.state = self.current_state();
        if is_hidden(&self.subject_info(), scope) {
            self.error = None;
        }
        self
    }
}

/// The message that a payload is about; `None` unless the payload is an event about a message.
fn message_id(payload: &[u8]) -> Option<Id> {
    #[derive(serde::Deserialize)]
    struct Envelope {
        data: Data,
    }
    #[derive(serde::Deserialize)]
    struct Data {
        _id: Option<Id>,
        message_id: Option<Id>,
        content: Option<serde::de::IgnoredAny>,
    }
    let Envelope { data } = serde_json::from_slice(payload).ok()?;
    // A contact has an `_id` too, and no content.
    data.message_id.or(data.content.and(data._id))
}

fn is_hidden(info: &SubjectInfo, scope: Scope) -> bool {
    scope != Scope::All && !info.is_plain
}

/// A dead letter, whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = ShownLetter))]
pub struct DeadLetterDetail {
    /// The letter.
    #[serde(flatten)]
    pub dead_letter: DeadLetter,
    /// Its headers, those of the message and those that say why. The server's own are not among
    /// them.
    pub headers: BTreeMap<String, Vec<String>>,
    /// The payload, where it is JSON.
    pub payload: Option<Value>,
    /// The payload in Base64, where it is something else.
    pub payload_base64: Option<String>,
    /// Whether the payload is left out: managers see none that can hold password hashes or tokens.
    pub payload_hidden: bool,
}

impl DeadLetterDetail {
    /// Adds headers and payload, as callers of this scope may see them, to a dead letter.
    pub(super) fn of(
        dead_letter: DeadLetter,
        stored: &StoredMessage,
        scope: Scope,
    ) -> DeadLetterDetail {
        let payload_hidden = is_hidden(&dead_letter.subject_info(), scope);
        let is_left_out =
            |name: &str| name.starts_with("Nats-") || payload_hidden && name == header::DEAD_ERROR;
        let headers = stored
            .headers
            .iter()
            .filter(|(name, _)| !is_left_out(name.as_ref()));
        let headers = headers
            .map(|(name, values)| {
                (
                    name.to_string(),
                    values.iter().map(|v| v.as_str().to_owned()).collect(),
                )
            })
            .collect();
        let payload = if payload_hidden {
            None
        } else {
            serde_json::from_slice(&stored.payload).ok()
        };
        let payload_base64 =
            (payload.is_none() && !payload_hidden).then(|| BASE64.encode(&stored.payload));
        DeadLetterDetail {
            dead_letter,
            headers,
            payload,
            payload_base64,
            payload_hidden,
        }
    }
}

/// Part of a list.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterPage {
    /// By their sequences, ascending.
    pub dead_letters: Vec<DeadLetter>,
    /// Where to go on; `None` at the end. A page that is not full may have one too, for a request
    /// looks at `MAX_SCANNED` dead letters at the most.
    pub next_cursor: Option<u64>,
}

/// Why something cannot be done with a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeadLetterError {
    /// There is no such dead letter, or it is another company's.
    #[error("there is no such dead letter")]
    NotFound,
    /// Something else has become of the dead letter, or is about to: a replay that was begun is
    /// completed by asking for the replay again.
    #[error("{}", resolved(*.0))]
    Resolved(State),
    /// Only other services store messages of this kind.
    #[error("this kind of message can only be replayed by an operator")]
    ForOperators,
    /// No stream will ever take the message.
    #[error("it cannot be replayed: {0}")]
    Refused(String),
    /// No answer, or none that says. It may have happened all the same: asking again is safe.
    #[error("{0}")]
    Unavailable(String),
}

impl From<BucketError> for DeadLetterError {
    fn from(error: BucketError) -> DeadLetterError {
        DeadLetterError::Unavailable(error.to_string())
    }
}

impl From<ReadError> for DeadLetterError {
    fn from(error: ReadError) -> DeadLetterError {
        DeadLetterError::Unavailable(error.to_string())
    }
}

fn resolved(state: State) -> String {
    match state {
        State::Replaying => "a replay of it was begun: ask for it again to complete it".into(),
        _ => format!("it is {state} already"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::HeaderMap;

    const COMPANY: &str = "aaaaaaaaaaaaaaaaaaaaaaaa";

    fn stored(original: &str, payload: &str) -> StoredMessage {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("Dead-Reason", "malformed"),
            ("Dead-Error", "data: invalid value \"hash\""),
            ("Dead-Attempts", "3"),
            ("Dead-Stream", "EVENTS"),
            ("Dead-Stream-Seq", "9"),
            ("Replay-Of", "4"),
            ("X-Kept", "yes"),
            ("Nats-Sequence", "5"),
        ] {
            headers.insert(name, value);
        }
        let payload = payload.to_owned().into();
        StoredMessage {
            seq: 5,
            subject: format!("dead.persister.{original}"),
            stored_at: Timestamp::from_millis(0),
            headers,
            payload,
        }
    }

    fn shown(original: &str, payload: &str, scope: Scope) -> DeadLetterDetail {
        let stored = stored(original, payload);
        DeadLetterDetail::of(
            DeadLetter::of(&stored).unwrap().for_scope(scope),
            &stored,
            scope,
        )
    }

    #[test]
    fn a_dead_letter_is_read_from_headers_and_subject() {
        let golden = include_str!("../../../golden/message.created.v1.json");
        let letter = shown(
            &format!("outbound.3.{COMPANY}.{}.facebook", "b".repeat(24)),
            golden,
            Scope::All,
        );
        let DeadLetterDetail {
            dead_letter: letter,
            headers,
            payload,
            ..
        } = letter;
        assert_eq!(
            (
                letter.service.as_str(),
                letter.reason.as_str(),
                letter.attempts
            ),
            ("persister", "malformed", 3)
        );
        assert_eq!(
            (letter.stream.as_str(), letter.stream_seq, letter.replay_of),
            ("EVENTS", 9, Some(4))
        );
        assert_eq!(
            (letter.company_id, letter.state),
            (COMPANY.parse().ok(), State::Open)
        );
        assert_eq!(
            (letter.message_id.is_some(), letter.first_at),
            (true, letter.stored_at)
        );
        assert_eq!(
            (headers["X-Kept"].as_slice(), headers.get("Nats-Sequence")),
            (["yes".to_owned()].as_slice(), None)
        );
        assert_eq!(payload, serde_json::from_str(golden).ok());
        let step = include_str!("../../../golden/message.delivery.v1.json");
        assert!(message_id(step.as_bytes()).is_some());
        let contact = include_str!("../../../golden/contact.created.v1.json");
        assert_eq!(message_id(contact.as_bytes()), None);
    }

    #[test]
    fn a_manager_does_not_see_hashes_and_tokens_and_an_operator_sees_all() {
        let manager = Scope::Company(COMPANY.parse().unwrap());
        for secret in [
            "user.created",
            "company.created",
            "integration.updated",
            "jobs.work.token-refresh",
            "later.kind",
        ] {
            let letter = shown(
                &format!("{secret}.{COMPANY}.{COMPANY}"),
                r#"{"password_hash":"hash"}"#,
                manager,
            );
            assert!(
                letter.payload_hidden && !serde_json::to_string(&letter).unwrap().contains("hash"),
                "{secret}"
            );
        }
        let subject = format!("user.created.{COMPANY}.{COMPANY}");
        assert!(
            serde_json::to_string(&shown(&subject, r#"{"password_hash":"hash"}"#, Scope::All))
                .unwrap()
                .contains("hash")
        );
        let plain = shown(
            &format!("message.updated.{COMPANY}.{COMPANY}"),
            "not JSON",
            manager,
        );
        assert_eq!(
            (
                plain.payload,
                plain.payload_base64.as_deref(),
                plain.payload_hidden
            ),
            (None, Some("bm90IEpTT04="), false)
        );
        assert!(plain.dead_letter.error.is_some());
    }
}
