//! `/sla`: how well a company keeps its promises to customers, and what it promises. For managers.
//! Computes nothing: the report is the persister's.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use contract::Timestamp;
use contract::domain::{Platform, SlaTargets};
use contract::event::{CompanyUpdated, Event};
use contract::query::{GetCompany, MAX_REPORT_DAYS, ReportSla, SlaReport};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::command::{accepted, command};
use crate::api::declare::query;
use crate::api::extract::{Call, JsonBody, QueryString};
use crate::api::field::{Body, NonEmpty, whole_number};
use crate::api::field_error::FieldErrorKind;
use crate::api::field_reader::FieldReader;
use crate::api::problem::Problem;
use crate::api::refusals::{Accepted, BadBody, Denied, Missing, Refused};
use crate::api::response::{Raw, json};

/// The range of a report whose request names none: the time until now.
const DEFAULT_RANGE: Duration = Duration::from_secs(86_400);
/// The longest range of a report. A longer one is refused.
const LONGEST_RANGE: Duration = Duration::from_secs(MAX_REPORT_DAYS * 86_400);

query! {
    /// What a report is about. Of `from` and `to` one can be left out, or both.
    pub struct ReportQuery {
        /// Upper and lower case are the same.
        platform: NonEmpty<Platform>,
        /// Its first moment; else a day before `to`.
        from: Option<Timestamp>,
        /// The first moment after it; else a day after `from`, or now. At most 31 days after
        /// `from`.
        to: Option<Timestamp>,
    }
    check |reader| {
        if let (Some(Some(from)), Some(Some(to))) = (from, to) {
            if to < from {
                reader.wrong("to", "must not be before from");
            } else if to.since(from) > LONGEST_RANGE {
                let rule = format!("must be at most {MAX_REPORT_DAYS} days before to");
                reader.wrong("from", rule);
            }
        }
    }
}

impl ReportQuery {
    /// The range: the last day, or the day after `from` or before `to`.
    fn range(&self, now: Timestamp) -> (Timestamp, Timestamp) {
        let to = self.to.unwrap_or_else(|| match self.from {
            Some(from) => from.plus(DEFAULT_RANGE).min(now.max(from)),
            None => now,
        });
        let day = DEFAULT_RANGE.as_millis() as i64;
        let from = self.from;
        (
            from.unwrap_or(Timestamp::from_millis(to.millis() - day)),
            to,
        )
    }
}

/// The targets are the contract's, and so is their schema.
impl Body for SlaTargets {
    fn read(reader: &mut FieldReader<'_>) -> Option<SlaTargets> {
        let delivery_seconds = seconds(reader, "delivery_seconds");
        let first_response_seconds = seconds(reader, "first_response_seconds");
        Some(SlaTargets {
            delivery_seconds: delivery_seconds?,
            first_response_seconds: first_response_seconds?,
        })
    }
}

fn seconds(reader: &mut FieldReader<'_>, name: &str) -> Option<u32> {
    let read = match reader.value(name) {
        None | Some(Value::Null) => Err(FieldErrorKind::Missing),
        Some(value) => whole_number(value, 1, SlaTargets::LONGEST_SECONDS.into()),
    };
    reader.checked(name, read).map(|seconds| seconds as u32)
}

/// What a company promises.
#[derive(Serialize, ToSchema)]
#[schema(as = SlaTargetsShown)]
struct Shown {
    targets: SlaTargets,
}

/// Targets that are saved.
#[derive(Serialize, ToSchema)]
#[schema(as = SlaTargetsSaved)]
struct Saved {
    message: &'static str,
    targets: SlaTargets,
    seq: u64,
}

/// `GET /sla`
#[utoipa::path(
    get,
    path = "/",
    tag = "sla",
    summary = "How the company kept its promises",
    description = "For managers. Over what was accepted in a range of at most 31 days: how long it \
        took to be found by reads and to be taken by the bot, what was delivered within the target, \
        how soon operators answered; and what awaits delivery now. Deleted messages count.",
    params(ReportQuery),
    responses((status = 200, body = SlaReport), Refused, Denied),
)]
pub async fn report(
    Call { log, caller, trace }: Call,
    query: QueryString<ReportQuery>,
) -> Result<Raw<SlaReport>, Problem> {
    let company_id = caller.manager()?;
    let query = query.read()?;
    let (from, to) = query.range(Timestamp::now());
    let question = ReportSla {
        company_id,
        platform: query.platform,
        from,
        to,
    };
    Ok(log.ask_raw(&question, trace).await?)
}

