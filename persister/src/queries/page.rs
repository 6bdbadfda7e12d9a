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
    cursor: impl Fn(&RawDocument) -> Option<Cursor>,
) -> Option<Cursor> {
    let limit = carried(found.iter()).min(page.limit.clamp(1, MAX_PAGE) as usize);
    if found.len() <= limit {
        return None;
    }
    found.truncate(limit);
    cursor(found.last()?)
}

/// Where a page of contacts ends.
pub fn by_id(document: &RawDocument) -> Option<Cursor> {
    Some(Cursor {
        key: created_at(document)?,
        id: document::id(document.get_object_id("_id").ok()?),
    })
}

/// Where a page of messages ends.
pub fn by_seq(document: &RawDocument) -> Option<Cursor> {
    let seq = document.get_i64("seq").unwrap_or_default();
    Some(Cursor::of_seq(created_at(document)?, seq.unsigned_abs()))
}

fn created_at(document: &RawDocument) -> Option<i64> {
    Some(document.get_datetime("created_at").ok()?.timestamp_millis())
}

/// Matches what comes after a cursor in a list by `created_at` and `_id`, both descending.
pub fn older(after: Cursor) -> Document {
    after_both(after.key, doc! {"_id": {"$lt": oid(after.id)}})
}

/// As [`older`], in a list by `created_at` and `seq`.
pub fn older_by_seq(after: Cursor) -> Document {
    after_both(
        after.key,
        doc! {"seq": {"$lt": document::long(after.seq())}},
    )
}

fn after_both(created_at: i64, among_equals: Document) -> Document {
    let at = DateTime::from_millis(created_at);
    doc! {"created_at": {"$lte": at}, "$or": [{"created_at": {"$lt": at}}, among_equals]}
}
