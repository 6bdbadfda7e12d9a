//! Dead letters as operators and managers see them: look through them, look at one, replay them,
//! discard one. The letters are in the stream `DEAD`, which nobody changes; what became of each is
//! in the bucket `dead-letters`. Storing one is `dead_letter`.

mod model;
mod replay;
mod resolution;
pub mod store;

use std::collections::HashMap;

use crate::kv::bucket::Bucket;
use crate::log::direct_get::{self, StoredMessage};
use crate::net::connection::Connection;
use contract::dead_letter::{Reason, Resolution, State, SubjectInfo};
use contract::{Id, Timestamp};
use contract::{inventory, subject};

pub use model::{DeadLetter, DeadLetterDetail};
pub use replay::{MAX_REPLAYS, Replayed, Skipped};

/// Most letters that one page of a list has.
pub const MAX_DEAD_LETTERS: usize = 200;
/// Letters that one request looks at, whether they match or not. Then it answers what it has found,
/// and where to go on.
pub const MAX_SCANNED: usize = 1_000;
/// Letters that are asked for at once; each has its payload with it.
const SCAN_PAGE: usize = 200;

/// Whose letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's, for operators.
    All,
    /// One company's: no other letter exists.
    Company(Id),
}

impl Scope {
    fn company(self) -> Option<Id> {
        match self {
            Scope::All => None,
            Scope::Company(company) => Some(company),
        }
    }

    fn has(self, about: &SubjectInfo) -> bool {
        self.company()
            .is_none_or(|company| about.company == Some(company))
    }
}

/// Which state letters must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "schema",
    derive(utoipa::ToSchema),
    schema(rename_all = "lowercase")
)]
pub enum StateFilter {
    /// Nothing has become of them yet, or a replay has begun and was not completed.
    #[default]
    Open,
    /// Replayed.
    Replayed,
    /// Discarded.
    Discarded,
    /// Any.
    All,
}

impl StateFilter {
    fn takes(self, state: State) -> bool {
        match self {
            StateFilter::Open => matches!(state, State::Open | State::Replaying),
            StateFilter::Replayed => state == State::Replayed,
            StateFilter::Discarded => state == State::Discarded,
            StateFilter::All => true,
        }
    }
}

impl std::str::FromStr for StateFilter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<StateFilter, &'static str> {
        match text {
            "open" => Ok(StateFilter::Open),
            "replayed" => Ok(StateFilter::Replayed),
            "discarded" => Ok(StateFilter::Discarded),
            "all" => Ok(StateFilter::All),
            _ => Err("must be one of open, replayed, discarded, all"),
        }
    }
}

/// The name of a service, as a token of the subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName(String);

impl std::str::FromStr for ServiceName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<ServiceName, &'static str> {
        match (1..=32).contains(&text.len())
            && text.bytes().all(|c| c.is_ascii_lowercase() || c == b'-')
        {
            true => Ok(ServiceName(text.to_owned())),
            false => Err("must be the name of a service, such as forwarder"),
        }
    }
}

/// Which letters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// In this state.
    pub state: StateFilter,
    /// For this reason.
    pub reason: Option<Reason>,
    /// Given up by this service.
    pub service: Option<ServiceName>,
    /// Of this company, for those who may see several.
    pub company: Option<Id>,
    /// Of this conversation.
    pub contact: Option<Id>,
    /// Stored at this time or after it.
    pub from: Option<Timestamp>,
    /// Stored before this time.
    pub to: Option<Timestamp>,
}

impl Filter {
    /// Whether it takes a letter, its state aside.
    fn takes(&self, letter: &DeadLetter) -> bool {
        self.reason
            .is_none_or(|reason| letter.reason == reason.as_str())
            && self
                .company
                .is_none_or(|company| letter.company_id == Some(company))
            && self
                .contact
                .is_none_or(|contact| letter.contact_id == Some(contact))
            && self.from.is_none_or(|from| letter.stored_at >= from)
            && self.to.is_none_or(|to| letter.stored_at < to)
    }
}

/// Part of a list.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterPage {
    /// By their sequences, ascending.
    pub dead_letters: Vec<DeadLetter>,
    /// Where to go on; `None` at the end. It can be there although the page is not full, for a
    /// request looks at [`MAX_SCANNED`] letters at the most.
    pub next_cursor: Option<u64>,
}

