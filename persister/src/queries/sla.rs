//! Reports on companies' targets, and messages that missed a target. The counting is in `fold::sla`.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use contract::domain::{Direction, Platform, Role, SlaTargets};
use contract::query::{
    Backlog, ListOverdue, MAX_OVERDUE, MAX_REPORT_DAYS, MAX_REPORT_MESSAGES, Overdue, OverdueAfter,
    OverduePage, ReportSla, SlaReport,
};
use contract::{Id, Timestamp};
use futures_util::TryStreamExt;
use mongodb::bson::raw::{RawDocument, RawDocumentBuf};
use mongodb::bson::{DateTime, Document, doc};
use runtime::consume::worker;
use runtime::rpc::query::QueryError;
use tokio::time::Instant;

use super::reader::{MAX_TIME, Reader, raw};
use crate::consume::SOURCE;
use crate::fold::sla::{Kind, Row, Step, Targets, tally};
use crate::latency;
use crate::mongo::client::limited;
use crate::mongo::directory;
use crate::mongo::document::{self, oid};
use crate::mongo::indexes::undelivered;

/// Companies with targets of their own that a sweep reads at most. Beyond that the sweep takes the
/// default for the others.
const MAX_COMPANIES: i64 = 100_000;
/// After this time a question for overdue messages begins with no further target, and the caller
/// asks for the rest. Otherwise the answer could come after the 5 s that the caller waits.
const LOOK_FOR: Duration = Duration::from_secs(2);
/// Documents of a report in one batch of the cursor.
const REPORT_BATCH: u32 = 10_000;

impl Reader {
    pub async fn sla_report(&self, q: ReportSla) -> Result<SlaReport, QueryError> {
        if q.to.since(q.from).as_secs() > MAX_REPORT_DAYS * 86_400 || q.from > q.to {
            return Err(QueryError::Bad(format!(
                "a range has at most {MAX_REPORT_DAYS} days, and begins before it ends"
            )));
        }
        // Before the messages are read, so that they are at least as new as `as_of_seq` says.
        let lag = worker::lag(&self.connection, SOURCE)
            .await
            .map_err(|e| QueryError::Unavailable(e.to_string()))?;
        let now = (self.clock)();
        let (targets, mut rows, backlog, persisted) = tokio::try_join!(
            self.targets(q.company_id),
            self.accepted(&q),
            self.backlog(&q, now),
            self.persisted(&q)
        )?;
        let truncated = rows.len() > MAX_REPORT_MESSAGES as usize;
        rows.truncate(MAX_REPORT_MESSAGES as usize);
        let oldest = rows
            .last()
            .filter(|_| truncated)
            .map(|row| Timestamp::from_millis(row.accepted_at));
        let tally = tally(&mut rows, &targets, now.millis(), q.to.millis());
        Ok(SlaReport {
            from: q.from,
            to: q.to,
            platform: q.platform,
            targets: targets.current(),
            messages: rows.len() as u64,
            truncated,
            counted_from: oldest.unwrap_or(q.from),
            as_of_seq: lag.settled_to,
            behind: lag.pending + lag.in_work,
            persisted,
            delivered: tally.delivered,
            delivery: tally.delivery,
            first_response: tally.first_response,
            backlog,
        })
    }

    async fn targets(&self, company: Id) -> Result<Targets, QueryError> {
        let found = self
            .one(&self.collections.companies, doc! {"_id": oid(company)})
            .await?;
        Ok(found
            .map(|company| directory::read_targets(&company))
            .unwrap_or_default())
    }

    /// The messages that were accepted in the range, newest first, and at most one more than a report
    /// counts. Deleted messages are among them, because their targets held too.
    async fn accepted(&self, q: &ReportSla) -> Result<Vec<Row>, QueryError> {
        let between = doc! {"$gte": document::date(q.from), "$lt": document::date(q.to)};
        let filter = of_platform(
            doc! {"company_id": oid(q.company_id), "accepted_at": between},
            q.platform,
        );
        let fields = doc! {
            "_id": 0, "seq": 1, "contact_id": 1, "platform": 1, "role": 1, "direction": 1, "accepted_at": 1, "delivery.state": 1,
            "delivery.delivered_at": 1, "sla.breached_at": 1,
        };
        let messages = raw(&self.collections.messages);
        let find = messages
            .find(filter)
            .sort(doc! {"accepted_at": -1})
            .projection(fields)
            .batch_size(REPORT_BATCH);
        let read = async {
            let mut cursor = find
                .limit(i64::from(MAX_REPORT_MESSAGES) + 1)
                .max_time(MAX_TIME)
                .await?;
            let mut rows = Vec::new();
            while let Some(document) = cursor.try_next().await? {
                rows.extend(row(&document));
            }
            Ok(rows)
        };
        Ok(limited(read).await?)
    }

