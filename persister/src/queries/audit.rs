//! Answers `petbuddy audit`: the bare list of messages, deleted messages included. Judges nothing;
//! the caller finds what is wrong.

use contract::query::{AuditLine, AuditMessages, AuditPage, MAX_AUDIT, WalkMessages};
use mongodb::bson::{Document, doc, oid::ObjectId};
use runtime::rpc::query::QueryError;

use super::reader::Reader;
use crate::mongo::document::{self, oid};

impl Reader {
    pub async fn audit(&self, q: AuditMessages) -> Result<Vec<AuditLine>, QueryError> {
        if q.ids.len() > MAX_AUDIT as usize {
            return Err(QueryError::Bad(format!("at most {MAX_AUDIT} ids")));
        }
        let ids: Vec<ObjectId> = q.ids.iter().map(|id| oid(*id)).collect();
        let found = self
            .all(
                self.collections
                    .messages
                    .find(doc! {"_id": {"$in": ids}})
                    .projection(fields()),
            )
            .await?;
        Ok(found.iter().filter_map(line).collect())
    }

    pub async fn walk(&self, q: WalkMessages) -> Result<AuditPage, QueryError> {
        let limit = q.limit.clamp(1, MAX_AUDIT);
        let filter = q
            .after
            .map(|after| doc! {"_id": {"$gt": oid(after)}})
            .unwrap_or_default();
        let find = self
            .collections
            .messages
            .find(filter)
            .sort(doc! {"_id": 1})
            .limit(limit.into());
        let found = self.all(find.projection(fields())).await?;
        let last = found
            .last()
            .filter(|_| found.len() == limit as usize)
            .and_then(|d| d.get_object_id("_id").ok());
        let lines = found.iter().filter_map(line).filter(|line| {
            q.company_id
                .is_none_or(|company| company == line.company_id)
        });
        Ok(AuditPage {
            lines: lines.collect(),
            next: last.map(document::id),
        })
    }
}

fn fields() -> Document {
    doc! {"company_id": 1, "seq": 1, "delivery.state": 1, "applied.deleted": 1}
}

/// `None` for a placeholder.
fn line(d: &Document) -> Option<AuditLine> {
    Some(AuditLine {
        id: document::id(d.get_object_id("_id").ok()?),
        company_id: document::id(d.get_object_id("company_id").ok()?),
        seq: d.get_i64("seq").ok()?.max(0) as u64,
        state: d
            .get_document("delivery")
            .ok()
            .and_then(|delivery| delivery.get_str("state").ok()?.parse().ok()),
        deleted: d
            .get_document("applied")
            .is_ok_and(|applied| applied.contains_key("deleted")),
    })
}
