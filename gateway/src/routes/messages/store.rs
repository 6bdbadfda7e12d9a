//! Stores a message once: a caller who sends it again gets what was stored first. The log knows of
//! the first message within its duplicate window, and the database later. Reads no request.

use contract::Id;
use contract::Timestamp;
use contract::domain::Message;
use contract::event::{Actor, Envelope, Event, Idempotency};
use contract::query::{DedupKey, UniqueKey};
use contract::trace::TraceContext;
use runtime::log::publisher::{Outgoing, PublishError, Receipt};

use crate::api::problem::{Problem, key_name};
use crate::auth::Caller;
use crate::dedup;
use crate::log::Log;

/// A message to be stored, and what tells it from another.
pub struct Create {
    /// The event's id.
    id: Id,
    actor: Actor,
    message: Message,
    request: Option<Idempotency>,
    key: Option<DedupKey>,
    now: Timestamp,
}

/// A message that the log has.
pub struct Stored {
    /// As it was stored.
    pub message: Message,
    /// Where the log has it.
    pub seq: u64,
    /// An earlier request with the same `Idempotency-Key` stored it.
    pub replayed: bool,
}

impl Create {
    /// `request` is the caller's request, if it has an `Idempotency-Key`.
    pub fn new(
        caller: &Caller,
        message: Message,
        request: Option<Idempotency>,
        now: Timestamp,
    ) -> Create {
        // The platform's own id is the stronger key, because a bot that tries again may have lost
        // its own key.
        let key = match (&message.external_message_id, &request) {
            (Some(id), _) => Some(DedupKey::External {
                contact_id: message.contact_id,
                platform: message.platform,
                id: id.clone(),
            }),
            (None, Some(request)) => Some(DedupKey::Request(request.key.clone())),
            (None, None) => None,
        };
        Create {
            id: Id::generate(now),
            actor: caller.actor(),
            message,
            request,
            key,
            now,
        }
    }

    /// The event to publish.
    pub fn outgoing(&self, trace: TraceContext) -> Result<Outgoing, PublishError> {
        let company_id = self.message.company_id;
        let msg_id = match self.key.clone() {
            Some(key) => dedup::msg_id(&UniqueKey { company_id, key }),
            None => self.id.to_string(),
        };
        let envelope = Envelope {
            id: self.id,
            occurred_at: self.now,
            actor: self.actor,
            company_id,
            idempotency: self.request.clone(),
            event: Event::MessageCreated(self.message.clone()),
        };
        Outgoing::event(&envelope, msg_id, trace)
    }

    /// Finds out what publishing has come to: the message is stored now, or was stored before by
    /// the same request.
    ///
    /// # Errors
    /// [`Problem::Duplicate`] or [`Problem::KeyReused`] if the key belongs to another message, and
    /// why the message is not stored.
    pub async fn resolve(
        self,
        log: &Log,
        published: Result<Receipt, PublishError>,
    ) -> Result<Stored, Problem> {
        let (first_at, owner) = match published {
            Ok(receipt) if !receipt.duplicate => return Ok(self.stored(receipt.seq)),
            // Within its duplicate window the log knows the first message.
            Ok(receipt) => (receipt.seq, None),
            // Later the database knows its owner.
            Err(PublishError::Taken(owner)) => (owner.seq, Some(owner.message_id)),
            Err(e) => return Err(e.into()),
        };
        let first = match log.stored(first_at).await {
            Ok(first) => first,
            // The first message is older than what the log keeps.
            Err(PublishError::Refused(_)) => return Err(self.taken_by(owner)),
            Err(e) => return Err(e.into()),
        };
        // The first event can be this very one: an answer of the log was lost on the way, and the
        // repetition found the event.
        if first.id == self.id {
            return Ok(self.stored(first_at));
        }
        // A log that was begun anew has another event at the owner's sequence.
        let message = match first.event {
            Event::MessageCreated(message) if message.company_id == self.message.company_id => {
                message
            }
            _ => return Err(self.taken_by(None)),
        };
        match (&self.request, &first.idempotency) {
            (Some(ours), Some(theirs)) if ours == theirs => Ok(Stored {
                message,
                seq: first_at,
                replayed: true,
            }),
            (Some(ours), Some(theirs)) if ours.key == theirs.key => Err(Problem::KeyReused),
            _ => Err(self.taken_by(Some(message.id))),
        }
    }

    fn stored(self, seq: u64) -> Stored {
        Stored {
            message: self.message,
            seq,
            replayed: false,
        }
    }

    fn taken_by(&self, owner: Option<Id>) -> Problem {
        Problem::Duplicate {
            key: self.key.as_ref().map_or("_id", key_name),
            owner,
        }
    }
}
