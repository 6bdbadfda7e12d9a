//! `/sla`: how the company keeps its promises, and what it promises. For managers.

use axum::http::StatusCode;
use axum::response::Response;
use contract::Timestamp;
use contract::domain::SlaTargets;
use contract::event::{CompanyUpdated, Event};
use contract::query::{GetCompany, MAX_REPORT_DAYS, ReportSla, SlaReport};
use serde::Serialize;
use serde_json::{Map, Value};
use std::time::Duration;
use utoipa::ToSchema;

use super::command::{accepted, command};
use crate::api::extract::{Call, JsonObject};
use crate::api::field_reader::{Fields, QueryFields, platform_name};
use crate::api::problem::Problem;
use crate::api::response::{json, raw_json};
use crate::schema::{BadBody, Denied, InRange, Later, Missing, OnPlatform, Refused};

/// What a report without a range is about: the time until now.
const DEFAULT_RANGE: Duration = Duration::from_secs(86_400);
/// Longest range.
const LONGEST_RANGE: Duration = Duration::from_secs(MAX_REPORT_DAYS * 86_400);

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
    description = "For managers. Over what was accepted in a range of at most 31 days: how long it took to be found by reads and to be \
        taken by the bot, what was delivered within the target, how soon operators answered; and what awaits delivery now. Deleted \
        messages count.",
    params(OnPlatform, InRange),
    responses((status = 200, body = SlaReport), Refused, Denied),
)]
pub async fn report(
    Call { log, caller, trace }: Call,
    QueryFields(query): QueryFields,
) -> Result<Response, Problem> {
    let company_id = caller.manager()?;
    let (from, to, mut f) = range(&query, Timestamp::now());
    let platform = f.non_empty("platform", platform_name);
    f.finish()?;
    let report = log
        .ask_raw(
            &ReportSla {
                company_id,
                platform,
                from,
                to,
            },
            trace,
        )
        .await?;
    Ok(raw_json(StatusCode::OK, "", &report, ""))
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
    Ok(json(
        StatusCode::OK,
        Shown {
            targets: company.sla,
        },
    ))
}

/// `PUT /sla/targets`: they hold for what is accepted from now on.
#[utoipa::path(
    put,
    path = "/targets",
    tag = "sla",
    summary = "Promise something else",
    description = "For managers. The targets hold for what is accepted from now on.",
    request_body = SlaTargets,
    responses((status = 200, body = Saved), Refused, Denied, BadBody, Later),
)]
pub async fn set_targets(
    Call { log, caller, trace }: Call,
    JsonObject(body): JsonObject,
) -> Result<Response, Problem> {
    let company_id = caller.manager()?;
    let targets = read_targets(&body)?;
    let event = Event::CompanyUpdated(CompanyUpdated { sla: Some(targets) });
    let settled = command(&log, &caller, company_id, event, trace).await?;
    match settled.outcome {
        None => Ok(accepted(&settled, "/api/v1/sla/targets")),
        Some(_) => Ok(json(
            StatusCode::OK,
            Saved {
                message: "Targets saved successfully",
                targets,
                seq: settled.seq,
            },
        )),
    }
}

fn read_targets(body: &Map<String, Value>) -> Result<SlaTargets, Problem> {
    let mut f = Fields::of(body);
    let mut seconds = |field: &str| {
        if !f.has(field) {
            f.wrong(field, "is required");
        }
        f.number(field, 0, 1..=SlaTargets::LONGEST_SECONDS.into()) as u32
    };
    let targets = SlaTargets {
        delivery_seconds: seconds("delivery_seconds"),
        first_response_seconds: seconds("first_response_seconds"),
    };
    f.finish().map(|()| targets)
}

/// The range of a query string: the last day, or the day after `from` or before `to`. What is wrong
/// is noted.
fn range(query: &Map<String, Value>, now: Timestamp) -> (Timestamp, Timestamp, Fields<'_>) {
    let mut f = Fields::of(query);
    let from = f.optional("from", str::parse::<Timestamp>);
    let to = f.optional("to", str::parse::<Timestamp>);
    let day = DEFAULT_RANGE.as_millis() as i64;
    let to =
        to.unwrap_or_else(|| from.map_or(now, |from| from.plus(DEFAULT_RANGE).min(now.max(from))));
    let from = from.unwrap_or_else(|| Timestamp::from_millis(to.millis() - day));
    if to < from {
        f.wrong("to", "must not be before from");
    } else if to.since(from) > LONGEST_RANGE {
        f.wrong(
            "from",
            format!("must be at most {MAX_REPORT_DAYS} days before to"),
        );
    }
    (from, to, f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_range_is_the_last_day_unless_it_says_otherwise() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let of = |query: Value| {
            let query = object(query);
            let (from, to, f) = range(&query, now);
            f.finish().map(|()| (from.to_string(), to.to_string()))
        };
        let day = |from: &str, to: &str| {
            Ok((
                format!("2026-11-{from}:00:00.000Z"),
                format!("2026-11-{to}:00:00.000Z"),
            ))
        };
        assert_eq!(of(json!({})), day("21T12", "22T12"));
        assert_eq!(
            of(json!({"from": "2026-11-22T03:00:00Z"})),
            day("22T03", "22T12")
        );
        assert_eq!(
            of(json!({"from": "2026-11-12T03:00:00Z"})),
            day("12T03", "13T03")
        );
        assert_eq!(
            of(json!({"to": "2026-11-12T03:00:00Z"})),
            day("11T03", "12T03")
        );
        for bad in [
            json!({"from": "2026-11-22T03:00:00Z", "to": "2026-11-22T02:00:00Z"}),
            json!({"from": "2026-09-01T00:00:00Z", "to": "2026-11-01T00:00:00Z"}),
            json!({"to": "now"}),
            json!({"from": ""}),
        ] {
            assert!(
                matches!(of(bad.clone()), Err(Problem::Validation(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn targets_are_seconds_of_a_day() {
        let of = |body: Value| read_targets(&object(body));
        let good = of(json!({"delivery_seconds": 1, "first_response_seconds": 86_400}));
        assert_eq!(
            good,
            Ok(SlaTargets {
                delivery_seconds: 1,
                first_response_seconds: 86_400
            })
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
