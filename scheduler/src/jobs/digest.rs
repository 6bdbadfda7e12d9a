//! Counts the dead letters that nobody has replayed or discarded: by service and reason, and by
//! company. The count is a log line, the detail of the run, and from there a gauge of every
//! replica. It changes nothing, and tells nobody by itself.

use std::collections::{BTreeMap, BTreeSet};

use contract::{Id, Timestamp};
use metrics::gauge;
use runtime::dead_letters::{DeadLetter, DeadLetters, Filter, MAX_DEAD_LETTERS, Scope};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::info;

use super::{JobError, Tools};

/// Letters that one run counts; of more it counts the oldest, and says so.
const MAX_COUNTED: u64 = 100_000;
/// Kinds, and companies, that the detail names: those with the most letters. The rest is counted.
const MAX_NAMED: usize = 20;

/// What a run has counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Digest {
    /// All of them.
    open: u64,
    /// There are more.
    truncated: bool,
    /// When the oldest was stored.
    oldest_at: Option<Timestamp>,
    /// By service and reason, the most first.
    kinds: Vec<Kind>,
    /// By company, the most first.
    companies: Vec<OfCompany>,
    /// How many companies have some.
    companies_total: usize,
    /// Those that are no company's.
    of_no_company: u64,
}

/// Letters of one service and reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kind {
    service: String,
    reason: String,
    open: u64,
}

/// Letters of one company.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct OfCompany {
    company_id: Id,
    open: u64,
}

/// One run.
///
/// # Errors
/// The stream or the bucket does not answer.
pub async fn count(tools: &Tools) -> Result<Value, JobError> {
    let letters = DeadLetters::new(tools.connection.clone());
    let (mut count, mut cursor) = (Count::default(), 0);
    loop {
        let page = letters
            .list(Scope::All, &Filter::default(), cursor, MAX_DEAD_LETTERS)
            .await
            .map_err(|e| JobError(e.to_string()))?;
        page.dead_letters.iter().for_each(|letter| count.add(letter));
        match page.next_cursor {
            Some(_) if count.open >= MAX_COUNTED => count.truncated = true,
            Some(next) => {
                cursor = next;
                continue;
            }
            None => {}
        }
        let digest = count.digest();
        let Digest {
            open,
            truncated,
            companies_total,
            of_no_company,
            oldest_at,
            ..
        } = digest;
        let (kinds, companies) = (json!(digest.kinds), json!(digest.companies));
        info!(open, truncated, companies_total, of_no_company, ?oldest_at, %kinds, %companies, "open dead letters");
        return Ok(json!(digest));
    }
}

/// The gauges of this replica, which show what the last run of any replica has counted.
#[derive(Default)]
pub struct Gauges {
    /// Kinds that have one. Where no letter of a kind is left, it must fall to zero.
    kinds: BTreeSet<(String, String)>,
}

impl Gauges {
    /// Sets them by the detail of a run; one that is under way or has failed changes nothing.
    pub fn show(&mut self, detail: &Value) {
        let Ok(digest) = Digest::deserialize(detail) else {
            return;
        };
        gauge!("dead_letters_open").set(digest.open as f64);
        gauge!("dead_letters_open_companies").set(digest.companies_total as f64);
        let oldest = digest
            .oldest_at
            .map_or(f64::NAN, |at| at.millis() as f64 / 1_000.0);
        gauge!("dead_letters_oldest_timestamp_seconds").set(oldest);
        let counted: BTreeMap<(String, String), u64> = digest
            .kinds
            .into_iter()
            .map(|k| ((k.service, k.reason), k.open))
            .collect();
        self.kinds.extend(counted.keys().cloned());
        for (service, reason) in &self.kinds {
            let open = counted
                .get(&(service.clone(), reason.clone()))
                .copied()
                .unwrap_or_default();
            gauge!("dead_letters_open_of", "from" => service.clone(), "reason" => reason.clone())
                .set(open as f64);
        }
    }
}