/// `GET /sla/targets`
#[utoipa::path(
    get,
    path = "/targets",
    tag = "sla",
    summary = "What the company promises",
    description = "For managers.",
    responses((status = 200, body = Shown), Refused, Denied, Missing),
)]
pub async fn targets(Call { log, caller, trace }: Call) -> Result<Response, Problem> {
    let company_id = caller.manager()?;
    let company = log
        .ask(&GetCompany { company_id }, trace)
        .await
        .map_err(Problem::missing("company"))?;
    let targets = company.sla;
    Ok(json(StatusCode::OK, Shown { targets }))
}

/// `PUT /sla/targets`: the targets hold for what is accepted from now on.
#[utoipa::path(
    put,
    path = "/targets",
    tag = "sla",
    summary = "Promise something else",
    description = "For managers. The targets hold for what is accepted from now on.",
    request_body = SlaTargets,
    responses((status = 200, body = Saved), Refused, Denied, BadBody, Accepted),
)]
pub async fn set_targets(
    Call { log, caller, trace }: Call,
    body: JsonBody<SlaTargets>,
) -> Result<Response, Problem> {
    let company_id = caller.manager()?;
    let targets = body.read()?;
    let event = Event::CompanyUpdated(CompanyUpdated { sla: Some(targets) });
    let done = command(&log, &caller, company_id, event, trace).await?;
    if done.outcome.is_none() {
        return Ok(accepted(&done, "/api/v1/sla/targets"));
    }
    let saved = Saved {
        message: "Targets saved successfully",
        targets,
        seq: done.seq,
    };
    Ok(json(StatusCode::OK, saved))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::field::Query;
    use serde_json::json;

    fn range(query: &Value, now: Timestamp) -> Result<(String, String), Problem> {
        let mut reader = FieldReader::new(query.as_object().unwrap());
        let query = ReportQuery::read(&mut reader);
        let (from, to) = reader.finish(query)?.range(now);
        Ok((from.to_string(), to.to_string()))
    }

    #[test]
    fn a_report_is_about_the_last_day_unless_its_request_names_a_range() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        for (query, from, to) in [
            (json!({}), "21T12", "22T12"),
            (json!({"from": "2026-11-22T03:00:00Z"}), "22T03", "22T12"),
            (json!({"from": "2026-11-12T03:00:00Z"}), "12T03", "13T03"),
            (json!({"to": "2026-11-12T03:00:00Z"}), "11T03", "12T03"),
            (
                json!({"to": "2026-11-12T03:00:00Z", "from": ""}),
                "11T03",
                "12T03",
            ),
            (
                json!({"to": "1794452400", "platform": ""}),
                "11T03",
                "12T03",
            ),
        ] {
            let time = |hour: &str| format!("2026-11-{hour}:00:00.000Z");
            assert_eq!(range(&query, now), Ok((time(from), time(to))), "{query}");
        }
    }

    #[test]
    fn a_range_that_is_reversed_too_long_or_no_time_is_refused() {
        for bad in [
            json!({"from": "2026-11-22T03:00:00Z", "to": "2026-11-22T02:00:00Z"}),
            json!({"from": "2026-09-01T00:00:00Z", "to": "2026-11-01T00:00:00Z"}),
            json!({"to": "now"}),
            json!({"from": "2026"}),
        ] {
            let read = range(&bad, Timestamp::now());
            assert!(matches!(read, Err(Problem::Validation(_))), "{bad}");
        }
    }

    #[test]
    fn targets_are_whole_seconds_of_at_most_a_day() {
        let of = |body: Value| SlaTargets::from_object(body.as_object().unwrap());
        let good = SlaTargets {
            delivery_seconds: 1,
            first_response_seconds: 86_400,
        };
        assert_eq!(
            of(json!({"delivery_seconds": 1, "first_response_seconds": 86_400})),
            Ok(good)
        );
        for bad in [
            json!({}),
            json!({"delivery_seconds": 0, "first_response_seconds": 1}),
            json!({"delivery_seconds": 1, "first_response_seconds": 86_401}),
            json!({"delivery_seconds": 1.5, "first_response_seconds": 1}),
        ] {
            assert!(
                matches!(of(bad.clone()), Err(Problem::Validation(_))),
                "{bad}"
            );
        }
    }
}
