//! One audit: the log against the view, the view against the log, and what is not delivered against
//! `OUTBOUND` and `DEAD`. It keeps a page of each in memory, and what is open: at most [`MAX_OPEN`]
//! before it is settled.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use contract::Id;
use contract::domain::DeliveryState;
use contract::{header, inventory, subject};
use runtime::net::connection::Connection;

use super::judge::{
    Difference, Entry, Fate, Finding, Report, compare, extra, fate, message_id, ranges,
};
use super::pages::{Pages, entry};

/// Messages that may be open at a time, some 100 bytes each.
const MAX_OPEN: usize = 200_000;
/// Differences that are named; with more the audit ends: the two are of different systems.
const MAX_DIFFERENCES: usize = 1_000_000;
/// Log sequences that are read in one go to prove a page of the view.
const LONGEST_RANGE: u64 = 1_000;
/// How often a message that is on its way is looked for again, because the system is live …
const ROUNDS: usize = 8;
/// … and after which pause.
const PAUSE: Duration = Duration::from_secs(1);

/// Compares everything, or one company's.
///
/// # Errors
/// Something does not answer for 30 s, or there are more than a million differences.
pub async fn audit(connection: &Connection, company: Option<Id>) -> Result<Report, String> {
    let pages = Pages::new(connection);
    let extent = pages.extent().await?;
    let report = Report {
        from_seq: extent.first,
        to_seq: extent.settled,
        ..Report::default()
    };
    let mut audit = Audit {
        pages,
        filters: Filters::of(company),
        company,
        report,
        absent: BTreeMap::new(),
        undelivered: HashMap::new(),
    };
    audit.log_against_view().await?;
    audit.view_against_log().await?;
    audit.report.differences.sort_by_key(|finding| finding.seq);
    Ok(audit.report)
}

struct Filters {
    created: String,
    outbound: String,
    refused: String,
    failed: String,
}

impl Filters {
    fn of(company: Option<Id>) -> Filters {
        let created = subject::created_of(company);
        let outbound = subject::outbound_of(company);
        let (refused, failed) = (
            subject::dead("persister", &created),
            subject::dead("forwarder", &outbound),
        );
        Filters {
            created,
            outbound,
            refused,
            failed,
        }
    }
}

struct Audit<'a> {
    pages: Pages<'a>,
    filters: Filters,
    company: Option<Id>,
    report: Report,
    /// Not in the view, by sequence.
    absent: BTreeMap<u64, Entry>,
    /// For the bot and not delivered when it was looked at.
    undelivered: HashMap<Id, (Entry, Option<DeliveryState>)>,
}