/// Why it cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeadLetterError {
    /// There is no such letter, or it is another company's.
    #[error("there is no such dead letter")]
    NotFound,
    /// Something else has become of it, or is about to: a replay that was begun is completed by
    /// asking for it again.
    #[error("{}", settled(*.0))]
    Resolved(State),
    /// What it is a letter of is stored by other services only.
    #[error("this kind of message can only be replayed by an operator")]
    ForOperators,
    /// No stream will ever take its message.
    #[error("it cannot be replayed: {0}")]
    Refused(String),
    /// No answer, or none that says. It may have happened all the same: asking again is safe.
    #[error("{0}")]
    Unavailable(String),
}

fn settled(state: State) -> String {
    match state {
        State::Replaying => "a replay of it was begun: ask for it again to complete it".into(),
        _ => format!("it is {state} already"),
    }
}

/// The letters. Cloning is cheap.
#[derive(Clone)]
pub struct DeadLetters {
    connection: Connection,
    resolutions: Bucket,
}

impl DeadLetters {
    /// Over this connection, whose user must be allowed to read `DEAD`, and to publish what is to
    /// be replayed.
    pub fn new(connection: Connection) -> DeadLetters {
        let resolutions = Bucket::new(connection.clone(), inventory::DEAD_LETTERS);
        DeadLetters {
            connection,
            resolutions,
        }
    }

    /// The letters after `cursor` that a filter takes, at most `limit`.
    ///
    /// # Errors
    /// [`DeadLetterError::Unavailable`].
    pub async fn list(
        &self,
        scope: Scope,
        filter: &Filter,
        cursor: u64,
        limit: usize,
    ) -> Result<DeadLetterPage, DeadLetterError> {
        let limit = limit.clamp(1, MAX_DEAD_LETTERS);
        let (mut page, mut at, mut scanned) = (DeadLetterPage::default(), cursor, 0);
        while scanned < MAX_SCANNED {
            let read = self.read(scope, filter, at).await?;
            let Some(last) = read.last() else {
                return Ok(page);
            };
            (scanned, at) = (scanned + read.len(), last.seq);
            let is_past = filter.to.is_some_and(|to| last.stored_at >= to);
            let letters: Vec<DeadLetter> = read
                .iter()
                .filter_map(|stored| {
                    DeadLetter::of(stored).filter(|l| scope.has(&l.about()) && filter.takes(l))
                })
                .collect();
            let mut resolutions = self
                .resolutions(letters.iter().map(|letter| letter.seq))
                .await?;
            for mut letter in letters {
                letter.resolution = resolutions.remove(&letter.seq);
                if filter.state.takes(letter.state()) {
                    let seq = letter.seq;
                    page.dead_letters.push(letter.for_scope(scope));
                    if page.dead_letters.len() == limit {
                        page.next_cursor = Some(seq);
                        return Ok(page);
                    }
                }
            }
            if is_past {
                return Ok(page);
            }
        }
        page.next_cursor = Some(at);
        Ok(page)
    }

    /// One letter, whole.
    ///
    /// # Errors
    /// [`DeadLetterError::NotFound`], [`DeadLetterError::Unavailable`].
    pub async fn show(&self, scope: Scope, seq: u64) -> Result<DeadLetterDetail, DeadLetterError> {
        let (stored, mut letter) = self.get(scope, seq).await?;
        letter.resolution = self.resolution(seq).await?.value;
        Ok(DeadLetterDetail::of(
            letter.for_scope(scope),
            &stored,
            scope,
        ))
    }

    /// What comes next in `DEAD` after `cursor`, in order, without a gap; nothing at its end.
    async fn read(
        &self,
        scope: Scope,
        filter: &Filter,
        cursor: u64,
    ) -> Result<Vec<StoredMessage>, DeadLetterError> {
        let service = filter.service.as_ref().map(|name| name.0.as_str());
        let mut pages = Vec::new();
        for subjects in subject::dead_letters(service, scope.company().or(filter.company)) {
            let page = match filter.from {
                Some(from) if cursor == 0 => {
                    direct_get::page_since(
                        &self.connection,
                        inventory::DEAD,
                        &subjects,
                        from,
                        SCAN_PAGE,
                    )
                    .await
                }
                _ => {
                    direct_get::page(
                        &self.connection,
                        inventory::DEAD,
                        &subjects,
                        cursor.saturating_add(1),
                        SCAN_PAGE,
                    )
                    .await
                }
            };
            pages.push(page.map_err(DeadLetterError::Unavailable)?);
        }
        Ok(merge(pages))
    }

