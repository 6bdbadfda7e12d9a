//! Counts the open dead letters, which nobody has replayed or discarded: by service and reason, and
//! by company. The count is written to the log and to the detail of the run, from which every
//! replica sets its gauges. Changes nothing and notifies nobody.

use std::collections::{BTreeMap, BTreeSet};

use contract::{Id, Timestamp};
use metrics::gauge;
use runtime::dead_letters::{DeadLetter, DeadLetters, Filter, MAX_DEAD_LETTERS, Scope};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::info;

use crate::jobs::tools::{JobError, Tools};

/// Dead letters that one run counts. Beyond that only the oldest ones are counted, and the count is
/// marked as truncated.
const MAX_COUNTED: u64 = 100_000;
/// Kinds, and companies, that the detail names: the ones with the most dead letters. The others are
/// only part of the totals.
const MAX_NAMED: usize = 20;

/// The count of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Digest {
    /// All open dead letters.
    open: u64,
    /// There are more than [`MAX_COUNTED`].
    truncated: bool,
    /// When the oldest dead letter was stored.
    oldest_at: Option<Timestamp>,
    /// Sorted by number, the largest first.
    kinds: Vec<KindCount>,
    /// Sorted by number, the largest first.
    companies: Vec<CompanyCount>,
    /// Companies that have open dead letters.
    companies_total: usize,
    /// Dead letters that belong to no company.
    of_no_company: u64,
}

/// The dead letters of one service with one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KindCount {
    service: String,
    reason: String,
    open: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct CompanyCount {
    company_id: Id,
    open: u64,
}

/// One run.
///
/// # Errors
/// The stream or the bucket does not answer.
pub async fn count(tools: &Tools) -> Result<Value, JobError> {
    let dead_letters = DeadLetters::new(tools.connection.clone(), Timestamp::now);
    let (mut counter, mut cursor) = (Counter::default(), 0);
    loop {
        let page = dead_letters
            .list(Scope::All, &Filter::default(), cursor, MAX_DEAD_LETTERS)
            .await
            .map_err(|e| JobError(e.to_string()))?;
        page.dead_letters
            .iter()
            .for_each(|dead_letter| counter.add(dead_letter));
        match page.next_cursor {
            Some(_) if counter.open >= MAX_COUNTED => counter.truncated = true,
            Some(next) => {
                cursor = next;
                continue;
            }
            None => {}
        }
        let digest = counter.digest();
        let Digest {
            open,
            truncated,
            companies_total,
            of_no_company,
            oldest_at,
            ..
        } = digest;
        let (kinds, companies) = (json!(digest.kinds), json!(digest.companies));
        info!(
            open,
            truncated,
            companies_total,
            of_no_company,
            ?oldest_at,
            %kinds,
            %companies,
            "open dead letters"
        );
        return Ok(json!(digest));
    }
}

/// The gauges of this replica. They show the count of the last run of any replica.
#[derive(Default)]
pub struct Gauges {
    /// Kinds that have a gauge. The gauge of a kind without dead letters must fall to zero.
    kinds: BTreeSet<(String, String)>,
}

impl Gauges {
    /// Sets the gauges from the detail of a run. The detail of a run that has not succeeded changes
    /// nothing.
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

/// Counts dead letters one by one.
#[derive(Default)]
struct Counter {
    open: u64,
    truncated: bool,
    oldest_at: Option<Timestamp>,
    kinds: BTreeMap<(String, String), u64>,
    companies: BTreeMap<Id, u64>,
    of_no_company: u64,
}

impl Counter {
    fn add(&mut self, dead_letter: &DeadLetter) {
        self.open += 1;
        self.oldest_at = Some(
            self.oldest_at
                .map_or(dead_letter.stored_at, |at| at.min(dead_letter.stored_at)),
        );
        *self
            .kinds
            .entry((dead_letter.service.clone(), dead_letter.reason.clone()))
            .or_default() += 1;
        match dead_letter.company_id {
            Some(company) => *self.companies.entry(company).or_default() += 1,
            None => self.of_no_company += 1,
        }
    }

    fn digest(self) -> Digest {
        let Counter {
            open,
            truncated,
            oldest_at,
            kinds,
            companies,
            of_no_company,
        } = self;
        let companies_total = companies.len();
        let mut kinds: Vec<KindCount> = kinds
            .into_iter()
            .map(|((service, reason), open)| KindCount {
                service,
                reason,
                open,
            })
            .collect();
        let mut companies: Vec<CompanyCount> = companies
            .into_iter()
            .map(|(company_id, open)| CompanyCount { company_id, open })
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

    fn dead_letter(service: &str, reason: &str, company: Option<u8>, second: i64) -> DeadLetter {
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
    fn dead_letters_are_counted_by_kind_and_company_the_largest_first() {
        let mut counter = Counter::default();
        for (service, reason, company, second) in [
            ("forwarder", "refused", Some(1), 9),
            ("forwarder", "refused", Some(2), 5),
            ("persister", "malformed", None, 7),
            ("forwarder", "expired", Some(2), 8),
            ("forwarder", "expired", Some(2), 8),
            ("forwarder", "expired", Some(2), 8),
        ] {
            counter.add(&dead_letter(service, reason, company, second));
        }
        let digest = counter.digest();
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
    fn the_detail_names_a_bounded_number_of_companies() {
        let mut counter = Counter::default();
        (0..=255).for_each(|company| {
            counter.add(&dead_letter("forwarder", "refused", Some(company), 0))
        });
        let digest = counter.digest();
        assert_eq!(
            (digest.companies.len(), digest.companies_total, digest.open),
            (MAX_NAMED, 256, 256)
        );
    }
}
