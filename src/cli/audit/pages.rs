//! Reading log, queue, dead letters and view, a page at a time. Judges nothing.

use std::time::Duration;

use contract::query::{AuditLine, AuditMessages, Query, WalkMessages};
use contract::trace::TraceContext;
use contract::{Id, inventory};
use runtime::consume::worker::{self, Source};
use runtime::log::direct_get::{self, StoredMessage};
use runtime::net::connection::Connection;
use runtime::rpc::query::{QueryError, ask};
use tokio::time::Instant;

use super::judge::Entry;

/// Messages of a stream in one page.
const PAGE: usize = direct_get::MAX_PAGE;
/// A page or question that fails is tried again for so long: the system is live, and a part may be
/// starting anew.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between the tries.
const PAUSE: Duration = Duration::from_millis(500);
/// Where the persister reads.
const PERSISTER: Source = Source {
    stream: inventory::EVENTS,
    consumer: inventory::PERSISTER,
    prefetch: 1,
};

/// What is read from.
pub struct Pages<'a> {
    connection: &'a Connection,
}

/// How much of the log there is.
#[derive(Clone, Copy)]
pub struct Extent {
    /// The first sequence that it has.
    pub first: u64,
    /// Up to here the view has taken everything in.
    pub settled: u64,
}

impl<'a> Pages<'a> {
    /// Reads nothing yet.
    pub fn new(connection: &'a Connection) -> Pages<'a> {
        Pages { connection }
    }

    /// The log and the view as they are now.
    pub async fn extent(&self) -> Result<Extent, String> {
        let extent = async || {
            let lag = worker::lag(self.connection, PERSISTER).await?;
            let log = self
                .connection
                .jetstream
                .get_stream(inventory::EVENTS)
                .await
                .map_err(|e| e.to_string())?;
            Ok(Extent {
                first: log.cached_info().state.first_sequence,
                settled: lag.settled_to,
            })
        };
        patiently(extent).await
    }

    /// Waits until the view has everything that the log has now.
    pub async fn caught_up(&self) -> Result<(), String> {
        let mut target = None;
        patiently(async || {
            let lag = worker::lag(self.connection, PERSISTER).await?;
            let target = *target.get_or_insert(lag.delivered_to + lag.pending);
            let is = lag.settled_to >= target || (lag.pending == 0 && lag.in_work == 0);
            is.then_some(()).ok_or_else(|| {
                format!(
                    "the database is {} events behind the log",
                    lag.pending + lag.in_work
                )
            })
        })
        .await
    }

    /// A page of a stream; an empty one is the end.
    pub async fn page(
        &self,
        stream: &str,
        filter: &str,
        from: u64,
    ) -> Result<Vec<StoredMessage>, String> {
        patiently(async || direct_get::page(self.connection, stream, filter, from, PAGE).await)
            .await
    }

    /// The messages of the log in a range of sequences.
    pub async fn entries(&self, filter: &str, from: u64, to: u64) -> Result<Vec<Entry>, String> {
        let (mut entries, mut next) = (Vec::new(), from);
        while next <= to {
            let wanted = usize::try_from(to - next + 1).unwrap_or(PAGE).min(PAGE);
            let page = patiently(async || {
                direct_get::page(self.connection, inventory::EVENTS, filter, next, wanted).await
            })
            .await?;
            let Some(last) = page.last() else { break };
            next = last.seq + 1;
            entries.extend(page.iter().take_while(|stored| stored.seq <= to).map(entry));
        }
        Ok(entries)
    }

    /// What the view has of these messages.
    pub async fn lines(&self, ids: Vec<Id>) -> Result<Vec<AuditLine>, String> {
        self.ask(&AuditMessages { ids }).await
    }

    /// A page of the view, and where the next one begins.
    pub async fn walk(
        &self,
        after: Option<Id>,
        company_id: Option<Id>,
    ) -> Result<(Vec<AuditLine>, Option<Id>), String> {
        let page = self
            .ask(&WalkMessages {
                after,
                company_id,
                limit: contract::query::MAX_AUDIT,
            })
            .await?;
        Ok((page.lines, page.next))
    }

    async fn ask<Q: Query>(&self, question: &Q) -> Result<Q::Answer, String> {
        patiently(
            async || match ask(self.connection, question, TraceContext::generate()).await {
                Err(QueryError::Bad(why)) => {
                    Err(format!("the persister is of another version: {why}"))
                }
                answer => answer.map_err(|e| e.to_string()),
            },
        )
        .await
    }
}

/// A stored `message.created`.
pub fn entry(stored: &StoredMessage) -> Entry {
    Entry::of(stored.seq, &stored.subject, &stored.payload)
}

async fn patiently<T>(mut work: impl AsyncFnMut() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match work().await {
            Err(why) if Instant::now() + PAUSE > deadline => return Err(why),
            Err(_) => tokio::time::sleep(PAUSE).await,
            done => return done,
        }
    }
}