    /// The letter of this sequence, without its resolution.
    async fn get(
        &self,
        scope: Scope,
        seq: u64,
    ) -> Result<(StoredMessage, DeadLetter), DeadLetterError> {
        let found = direct_get::page(&self.connection, inventory::DEAD, subject::DEAD, seq, 1)
            .await
            .map_err(DeadLetterError::Unavailable)?;
        let stored = found
            .into_iter()
            .find(|stored| stored.seq == seq)
            .ok_or(DeadLetterError::NotFound)?;
        let letter = DeadLetter::of(&stored)
            .filter(|letter| scope.has(&letter.about()))
            .ok_or(DeadLetterError::NotFound)?;
        Ok((stored, letter))
    }

    /// What became of these letters, as some replica of the bucket has it.
    async fn resolutions(
        &self,
        seqs: impl Iterator<Item = u64>,
    ) -> Result<HashMap<u64, Resolution>, DeadLetterError> {
        let subjects: Vec<String> = seqs
            .map(|seq| subject::entry(inventory::DEAD_LETTERS, &seq.to_string()))
            .collect();
        let mut resolutions = HashMap::new();
        for some in subjects.chunks(direct_get::MAX_LATEST) {
            let entries = direct_get::latest(
                &self.connection,
                &format!("KV_{}", inventory::DEAD_LETTERS),
                some,
            )
            .await;
            for entry in entries.map_err(DeadLetterError::Unavailable)? {
                let seq = entry
                    .subject
                    .rsplit('.')
                    .next()
                    .and_then(|seq| seq.parse().ok());
                // The marker of an entry that was removed is empty.
                resolutions.extend(seq.zip(serde_json::from_slice(&entry.payload).ok()));
            }
        }
        Ok(resolutions)
    }
}

/// One ascending list of several, as far as each of them reaches: what stands beyond the end of one
/// may have something of that one before it. An empty one has reached the end.
fn merge(pages: Vec<Vec<StoredMessage>>) -> Vec<StoredMessage> {
    let reach = pages
        .iter()
        .filter_map(|page| page.last())
        .map(|last| last.seq)
        .min()
        .unwrap_or(0);
    let mut merged: Vec<StoredMessage> = pages
        .into_iter()
        .flatten()
        .filter(|stored| stored.seq <= reach)
        .collect();
    merged.sort_by_key(|stored| stored.seq);
    merged.dedup_by_key(|stored| stored.seq);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::HeaderMap;
    use proptest::prelude::*;

    fn stored(seq: u64) -> StoredMessage {
        let stored_at = Timestamp::from_millis(seq as i64);
        StoredMessage {
            seq,
            subject: format!("dead.x.{seq}"),
            stored_at,
            headers: HeaderMap::new(),
            payload: Vec::new().into(),
        }
    }

    proptest! {
        /// Whatever the pages' lengths: going on after the last one passes over nothing and gives
        /// nothing twice.
        #[test]
        fn merged_pages_are_walked_without_a_gap(all in proptest::collection::btree_map(1u64..200, any::<bool>(), 0..60), size in 1usize..7) {
            let page = |which: bool, after: u64| {
                all.iter().filter(|(seq, of)| **seq > after && **of == which).take(size).map(|(seq, _)| stored(*seq)).collect::<Vec<_>>()
            };
            let (mut at, mut seen) = (0, Vec::new());
            loop {
                let merged = merge(vec![page(true, at), page(false, at)]);
                let Some(last) = merged.last() else { break };
                at = last.seq;
                seen.extend(merged.iter().map(|stored| stored.seq));
            }
            prop_assert_eq!(seen, all.keys().copied().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_replay_that_was_not_completed_is_open_still() {
        assert!(
            StateFilter::Open.takes(State::Replaying)
                && !StateFilter::Replayed.takes(State::Replaying)
        );
        for (filter, state) in [
            ("open", State::Open),
            ("replayed", State::Replayed),
            ("discarded", State::Discarded),
        ] {
            let filter: StateFilter = filter.parse().unwrap();
            for other in [State::Open, State::Replayed, State::Discarded] {
                assert_eq!(filter.takes(other), other == state);
            }
            assert!(StateFilter::All.takes(state));
        }
    }

    #[test]
    fn a_service_is_one_token() {
        assert!("forwarder".parse::<ServiceName>().is_ok());
        for bad in ["", "*", "a.b", ">", "A", "a b", &"a".repeat(33)] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
        }
    }
}
