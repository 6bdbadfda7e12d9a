//! Storing a message once: whoever sends it again gets what was stored first. In the log's
//! duplicate window the log knows of it, later the database does. Reading the request is not done
//! here.

use axum::http::{HeaderMap, HeaderValue};
use contract::Timestamp;
use contract::domain::Message;
use contract::event::{Envelope, Event, Idempotency};
use contract::query::{DedupKey, UniqueKey};
use contract::trace::TraceContext;
use runtime::log::publisher::{Outgoing, PublishError, Receipt};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::api::problem::{Problem, key_name};
use crate::auth::Caller;
use crate::dedup;
use crate::log::Log;

/// Longest `Idempotency-Key`.
const KEY_CHARS: usize = 255;
/// Of the digest of a body so much is kept.
const FINGERPRINT_BYTES: usize = 16;

/// A message to be stored, and what tells it from another.
pub struct Create {
    envelope: Envelope,
    key: Option<DedupKey>,
}

/// A message that the log has.
pub struct Stored {
    /// As it was stored.
    pub message: Message,
    /// Where.
    pub seq: u64,
    /// An earlier request with the same `Idempotency-Key` stored it.
    pub replayed: bool,
}

impl Create {
    /// Of a caller's message, with the request's key if it has one.
    pub fn new(
        caller: &Caller,
        message: Message,
        request: Option<Idempotency>,
        now: Timestamp,
    ) -> Create {
        // The platform's own id is the stronger key: a bot that tries again may well have lost its
        // own.
        let key = match (&message.external_message_id, &request) {
            (Some(id), _) => Some(DedupKey::External {
                platform: message.platform,
                id: id.clone(),
            }),
            (None, Some(request)) => Some(DedupKey::Request(request.key.clone())),
            (None, None) => None,
        };
        let mut envelope = Log::envelope(
            caller,
            message.company_id,
            Event::MessageCreated(message),
            now,
        );
        envelope.idempotency = request;
        Create { envelope, key }
    }

    /// The event to publish.
    pub fn outgoing(&self, trace: TraceContext) -> Result<Outgoing, PublishError> {
        let company_id = self.envelope.company_id;
        let msg_id = match self.key.clone() {
            Some(key) => dedup::msg_id(&UniqueKey { company_id, key }),
            None => self.envelope.id.to_string(),
        };
        Outgoing::event(&self.envelope, msg_id, trace)
    }

    /// What publishing it has come to: stored now, stored before by this very request, or
    /// another's.
    pub async fn settle(
        self,
        log: &Log,
        published: Result<Receipt, PublishError>,
    ) -> Result<Stored, Problem> {
        let (first_at, taken) = match published {
            Ok(receipt) if !receipt.duplicate => return stored(self.envelope, receipt.seq, false),
            // In the log's duplicate window the log knows of it, …
            Ok(receipt) => (receipt.seq, None),
            // … later the database does.
            Err(PublishError::Taken(holder)) => (holder.seq, Some(holder)),
            Err(e) => return Err(e.into()),
        };
        let first = match log.stored(first_at).await {
            Ok(first) => first,
            // It is older than what the log keeps.
            Err(PublishError::Refused(_)) => {
                let key = self.key.as_ref().map_or("_id", key_name);
                return Err(Problem::Duplicate {
                    key,
                    holder: taken.map(|holder| holder.message_id),
                });
            }
            Err(e) => return Err(e.into()),
        };
        // A log that was begun anew has something else there.
        if first.company_id != self.envelope.company_id {
            return Err(Problem::Duplicate {
                key: self.key.as_ref().map_or("_id", key_name),
                holder: None,
            });
        }
        // Our own event: an answer of the log was lost on the way, and the repetition found it.
        if first.id == self.envelope.id {
            return stored(first, first_at, false);
        }
        match (&self.envelope.idempotency, &first.idempotency) {
            (Some(ours), Some(theirs)) if ours == theirs => stored(first, first_at, true),
            (Some(ours), Some(theirs)) if ours.key == theirs.key => Err(Problem::KeyReused),
            _ => {
                let holder = Some(stored(first, first_at, false)?.message.id);
                Err(Problem::Duplicate {
                    key: self.key.as_ref().map_or("_id", key_name),
                    holder,
                })
            }
        }
    }
}