/// Letters as they come.
#[derive(Default)]
struct Count {
    open: u64,
    truncated: bool,
    oldest_at: Option<Timestamp>,
    kinds: BTreeMap<(String, String), u64>,
    companies: BTreeMap<Id, u64>,
    of_no_company: u64,
}

impl Count {
    fn add(&mut self, letter: &DeadLetter) {
        self.open += 1;
        self.oldest_at = Some(
            self.oldest_at
                .map_or(letter.stored_at, |at| at.min(letter.stored_at)),
        );
        *self
            .kinds
            .entry((letter.service.clone(), letter.reason.clone()))
            .or_default() += 1;
        match letter.company_id {
            Some(company) => *self.companies.entry(company).or_default() += 1,
            None => self.of_no_company += 1,
        }
    }

    fn digest(self) -> Digest {
        let Count {
            open,
            truncated,
            oldest_at,
            kinds,
            companies,
            of_no_company,
        } = self;
        let companies_total = companies.len();
        let mut kinds: Vec<Kind> = kinds
            .into_iter()
            .map(|((service, reason), open)| Kind {
                service,
                reason,
                open,
            })
            .collect();
        let mut companies: Vec<OfCompany> = companies
            .into_iter()
            .map(|(company_id, open)| OfCompany { company_id, open })
            .collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.open));
        companies.sort_by_key(|company| std::cmp::Reverse(company.open));
        kinds.truncate(MAX_NAMED);
        companies.truncate(MAX_NAMED);
        Digest {
            open,
            truncated,
            oldest_at,
            kinds,
            companies,
            companies_total,
            of_no_company,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(service: &str, reason: &str, company: Option<u8>, second: i64) -> DeadLetter {
        let stored_at = Timestamp::from_millis(1_760_000_000_000 + 1_000 * second);
        DeadLetter {
            seq: 1,
            state: contract::dead_letter::State::Open,
            service: service.into(),
            subject: "message.created.x".into(),
            reason: reason.into(),
            error: None,
            attempts: 1,
            stream: "EVENTS".into(),
            stream_seq: 1,
            event_seq: Some(1),
            first_at: stored_at,
            stored_at,
            replay_of: None,
            company_id: company.map(|byte| Id::from_bytes([byte; 12])),
            contact_id: None,
            message_id: None,
            resolution: None,
        }
    }

    #[test]
    fn letters_are_counted_by_kind_and_company_the_most_first() {
        let mut count = Count::default();
        for (service, reason, company, second) in [
            ("forwarder", "refused", Some(1), 9),
            ("forwarder", "refused", Some(2), 5),
            ("persister", "malformed", None, 7),
            ("forwarder", "expired", Some(2), 8),
            ("forwarder", "expired", Some(2), 8),
            ("forwarder", "expired", Some(2), 8),
        ] {
            count.add(&letter(service, reason, company, second));
        }
        let digest = count.digest();
        let kinds: Vec<_> = digest
            .kinds
            .iter()
            .map(|k| (k.service.as_str(), k.reason.as_str(), k.open))
            .collect();
        assert_eq!(
            kinds,
            [
                ("forwarder", "expired", 3),
                ("forwarder", "refused", 2),
                ("persister", "malformed", 1)
            ]
        );
        assert_eq!(
            digest.companies.iter().map(|c| c.open).collect::<Vec<_>>(),
            [4, 1]
        );
        assert_eq!(
            (digest.open, digest.companies_total, digest.of_no_company),
            (6, 2, 1)
        );
        assert_eq!(
            digest.oldest_at,
            Some(Timestamp::from_millis(1_760_000_005_000))
        );
        assert_eq!(Digest::deserialize(&json!(digest)).unwrap(), digest);
    }

    #[test]
    fn the_detail_is_bounded_however_many_companies_there_are() {
        let mut count = Count::default();
        (0..=255).for_each(|company| count.add(&letter("forwarder", "refused", Some(company), 0)));
        let digest = count.digest();
        assert_eq!(
            (digest.companies.len(), digest.companies_total, digest.open),
            (MAX_NAMED, 256, 256)
        );
    }
}