    async fn backlog(&self, q: &ReportSla, now: Timestamp) -> Result<Backlog, QueryError> {
        let mut filter = of_platform(doc! {"company_id": oid(q.company_id)}, q.platform);
        filter.extend(undelivered());
        let group = doc! {"_id": "$delivery.state", "count": {"$sum": 1_i64}, "oldest": {"$min": "$accepted_at"}};
        let mut backlog = Backlog::default();
        for state in self
            .summed(
                vec![doc! {"$match": filter}, doc! {"$group": group}],
                &self.collections.messages,
            )
            .await?
        {
            let count = state.get_i64("count").unwrap_or_default().max(0) as u64;
            backlog.total += count;
            match state.get_str("_id").unwrap_or_default() {
                "queued" => backlog.queued = count,
                "sending" => backlog.sending = count,
                "retrying" => backlog.retrying = count,
                _ => backlog.held = count,
            }
            let age = state.get_datetime("oldest").ok().map(|at| {
                now.since(Timestamp::from_millis(at.timestamp_millis()))
                    .as_millis() as u64
            });
            backlog.oldest_age_ms = backlog.oldest_age_ms.max(age);
        }
        Ok(backlog)
    }

    async fn persisted(&self, q: &ReportSla) -> Result<contract::query::Percentiles, QueryError> {
        let pipeline = latency::sum(q.company_id, q.platform, q.from, q.to);
        let sum = self
            .summed(pipeline, &self.collections.persist_latencies)
            .await?;
        Ok(latency::percentiles(sum.first()))
    }

    async fn summed(
        &self,
        pipeline: Vec<Document>,
        of: &mongodb::Collection<Document>,
    ) -> Result<Vec<Document>, QueryError> {
        Ok(limited(async {
            Ok(of
                .aggregate(pipeline)
                .max_time(MAX_TIME)
                .await?
                .try_collect()
                .await?)
        })
        .await?)
    }

    /// The messages whose target passed within a time. For each target that any company has, this
    /// function reads the messages that were accepted that much earlier. So a message is looked at
    /// once, when its target passes. A page covers at least one target, and as many as there is time
    /// for.
    pub async fn overdue(&self, q: ListOverdue) -> Result<OverduePage, QueryError> {
        let begun = Instant::now();
        self.catch_up().await?;
        let histories = self.histories().await?;
        let default = SlaTargets::default().delivery_seconds;
        let passing =
            |history: &Targets| history.delivery_seconds_passing(q.from.millis(), q.to.millis());
        let targets: BTreeSet<u32> = histories
            .values()
            .flat_map(passing)
            .chain([default])
            .collect();
        let limit = q.limit.clamp(1, MAX_OVERDUE) as usize;
        let mut page = OverduePage {
            overdue: Vec::new(),
            next: None,
        };
        let mut room = limit;
        let left = targets
            .into_iter()
            .filter(|target| q.after.is_none_or(|after| after.target_seconds <= *target));
        for (looked_at, target) in left.enumerate() {
            if looked_at > 0 && begun.elapsed() > LOOK_FOR {
                page.next = Some(before(q, target));
                break;
            }
            let after = q.after.filter(|after| after.target_seconds == target);
            let find = self
                .collections
                .messages
                .find(late(q, target, after))
                .sort(doc! {"accepted_at": 1, "_id": 1});
            let fields = doc! {"company_id": 1, "contact_id": 1, "platform": 1, "accepted_at": 1};
            let found = self.all(find.projection(fields).limit(room as i64)).await?;
            let all: Vec<Overdue> = found.iter().filter_map(|d| overdue(d, target)).collect();
            room -= found.len().min(room);
            // A message of a company with another target belongs to that target's round.
            let held = |o: &Overdue| {
                histories
                    .get(&o.company_id)
                    .map_or(default, |h| h.at(o.accepted_at.millis()).delivery_seconds)
            };
            page.overdue
                .extend(all.iter().filter(|o| held(o) == target));
            if room == 0 {
                let last = all.last();
                page.next = last.map(|o| OverdueAfter {
                    target_seconds: target,
                    accepted_at: o.accepted_at,
                    message_id: o.message_id,
                });
                break;
            }
        }
        Ok(page)
    }