fn stored(envelope: Envelope, seq: u64, replayed: bool) -> Result<Stored, Problem> {
    let Event::MessageCreated(message) = envelope.event else {
        return Err(Problem::Internal);
    };
    Ok(Stored {
        message,
        seq,
        replayed,
    })
}

/// The `Idempotency-Key` of a request, if it has one.
pub fn request_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match value.to_str().map(str::trim) {
        Ok(key)
            if (1..=KEY_CHARS).contains(&key.len())
                && key.bytes().all(|c| c.is_ascii_graphic()) =>
        {
            Ok(Some(key))
        }
        _ => Err(Problem::field(
            "Idempotency-Key",
            format!("must have 1 to {KEY_CHARS} visible ASCII characters"),
        )),
    }
}

/// Tells that the answer is that of an earlier request.
pub fn say_replayed(headers: &mut HeaderMap) {
    headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
}

/// A key with a digest of the body that it came with.
pub fn idempotency(
    caller: &Caller,
    key: &str,
    body: &Map<String, Value>,
) -> Result<Idempotency, Problem> {
    let mut digest = Sha256::new();
    digest_object(&mut digest, body);
    let digest = digest.finalize();
    let fingerprint = digest
        .iter()
        .take(FINGERPRINT_BYTES)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(Idempotency {
        key: format!("{}:{key}", caller_name(caller)),
        fingerprint,
    })
}

/// The order of names in an object makes no difference. Every part is told from its neighbours by
/// its kind and length.
fn digest_object(digest: &mut Sha256, object: &Map<String, Value>) {
    let mut names: Vec<(&String, &Value)> = object.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    digest.update(format!("object {} ", names.len()));
    for (name, value) in names {
        digest_value(digest, &Value::String(name.clone()));
        digest_value(digest, value);
    }
}

fn digest_value(digest: &mut Sha256, value: &Value) {
    match value {
        Value::Object(object) => digest_object(digest, object),
        Value::Array(list) => {
            digest.update(format!("list {} ", list.len()));
            list.iter().for_each(|value| digest_value(digest, value));
        }
        Value::String(text) => digest.update(format!("text {} {text} ", text.len())),
        scalar => digest.update(format!("{scalar} ")),
    }
}

/// Two members of staff may choose the same key without meaning the same request. All internal
/// services are one caller: their keys must differ.
fn caller_name(caller: &Caller) -> String {
    match caller {
        Caller::Staff { user, .. } => user.to_string(),
        Caller::Service => "service".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_of_the_content_not_of_its_order() {
        let of = |body: &str| {
            idempotency(&Caller::Service, "k", &serde_json::from_str(body).unwrap()).unwrap()
        };
        let first = of(r#"{"a": 1, "b": {"c": 2, "d": 3}}"#);
        assert_eq!(first, of(r#"{"b": {"d": 3, "c": 2}, "a": 1}"#));
        assert_ne!(first, of(r#"{"a": 1, "b": {"c": 2, "d": 4}}"#));
        assert_eq!(first.key, "service:k");
    }

    #[test]
    fn a_key_is_visible_and_of_bounded_length() {
        let with = |key: &str| {
            let headers: HeaderMap = [("idempotency-key".parse().unwrap(), key.parse().unwrap())]
                .into_iter()
                .collect();
            request_key(&headers).map(|key| key.map(str::to_owned))
        };
        assert_eq!(with(" a#1 "), Ok(Some("a#1".into())));
        assert_eq!(request_key(&HeaderMap::new()), Ok(None));
        for bad in ["", "  ", "é", &"x".repeat(KEY_CHARS + 1)] {
            assert!(matches!(with(bad), Err(Problem::Validation(_))), "{bad}");
        }
    }
}
