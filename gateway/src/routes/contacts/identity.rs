//! One contact for each id on a platform. A contact is looked up by its ids on platforms, and entered
//! under an id of our own that follows from the first of them. So two gateways that enter the same
//! person at once enter one contact. Reads no request.

use contract::domain::{Contact, Platform, ShortText, Social};
use contract::event::{Envelope, Event, Idempotency};
use contract::query::{FindContacts, KnownContact};
use contract::trace::TraceContext;
use contract::{Id, Timestamp};
use runtime::log::publisher::PublishError;
use runtime::rpc::query::QueryError;
use sha2::{Digest, Sha256};

use crate::api::problem::Problem;
use crate::auth::Caller;
use crate::log::Log;

/// Ids of our own that follow from one id on a platform. The next one is taken if the contact of the
/// one before it has lost that id on the platform by an edit.
const CANDIDATES: u8 = 4;

/// A contact and where the log has it.
pub struct Found {
    pub contact: Contact,
    pub seq: u64,
}

impl Found {
    /// The refusal to enter the contact once more.
    pub fn taken(&self) -> Problem {
        taken_by(self.contact.id)
    }
}

impl From<KnownContact> for Found {
    fn from(KnownContact { contact, seq }: KnownContact) -> Found {
        Found { contact, seq }
    }
}

/// What entering a contact has come to.
pub enum Entry {
    /// It is new.
    New(Found),
    /// There is one with the same id on a platform, or of the same request.
    Known {
        found: Found,
        /// The request that entered it, as far as the log knows.
        request: Option<Idempotency>,
    },
}

/// What is done while the database cannot say whether there is such a contact already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum IfUnknown {
    Enter,
    Refuse,
}

/// Enters a contact, unless there is one with one of its ids on a platform.
///
/// # Errors
/// The contact is not stored, and why.
pub async fn enter(
    log: &Log,
    caller: &Caller,
    mut contact: Contact,
    request: Option<Idempotency>,
    if_unknown: IfUnknown,
    trace: TraceContext,
) -> Result<Entry, Problem> {
    let company = contact.company_id;
    let first = contact.social.ids().next();
    let msg_id = match (first.map(|(on, id)| (on, id.clone())), &request) {
        (Some((platform, id)), _) => {
            let candidates = candidates(company, platform, &id);
            match known(log, company, &contact.social, &candidates, trace).await {
                Ok(known) => {
                    if let Some(found) = known.iter().find(|known| shares(known, &contact)) {
                        return of_view(log, found.clone()).await;
                    }
                    let is_free = |id: &&Id| known.iter().all(|known| known.contact.id != **id);
                    contact.id = *candidates.iter().find(is_free).unwrap_or(&contact.id);
                }
                Err(_) if if_unknown == IfUnknown::Enter => contact.id = candidates[0],
                Err(error) => return Err(error.into()),
            }
            // The same for every request that enters this person.
            contact.id.to_string()
        }
        (None, Some(request)) => format!("contact:{company}:{}", request.key),
        (None, None) => contact.id.to_string(),
    };
    let event = Event::ContactCreated(Box::new(contact));
    let mut envelope = Log::envelope(caller, company, event, Timestamp::now());
    envelope.idempotency = request;
    let (_, receipt) = log.command(&envelope, msg_id, trace).await?;
    let stored = match receipt.duplicate {
        true => log.stored(receipt.seq).await?,
        false => envelope,
    };
    let is_new = !receipt.duplicate;
    let Envelope {
        event: Event::ContactCreated(contact),
        idempotency: request,
        ..
    } = stored
    else {
        return Err(Problem::Internal);
    };
    let found = Found {
        contact: *contact,
        seq: receipt.seq,
    };
    Ok(match is_new {
        true => Entry::New(found),
        false => Entry::Known { found, request },
    })
}

/// Makes sure that no other contact has one of these ids on a platform.
///
/// # Errors
/// [`Problem::Duplicate`] if one has, and the database does not answer.
pub async fn check(
    log: &Log,
    company: Id,
    contact: Id,
    social: &Social,
    trace: TraceContext,
) -> Result<(), Problem> {
    if social.ids().next().is_none() {
        return Ok(());
    }
    let known = known(log, company, social, &[], trace).await?;
    match known.iter().find(|known| known.contact.id != contact) {
        Some(other) => Err(taken_by(other.contact.id)),
        None => Ok(()),
    }
}

fn taken_by(owner: Id) -> Problem {
    Problem::Duplicate {
        key: "social",
        owner: Some(owner),
    }
}

async fn known(
    log: &Log,
    company_id: Id,
    social: &Social,
    ids: &[Id],
    trace: TraceContext,
) -> Result<Vec<KnownContact>, QueryError> {
    let on_platforms = social.ids().map(|(on, id)| (on, id.clone())).collect();
    let question = FindContacts {
        company_id,
        on_platforms,
        ids: ids.to_vec(),
    };
    log.ask(&question, trace).await
}

fn shares(known: &KnownContact, contact: &Contact) -> bool {
    let mut ids = contact.social.ids();
    ids.any(|(platform, id)| known.contact.social.on(platform) == Some(id))
}

async fn of_view(log: &Log, known: KnownContact) -> Result<Entry, Problem> {
    let request = match log.stored(known.seq).await {
        Ok(first) => first.idempotency,
        // The log does not keep so old an event.
        Err(PublishError::Refused(_)) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Entry::Known {
        found: known.into(),
        request,
    })
}

/// The ids of our own that follow from an id on a platform.
fn candidates(company: Id, platform: Platform, id: &ShortText) -> Vec<Id> {
    let candidate = |number: u8| {
        let mut digest = Sha256::new();
        digest.update(company.bytes());
        digest.update(format!("{platform}:{number}:{id}"));
        let mut bytes = [0; 12];
        bytes.copy_from_slice(&digest.finalize()[..12]);
        Id::from_bytes(bytes)
    };
    (0..CANDIDATES).map(candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_by_company_platform_and_id() {
        let id = |text| ShortText::new(text).unwrap();
        let (one, two) = (Id::from_bytes([1; 12]), Id::from_bytes([2; 12]));
        let of = |company, platform, text| candidates(company, platform, &id(text));
        let all = [
            of(one, Platform::Facebook, "1"),
            of(two, Platform::Facebook, "1"),
            of(one, Platform::Telegram, "1"),
            of(one, Platform::Facebook, "2"),
        ]
        .concat();
        let unique: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(unique.len(), all.len());
        assert_eq!(of(one, Platform::Facebook, "1"), all[..CANDIDATES.into()]);
    }
}