    /// Targets of the companies that have chosen targets.
    async fn histories(&self) -> Result<HashMap<Id, Targets>, QueryError> {
        let find = self
            .collections
            .companies
            .find(doc! {"sla.seq": {"$exists": true}})
            .projection(doc! {"sla": 1});
        let found = self.all(find.limit(MAX_COMPANIES)).await?;
        Ok(found
            .iter()
            .filter_map(|d| {
                Some((
                    document::id(d.get_object_id("_id").ok()?),
                    directory::read_targets(d),
                ))
            })
            .collect())
    }
}

fn of_platform(mut filter: Document, platform: Option<Platform>) -> Document {
    if let Some(platform) = platform {
        filter.insert("platform", platform.as_str());
    }
    filter
}

/// Matches messages for the bot whose target passed within the time, that were not delivered within
/// the target, and that have no breach yet.
fn late(q: ListOverdue, target: u32, after: Option<OverdueAfter>) -> Document {
    let ms = i64::from(target) * 1_000;
    let accepted = |passed: Timestamp| DateTime::from_millis(passed.millis() - ms);
    let took = doc! {"$subtract": ["$delivery.delivered_at", "$accepted_at"]};
    let mut all = vec![
        doc! {"accepted_at": {"$gt": accepted(q.from), "$lte": accepted(q.to)}},
        doc! {"$or": [{"delivery.state": {"$ne": "delivered"}}, {"$expr": {"$gt": [took, ms]}}]},
    ];
    if let Some(after) = after {
        let at = document::date(after.accepted_at);
        all.push(doc! {"accepted_at": {"$gte": at}, "$or": [{"accepted_at": {"$gt": at}}, {"_id": {"$gt": oid(after.message_id)}}]});
    }
    doc! {"role": Role::Operator.as_str(), "delivery.state": {"$exists": true}, "sla": {"$exists": false}, "$and": all}
}

/// The position before the first message of a target.
fn before(q: ListOverdue, target: u32) -> OverdueAfter {
    // The messages were accepted after this moment, so none is left out.
    let accepted_at = Timestamp::from_millis(q.from.millis() - i64::from(target) * 1_000);
    OverdueAfter {
        target_seconds: target,
        accepted_at,
        message_id: Id::from_bytes([0; 12]),
    }
}

fn overdue(d: &Document, target_seconds: u32) -> Option<Overdue> {
    Some(Overdue {
        company_id: document::id(d.get_object_id("company_id").ok()?),
        contact_id: document::id(d.get_object_id("contact_id").ok()?),
        message_id: document::id(d.get_object_id("_id").ok()?),
        platform: d.get_str("platform").ok()?.parse().ok()?,
        accepted_at: Timestamp::from_millis(d.get_datetime("accepted_at").ok()?.timestamp_millis()),
        target_seconds,
    })
}

fn row(d: &RawDocumentBuf) -> Option<Row> {
    let role: Role = d.get_str("role").ok()?.parse().ok()?;
    let direction: Direction = d.get_str("direction").ok()?.parse().ok()?;
    let millis =
        |d: &RawDocument, name: &str| d.get_datetime(name).ok().map(DateTime::timestamp_millis);
    let step = |delivery: &RawDocument| {
        Some(Step {
            state: delivery.get_str("state").ok()?.parse().ok()?,
            delivered_at: millis(delivery, "delivered_at"),
        })
    };
    Some(Row {
        seq: d.get_i64("seq").ok()?,
        contact: d.get_object_id("contact_id").ok()?,
        platform: d.get_str("platform").ok()?.parse().ok()?,
        kind: match (role, direction) {
            (Role::User, Direction::Inbound) => Kind::Asked,
            (Role::Operator, Direction::Outbound) => Kind::Answered,
            (Role::Assistant, Direction::Outbound) => Kind::AnsweredByBot,
            _ => Kind::Other,
        },
        accepted_at: millis(d, "accepted_at")?,
        delivery: d.get_document("delivery").ok().and_then(step),
        breached: d.get_document("sla").is_ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::Bson;

    #[test]
    fn a_page_that_had_no_time_for_a_target_is_followed_by_all_its_messages() {
        let (from, to) = (
            Timestamp::from_millis(1_760_000_000_000),
            Timestamp::from_millis(1_760_000_060_000),
        );
        let q = ListOverdue {
            from,
            to,
            limit: 1,
            after: None,
        };
        let after = before(q, 30);
        assert_eq!(after.target_seconds, 30);
        let filter = late(q, 30, Some(after));
        let accepted = |part: &Bson, bound: &str| {
            *part
                .as_document()
                .unwrap()
                .get_document("accepted_at")
                .unwrap()
                .get_datetime(bound)
                .unwrap()
        };
        let all = filter.get_array("$and").unwrap();
        assert_eq!(accepted(&all[2], "$gte"), accepted(&all[0], "$gt"));
    }
}
