//! Looking into collections: within time limits, again while the view is behind the log, and a page
//! at a time.

use std::time::Duration;

use contract::query::{Cursor, MAX_PAGE, Page};
use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::action::Find;
use mongodb::bson::raw::{RawDocument, RawDocumentBuf};
use mongodb::bson::{Bson, DateTime, Document, doc};
use runtime::consume::worker;
use runtime::net::connection::Connection;
use runtime::rpc::query::QueryError;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::Queries;
use crate::consume::SOURCE;
use crate::mongo::document::{self, oid};
use crate::mongo::limited;

/// What misses waits for the view to catch up with the log, no longer than this; so a GET right
/// after its POST finds.
const CATCH_UP: Duration = Duration::from_secs(3);
/// MongoDB itself gives a query up after this; the one who asked waits 5 s.
pub const MAX_TIME: Duration = Duration::from_secs(4);
/// Documents of one answer, in BSON. As JSON they may be twice as long, and NATS carries 8 MB.
const MAX_PAGE_BYTES: usize = 3 * 1024 * 1024;
/// Between looks while catching up.
const LOOK_EVERY: Duration = Duration::from_millis(15);

/// Waiting for the view to catch up with the log as it was at the first look.
#[derive(Default)]
struct Behind {
    target: Option<(u64, Instant)>,
}

impl Behind {
    async fn has_caught_up(&mut self, connection: &Connection) -> Result<bool, QueryError> {
        let lag = worker::lag(connection, SOURCE)
            .await
            .map_err(QueryError::Unavailable)?;
        // The stream's last sequence at the first look; everything up to it counts.
        let (target, _) = *self
            .target
            .get_or_insert((lag.delivered_to + lag.pending, Instant::now() + CATCH_UP));
        Ok(lag.settled_to >= target || (lag.pending == 0 && lag.in_work == 0))
    }

    async fn pause(&self) -> Result<(), QueryError> {
        if self
            .target
            .is_some_and(|(_, until)| Instant::now() >= until)
        {
            return Err(QueryError::Unavailable(
                "the view is behind the log; try again".into(),
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        Ok(())
    }
}

impl Queries {
    /// All documents that a query finds.
    pub(super) async fn all<T: DeserializeOwned + Send + Sync>(
        &self,
        find: Find<'_, T>,
    ) -> Result<Vec<T>, QueryError> {
        Ok(limited(async { Ok(find.max_time(MAX_TIME).await?.try_collect().await?) }).await?)
    }

    /// The first document that a filter finds.
    pub(super) async fn one<T: DeserializeOwned + Send + Sync>(
        &self,
        collection: &Collection<T>,
        filter: Document,
    ) -> Result<Option<T>, QueryError> {
        Ok(limited(async { Ok(collection.find_one(filter).max_time(MAX_TIME).await?) }).await?)
    }

    /// Looks for a document by `_id` alone, which MongoDB does without planning, and keeps it if
    /// `is_it`; and while the view is behind the log as it was at the first look, looks again,
    /// bounded.
    pub(super) async fn find_or_catch_up(
        &self,
        collection: &Collection<RawDocumentBuf>,
        id: impl Into<Bson>,
        is_it: impl Fn(&RawDocument) -> bool,
    ) -> Result<RawDocumentBuf, QueryError> {
        let filter = doc! {"_id": id.into()};
        let look = async || {
            Ok::<_, QueryError>(
                self.one(collection, filter.clone())
                    .await?
                    .filter(|found| is_it(found)),
            )
        };
        if let Some(found) = look().await? {
            return Ok(found);
        }
        let mut behind = Behind::default();
        loop {
            let caught_up = behind.has_caught_up(&self.connection).await?;
            if let Some(found) = look().await? {
                return Ok(found);
            }
            if caught_up {
                return Err(QueryError::NotFound);
            }
            behind.pause().await?;
        }
    }

    /// Waits, bounded, until everything that the log has now is in the view.
    pub(super) async fn caught_up(&self) -> Result<(), QueryError> {
        let mut behind = Behind::default();
        while !behind.has_caught_up(&self.connection).await? {
            behind.pause().await?;
        }
        Ok(())
    }
}

/// One more than the page: whether there is a next one.
pub fn one_more(page: Page) -> i64 {
    i64::from(page.limit.clamp(1, MAX_PAGE)) + 1
}

/// How many of these documents one answer carries: at least one.
pub fn carried<'a>(documents: impl Iterator<Item = &'a RawDocumentBuf>) -> usize {
    let mut bytes = 0;
    let within = |document: &&RawDocumentBuf| {
        bytes += document.as_bytes().len();
        bytes <= MAX_PAGE_BYTES
    };
    documents.take_while(within).count().max(1)
}

/// Cuts what was read to the page, and to what one answer carries, and says where the next one
/// begins.
pub fn next(
    found: &mut Vec<RawDocumentBuf>,
    page: Page,
    key: impl Fn(&RawDocument) -> Option<i64>,
    id: &str,
) -> Option<Cursor> {
    let limit = carried(found.iter()).min(page.limit.clamp(1, MAX_PAGE) as usize);
    if found.len() <= limit {
        return None;
    }
    found.truncate(limit);
    let last = found.last()?;
    Some(Cursor {
        key: key(last)?,
        id: document::id(last.get_object_id(id).ok()?),
    })
}

/// What lists of messages and contacts are sorted by.
pub fn created_at(document: &RawDocument) -> Option<i64> {
    Some(document.get_datetime("created_at").ok()?.timestamp_millis())
}

/// What comes after a cursor in a list by `created_at` and `_id`, both descending.
pub fn older(after: Cursor, at: DateTime) -> Document {
    doc! {"created_at": {"$lte": at}, "$or": [{"created_at": {"$lt": at}}, {"_id": {"$lt": oid(after.id)}}]}
}
