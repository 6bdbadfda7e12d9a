//! Runs one audit: compares the log with the view, the view with the log, and the undelivered
//! messages with `OUTBOUND` and `DEAD`; looks in the delivery steps for calls after a delivery.
//! Keeps a page of each in memory, and at most [`MAX_OPEN`] open messages before they are resolved.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use contract::Id;
use contract::domain::DeliveryState;
use contract::{header, inventory, subject};
use runtime::net::connection::Connection;

use super::judge::{
    BotDelivery, Difference, Entry, Finding, Report, Taken, bot_delivery, compare, extra,
    message_id, ranges,
};
use super::pages::{Pages, entry};

/// Open messages that are kept, some 100 bytes each. Beyond that they are resolved first.
const MAX_OPEN: usize = 200_000;
/// Differences that are reported. With more the audit fails, because log and database must belong
/// to different systems.
const MAX_DIFFERENCES: usize = 1_000_000;
/// Sequences of the log that are read with one request.
const LONGEST_RANGE: u64 = 1_000;
/// How often an unexplained message is looked for. In a live system a message may be between two
/// places, so it counts as a difference only after the last round.
const ROUNDS: usize = 8;
/// Pause between two rounds.
const PAUSE: Duration = Duration::from_secs(1);

/// Compares all messages, or the messages of one company.
///
/// # Errors
/// A part does not answer for 30 s, or there are more than [`MAX_DIFFERENCES`].
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
    audit.calls_again().await?;
    audit.view_against_log().await?;
    audit.report.differences.sort_by_key(|finding| finding.seq);
    Ok(audit.report)
}

struct Filters {
    created: String,
    outbound: String,
    refused: String,
    failed: String,
    steps: String,
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
            steps: subject::deliveries_of(company),
        }
    }
}

struct Audit<'a> {
    pages: Pages<'a>,
    filters: Filters,
    company: Option<Id>,
    report: Report,
    /// Messages that are not in the view, by sequence.
    absent: BTreeMap<u64, Entry>,
    /// Messages for the bot that were not delivered at the last look.
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
                self.resolve_open().await?;
            }
        }
        self.resolve_open().await
    }

    /// Finds messages that the bot was called for after it had taken them.
    async fn calls_again(&mut self) -> Result<(), String> {
        let (mut taken, mut next) = (Taken::default(), self.report.from_seq);
        loop {
            let page = self
                .pages
                .page(inventory::EVENTS, &self.filters.steps, next)
                .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            next = last.seq + 1;
            for step in &page {
                if let Some(finding) = taken.see(step.seq, &step.payload) {
                    self.report_difference(finding)?;
                }
            }
        }
    }

    /// Explains every open message, or reports it as a difference.
    async fn resolve_open(&mut self) -> Result<(), String> {
        self.resolve_absent().await?;
        for round in 1..=ROUNDS {
            let unexplained = self.resolve_undelivered().await?;
            if unexplained.is_empty() || round == ROUNDS {
                self.undelivered.clear();
                return unexplained
                    .into_iter()
                    .try_for_each(|finding| self.report_difference(finding));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Explains absent messages by dead letters: the persister has refused those messages.
    async fn resolve_absent(&mut self) -> Result<(), String> {
        let mut next = 1;
        while !self.absent.is_empty() {
            let page = self
                .pages
                .page(inventory::DEAD, &self.filters.refused, next)
                .await?;
            let Some(last) = page.last() else { break };
            next = last.seq + 1;
            for dead_letter in &page {
                let seq = dead_letter
                    .header(header::DEAD_STREAM_SEQ)
                    .and_then(|seq| seq.parse().ok());
                if dead_letter.header(header::DEAD_STREAM) == Some(inventory::EVENTS)
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
            self.report_difference(Finding {
                difference: Difference::Missing,
                seq,
                id,
                company_id,
                state: None,
            })?;
        }
        Ok(())
    }

    /// Looks once at the undelivered messages, and returns the unexplained ones. `OUTBOUND` is read
    /// before the view. Because a message is reported as delivered when it leaves `OUTBOUND`, a
    /// message that leaves between the two reads is found in the view.
    async fn resolve_undelivered(&mut self) -> Result<Vec<Finding>, String> {
        if self.undelivered.is_empty() {
            return Ok(Vec::new());
        }
        let waiting = self
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
        let mut unexplained = Vec::new();
        self.undelivered.retain(|id, (entry, state)| {
            let count = match bot_delivery(*state, waiting.contains(id), dead.contains(id)) {
                BotDelivery::Delivered => &mut self.report.delivered,
                BotDelivery::Waiting => &mut self.report.waiting,
                BotDelivery::Failed => &mut self.report.failed,
                BotDelivery::Cancelled => &mut self.report.cancelled,
                BotDelivery::Unexplained(difference) => {
                    let Entry {
                        seq, company_id, ..
                    } = *entry;
                    unexplained.push(Finding {
                        difference,
                        seq,
                        id: Some(*id),
                        company_id,
                        state: *state,
                    });
                    return true;
                }
            };
            *count += 1;
            false
        });
        Ok(unexplained)
    }

    /// The undelivered messages that a stream contains.
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
        // The log may have dropped its oldest messages meanwhile.
        let first = if suspects.is_empty() {
            0
        } else {
            self.pages.extent().await?.first
        };
        suspects
            .into_iter()
            .filter(|finding| finding.seq >= first)
            .try_for_each(|finding| self.report_difference(finding))
    }

    fn report_difference(&mut self, finding: Finding) -> Result<(), String> {
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
        "more than {MAX_DIFFERENCES} differences: do the log and the database belong to one \
         another?"
    )
}