impl Audit<'_> {
    async fn log_against_view(&mut self) -> Result<(), String> {
        let mut next = self.report.from_seq;
        while next <= self.report.to_seq {
            let page = self
                .pages
                .page(inventory::EVENTS, &self.filters.created, next)
                .await?;
            let Some(last) = page.last() else { break };
            next = last.seq + 1;
            let entries: Vec<Entry> = page
                .iter()
                .take_while(|stored| stored.seq <= self.report.to_seq)
                .map(entry)
                .collect();
            let lines = self
                .pages
                .lines(entries.iter().filter_map(|entry| entry.id).collect())
                .await?;
            let open = compare(&entries, &lines, &mut self.report);
            self.absent
                .extend(open.absent.into_iter().map(|entry| (entry.seq, entry)));
            self.undelivered.extend(
                open.undelivered
                    .into_iter()
                    .filter_map(|open| Some((open.0.id?, open))),
            );
            if self.absent.len() + self.undelivered.len() > MAX_OPEN {
                self.settle().await?;
            }
        }
        self.settle().await
    }

    /// Finds out about everything that is open.
    async fn settle(&mut self) -> Result<(), String> {
        self.settle_absent().await?;
        for round in 1..=ROUNDS {
            let amiss = self.settle_undelivered().await?;
            if amiss.is_empty() || round == ROUNDS {
                self.undelivered.clear();
                return amiss
                    .into_iter()
                    .try_for_each(|finding| self.found(finding));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// What the persister has refused is a dead letter.
    async fn settle_absent(&mut self) -> Result<(), String> {
        let mut next = 1;
        while !self.absent.is_empty() {
            let page = self
                .pages
                .page(inventory::DEAD, &self.filters.refused, next)
                .await?;
            let Some(last) = page.last() else { break };
            next = last.seq + 1;
            for letter in &page {
                let seq = letter
                    .header(header::DEAD_STREAM_SEQ)
                    .and_then(|seq| seq.parse().ok());
                if letter.header(header::DEAD_STREAM) == Some(inventory::EVENTS)
                    && seq.is_some_and(|seq| self.absent.remove(&seq).is_some())
                {
                    self.report.refused += 1;
                }
            }
        }
        for Entry {
            seq,
            id,
            company_id,
            ..
        } in std::mem::take(&mut self.absent).into_values()
        {
            self.found(Finding {
                difference: Difference::Missing,
                seq,
                id,
                company_id,
                state: None,
            })?;
        }
        Ok(())
    }

    /// Looks once at what is not delivered; returns what seems amiss. First at what awaits
    /// delivery, then at the view: what left the one in between is told by the other.
    async fn settle_undelivered(&mut self) -> Result<Vec<Finding>, String> {
        if self.undelivered.is_empty() {
            return Ok(Vec::new());
        }
        let awaiting = self
            .among_undelivered(inventory::OUTBOUND, &self.filters.outbound)
            .await?;
        let dead = self
            .among_undelivered(inventory::DEAD, &self.filters.failed)
            .await?;
        self.pages.caught_up().await?;
        let ids: Vec<Id> = self.undelivered.keys().copied().collect();
        for ids in ids.chunks(contract::query::MAX_AUDIT as usize) {
            for line in self.pages.lines(ids.to_vec()).await? {
                if let Some((_, state)) = self.undelivered.get_mut(&line.id) {
                    *state = line.state;
                }
            }
        }
        let mut amiss = Vec::new();
        self.undelivered.retain(|id, (entry, state)| {
            let settled = match fate(*state, awaiting.contains(id), dead.contains(id)) {
                Fate::Delivered => &mut self.report.delivered,
                Fate::Waiting => &mut self.report.waiting,
                Fate::Failed => &mut self.report.failed,
                Fate::Amiss(difference) => {
                    let Entry {
                        seq, company_id, ..
                    } = *entry;
                    amiss.push(Finding {
                        difference,
                        seq,
                        id: Some(*id),
                        company_id,
                        state: *state,
                    });
                    return true;
                }
            };
            *settled += 1;
            false
        });
        Ok(amiss)
    }

    /// Which of the undelivered messages a stream has.
    async fn among_undelivered(&self, stream: &str, filter: &str) -> Result<HashSet<Id>, String> {
        let (mut found, mut next) = (HashSet::new(), 1);
        loop {
            let page = self.pages.page(stream, filter, next).await?;
            let Some(last) = page.last() else {
                return Ok(found);
            };
            next = last.seq + 1;
            let ids = page.iter().filter_map(|stored| message_id(&stored.payload));
            found.extend(ids.filter(|id| self.undelivered.contains_key(id)));
        }
    }

    async fn view_against_log(&mut self) -> Result<(), String> {
        let (mut after, mut suspects) = (None, Vec::new());
        loop {
            let (mut lines, next) = self.pages.walk(after, self.company).await?;
            self.report.in_database += lines.len() as u64;
            self.report.deleted += lines.iter().filter(|line| line.deleted).count() as u64;
            let all = lines.len();
            lines.retain(|line| line.seq >= self.report.from_seq);
            self.report.older_than_log += (all - lines.len()) as u64;
            lines.sort_by_key(|line| line.seq);
            let seqs: Vec<u64> = lines.iter().map(|line| line.seq).collect();
            let mut entries = Vec::new();
            for (from, to) in ranges(&seqs, LONGEST_RANGE) {
                entries.extend(self.pages.entries(&self.filters.created, from, to).await?);
            }
            suspects.extend(extra(&lines, &entries));
            if suspects.len() > MAX_DIFFERENCES {
                return Err(too_many());
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
        // The log may have dropped its oldest meanwhile.
        let first = if suspects.is_empty() {
            0
        } else {
            self.pages.extent().await?.first
        };
        suspects
            .into_iter()
            .filter(|finding| finding.seq >= first)
            .try_for_each(|finding| self.found(finding))
    }

    fn found(&mut self, finding: Finding) -> Result<(), String> {
        self.report.differences.push(finding);
        if self.report.differences.len() > MAX_DIFFERENCES {
            Err(too_many())
        } else {
            Ok(())
        }
    }
}

fn too_many() -> String {
    format!(
        "more than {MAX_DIFFERENCES} differences: do the log and the database belong to one another?"
    )
}
