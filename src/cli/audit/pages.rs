//! Reads log, queue, dead letters and view, one page at a time. Judges nothing.

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

/// Messages of a stream that are read with one request.
const PAGE: usize = direct_get::MAX_PAGE;
/// How long a failed read is repeated. In a live system a part may be restarting.
const RETRY_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// The persister's consumer, which says how far the view is.
const PERSISTER: Source = Source {
    stream: inventory::EVENTS,
    consumer: inventory::PERSISTER,
    prefetch: 1,
};

/// Reads the pages of one system.
pub struct Pages<'a> {
    connection: &'a Connection,
}

/// The part of the log that can be compared.
#[derive(Clone, Copy)]
pub struct Extent {
    /// The first sequence in the log.
    pub first: u64,
    /// The last sequence up to which the persister has processed everything.
    pub settled: u64,
}

impl<'a> Pages<'a> {
    pub fn new(connection: &'a Connection) -> Pages<'a> {
        Pages { connection }
    }

    /// How far log and view are now.
    pub async fn extent(&self) -> Result<Extent, String> {
        let extent = async || {
            let lag = worker::lag(self.connection, PERSISTER)
                .await
                .map_err(|e| e.to_string())?;
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
        with_retries(extent).await
    }

    /// Waits until the persister has processed everything that is in the log now.
    pub async fn caught_up(&self) -> Result<(), String> {
        let mut target = None;
        with_retries(async || {
            let lag = worker::lag(self.connection, PERSISTER)
                .await
                .map_err(|e| e.to_string())?;
            let target = *target.get_or_insert(lag.delivered_to + lag.pending);
            let is_caught_up = lag.settled_to >= target || (lag.pending == 0 && lag.in_work == 0);
            is_caught_up.then_some(()).ok_or_else(|| {
                format!(
                    "the database is {} events behind the log",
                    lag.pending + lag.in_work
                )
            })
        })
        .await
    }

    /// Reads a page of a stream. An empty page is the end of the stream.
    pub async fn page(
        &self,
        stream: &str,
        filter: &str,
        from: u64,
    ) -> Result<Vec<StoredMessage>, String> {
        with_retries(async || {
            direct_get::page(self.connection, stream, filter, from, PAGE)
                .await
                .map_err(|e| e.to_string())
        })
        .await
    }

    /// Reads the messages of the log in a range of sequences.
    pub async fn entries(&self, filter: &str, from: u64, to: u64) -> Result<Vec<Entry>, String> {
        let (mut entries, mut next) = (Vec::new(), from);
        while next <= to {
            let wanted = usize::try_from(to - next + 1).unwrap_or(PAGE).min(PAGE);
            let page = with_retries(async || {
                direct_get::page(self.connection, inventory::EVENTS, filter, next, wanted)
                    .await
                    .map_err(|e| e.to_string())
            })
            .await?;
            let Some(last) = page.last() else { break };
            next = last.seq + 1;
            entries.extend(page.iter().take_while(|stored| stored.seq <= to).map(entry));
        }
        Ok(entries)
    }

    /// Reads these messages from the view.
    pub async fn lines(&self, ids: Vec<Id>) -> Result<Vec<AuditLine>, String> {
        self.ask(&AuditMessages { ids }).await
    }

    /// Reads a page of the view. Returns the page and the beginning of the next one.
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
        with_retries(async || {
            match ask(self.connection, question, TraceContext::generate()).await {
                Err(QueryError::Bad(why)) => {
                    Err(format!("the persister is of another version: {why}"))
                }
                answer => answer.map_err(|e| e.to_string()),
            }
        })
        .await
    }
}

/// Reads a stored `message.created`.
pub fn entry(stored: &StoredMessage) -> Entry {
    Entry::of(stored.seq, &stored.subject, &stored.payload)
}

/// Repeats `work` until it succeeds, for at most [`RETRY_LIMIT`].
async fn with_retries<T>(mut work: impl AsyncFnMut() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + RETRY_LIMIT;
    loop {
        match work().await {
            Err(why) if Instant::now() + PAUSE > deadline => return Err(why),
            Err(_) => tokio::time::sleep(PAUSE).await,
            done => return done,
        }
    }
}
