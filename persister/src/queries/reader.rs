//! Reads collections within time limits, and reads again while the view is behind the log. Each
//! query of the contract is a method of [`Reader`] in a file of its own.

use std::time::Duration;

use contract::{Id, Timestamp};
use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::action::Find;
use mongodb::bson::raw::{RawDocument, RawDocumentBuf};
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReadConcern;
use runtime::consume::worker;
use runtime::net::connection::Connection;
use runtime::rpc::query::QueryError;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::consume::SOURCE;
use crate::mongo::client::{DatabaseError, limited};
use crate::mongo::collections::Collections;
use crate::mongo::document::{BadDocument, oid};
use crate::progress::Progress;

/// How long a query waits at most for the view to catch up with the log. The wait lets a GET right
/// after its POST find the document. Beyond that the query fails as unavailable.
const CATCH_UP: Duration = Duration::from_secs(3);
/// How long MongoDB works on one query at most. Beyond that MongoDB gives the query up, because the
/// caller waits only 5 s.
pub const MAX_TIME: Duration = Duration::from_secs(4);
/// The pause between looks while catching up.
const LOOK_EVERY: Duration = Duration::from_millis(15);

impl From<DatabaseError> for QueryError {
    fn from(error: DatabaseError) -> QueryError {
        QueryError::Unavailable(error.into_text())
    }
}

impl From<BadDocument> for QueryError {
    fn from(error: BadDocument) -> QueryError {
        QueryError::Bad(error.to_string())
    }
}

/// Waits for the view to catch up with the log as the log was at the first look.
#[derive(Default)]
struct CatchUp {
    /// The sequence to reach, and until when.
    target: Option<(u64, Instant)>,
}

impl CatchUp {
    async fn is_done(&mut self, connection: &Connection) -> Result<bool, QueryError> {
        let lag = worker::lag(connection, SOURCE)
            .await
            .map_err(|e| QueryError::Unavailable(e.to_string()))?;
        // The stream's last sequence at the first look.
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

/// Answers queries from MongoDB.
pub struct Reader {
    pub collections: Collections,
    pub connection: Connection,
    pub progress: Progress,
    pub clock: fn() -> Timestamp,
}

impl Reader {
    /// All documents that a query finds.
    pub async fn all<T: DeserializeOwned + Send + Sync>(
        &self,
        find: Find<'_, T>,
    ) -> Result<Vec<T>, QueryError> {
        Ok(limited(async { Ok(find.max_time(MAX_TIME).await?.try_collect().await?) }).await?)
    }

    /// The first document that a filter finds.
    pub async fn one<T: DeserializeOwned + Send + Sync>(
        &self,
        collection: &Collection<T>,
        filter: Document,
    ) -> Result<Option<T>, QueryError> {
        Ok(limited(async { Ok(collection.find_one(filter).max_time(MAX_TIME).await?) }).await?)
    }

    /// The same as [`Reader::one`] for a filter by `_id`, confirmed by a majority of the replica set.
    /// That nothing is found is final: a message may become a dead letter by it. A primary that was
    /// replaced and does not know it yet could not say so.
    async fn one_confirmed<T: DeserializeOwned + Send + Sync>(
        &self,
        collection: &Collection<T>,
        filter: Document,
    ) -> Result<Option<T>, QueryError> {
        let find = collection.find_one(filter).max_time(MAX_TIME);
        let find = find.read_concern(ReadConcern::linearizable());
        Ok(limited(async { Ok(find.await?) }).await?)
    }

    /// The document with this `_id`, if it passes `is_it`. Looks by `_id` alone, because MongoDB does
    /// that without planning. While the view is behind the log as the log was at the first look,
    /// this function looks again, for [`CATCH_UP`] at most.
    pub async fn find_or_catch_up(
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
        let mut catch_up = CatchUp::default();
        loop {
            let is_done = catch_up.is_done(&self.connection).await?;
            if let Some(found) = look().await? {
                return Ok(found);
            }
            if is_done {
                let found = self.one_confirmed(collection, filter).await?;
                let found = found.filter(|found| is_it(found));
                return found.ok_or(QueryError::NotFound);
            }
            catch_up.pause().await?;
        }
    }

    /// Waits until all that the log has now is in the view, for [`CATCH_UP`] at most.
    pub async fn catch_up(&self) -> Result<(), QueryError> {
        let mut catch_up = CatchUp::default();
        while !catch_up.is_done(&self.connection).await? {
            catch_up.pause().await?;
        }
        Ok(())
    }
}

/// Restricts a filter to documents that are whole and not deleted.
pub fn visible(mut filter: Document) -> Document {
    filter.insert("seq", doc! {"$exists": true});
    filter.insert("deleted_at", doc! {"$exists": false});
    filter
}

/// Whether a document is whole and not deleted.
pub fn is_visible(document: &RawDocument) -> bool {
    let has = |field: &str| document.get(field).ok().flatten().is_some();
    has("seq") && !has("deleted_at")
}

/// Whether a document belongs to a company.
pub fn belongs(document: &RawDocument, company: Id) -> bool {
    document
        .get_object_id("company_id")
        .is_ok_and(|id| id == oid(company))
}

/// Reads a raw document as a whole.
pub fn parsed(document: &RawDocument) -> Result<Document, QueryError> {
    Document::try_from(document).map_err(|e| QueryError::Bad(e.to_string()))
}

/// A collection whose documents are not parsed, for answers that pass them on.
pub fn raw(collection: &Collection<Document>) -> Collection<RawDocumentBuf> {
    collection.clone_with_type()
}
