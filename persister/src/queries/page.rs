//! A page of a list: how much is read, how much one answer carries, and where the next page begins.
//! Reads nothing.

use contract::query::{Cursor, MAX_PAGE, Page};
use mongodb::bson::raw::{RawDocument, RawDocumentBuf};
use mongodb::bson::{DateTime, Document, doc};

use crate::mongo::document::{self, oid};

/// Bytes of BSON in one answer at most. Further documents go to the next page. As JSON they may be
/// twice as long, and NATS carries 8 MB.
const MAX_PAGE_BYTES: usize = 3 * 1024 * 1024;

/// How many documents to read: one more than the page has, which says whether there is a next page.
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

/// Cuts the documents to the page and to what one answer carries. Returns where the next page
/// begins.
pub fn cut(
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

/// The key by which lists of messages and contacts are sorted.
pub fn created_at(document: &RawDocument) -> Option<i64> {
    Some(document.get_datetime("created_at").ok()?.timestamp_millis())
}

/// Matches what comes after a cursor in a list by `created_at` and `_id`, both descending.
pub fn older(after: Cursor) -> Document {
    let at = DateTime::from_millis(after.key);
    doc! {"created_at": {"$lte": at}, "$or": [{"created_at": {"$lt": at}}, {"_id": {"$lt": oid(after.id)}}]}
}
