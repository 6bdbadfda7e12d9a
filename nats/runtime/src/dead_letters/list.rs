//! Looking through the dead letters, and looking at one. Changes nothing.

use crate::log::direct_get::{self, StoredMessage};
use crate::net::connection::Connection;
use contract::{Timestamp, inventory, subject};

use super::filter::{Filter, ServiceName};
use super::model::{DeadLetter, DeadLetterDetail, DeadLetterError, DeadLetterPage, Scope};
use super::resolution::Resolutions;

/// Dead letters that one page of a list has at most.
pub const MAX_DEAD_LETTERS: usize = 200;
/// Dead letters that one request looks at, whether they match or not. Beyond it the request answers
/// what it has found, and where to go on.
pub const MAX_SCANNED: usize = 1_000;
/// Dead letters that are read from the stream at once; each has its payload with it.
const SCAN_PAGE: usize = 200;

/// The dead letters. Cloning is cheap.
#[derive(Clone)]
pub struct DeadLetters {
    pub(super) connection: Connection,
    pub(super) resolutions: Resolutions,
    pub(super) clock: fn() -> Timestamp,
}

impl DeadLetters {
    /// Over this connection, whose user must be allowed to read `DEAD`, and to publish what is to
    /// be replayed. `clock` says when something was decided.
    pub fn new(connection: Connection, clock: fn() -> Timestamp) -> DeadLetters {
        DeadLetters {
            resolutions: Resolutions::new(connection.clone()),
            connection,
            clock,
        }
    }

    /// The dead letters after `cursor` that a filter takes, at most `limit`.
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
            let found: Vec<DeadLetter> = read
                .iter()
                .filter_map(DeadLetter::of)
                .filter(|found| scope.has(&found.subject_info()) && filter.takes(found))
                .collect();
            let sequences = found.iter().map(|found| found.seq);
            let mut resolutions = self.resolutions.of(sequences).await?;
            for mut dead_letter in found {
                dead_letter.resolution = resolutions.remove(&dead_letter.seq);
                if filter.state.takes(dead_letter.current_state()) {
                    let seq = dead_letter.seq;
                    page.dead_letters.push(dead_letter.for_scope(scope));
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

    /// One dead letter with headers and payload.
    ///
    /// # Errors
    /// [`DeadLetterError::NotFound`], [`DeadLetterError::Unavailable`].
    pub async fn show(&self, scope: Scope, seq: u64) -> Result<DeadLetterDetail, DeadLetterError> {
        let (stored, mut dead_letter) = self.get(scope, seq).await?;
        dead_letter.resolution = self.resolutions.get(seq).await?;
        let dead_letter = dead_letter.for_scope(scope);
        Ok(DeadLetterDetail::of(dead_letter, &stored, scope))
    }

    /// The messages of `DEAD` after `cursor`, in order, without a gap; none at the end.
    async fn read(
        &self,
        scope: Scope,
        filter: &Filter,
        cursor: u64,
    ) -> Result<Vec<StoredMessage>, DeadLetterError> {
        let service = filter.service.as_ref().map(ServiceName::as_str);
        let (connection, dead) = (&self.connection, inventory::DEAD);
        let mut pages = Vec::new();
        for subjects in subject::dead_letters(service, scope.company().or(filter.company)) {
            pages.push(match filter.from {
                Some(from) if cursor == 0 => {
                    direct_get::page_since(connection, dead, &subjects, from, SCAN_PAGE).await?
                }
                _ => {
                    let next = cursor.saturating_add(1);
                    direct_get::page(connection, dead, &subjects, next, SCAN_PAGE).await?
                }
            });
        }
        Ok(merge(pages))
    }

    /// The dead letter of this sequence, without its resolution.
    pub(super) async fn get(
        &self,
        scope: Scope,
        seq: u64,
    ) -> Result<(StoredMessage, DeadLetter), DeadLetterError> {
        let (connection, dead) = (&self.connection, inventory::DEAD);
        let found = direct_get::page(connection, dead, subject::DEAD, seq, 1).await?;
        let stored = found
            .into_iter()
            .find(|stored| stored.seq == seq)
            .ok_or(DeadLetterError::NotFound)?;
        let dead_letter = DeadLetter::of(&stored)
            .filter(|found| scope.has(&found.subject_info()))
            .ok_or(DeadLetterError::NotFound)?;
        Ok((stored, dead_letter))
    }
}

/// Merges pages into one ascending list, which ends where the shortest page ends. Otherwise the
/// list would pass over messages that the shortest page's subject has beyond its end. An empty page
/// has reached the end of its subject.
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
        /// Going on after the last message passes over nothing and gives nothing twice, whatever
        /// the lengths of the pages.
        #[test]
        fn merged_pages_are_walked_without_a_gap(
            all in proptest::collection::btree_map(1u64..200, any::<bool>(), 0..60),
            size in 1usize..7,
        ) {
            let page = |which: bool, after: u64| {
                let next = all.iter().filter(|(seq, of)| **seq > after && **of == which);
                next.take(size).map(|(seq, _)| stored(*seq)).collect::<Vec<_>>()
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
}
