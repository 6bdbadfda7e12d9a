//! `/dead-letters`: what could not be processed, for the managers of the company that it belongs
//! to. What is done with a letter is done by `runtime::dead_letters`, as the operator's
//! command line does it too.

pub mod access;

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use contract::Id;
use contract::domain::ShortText;
use runtime::dead_letters::{
    DeadLetter, DeadLetterDetail, Filter, MAX_DEAD_LETTERS, MAX_REPLAYS, Mode, Replayed, Scope,
};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use self::access::DeadLetterAccess;
use crate::api::extract::{JsonObject, MaybeJson, company_in};
use crate::api::field_reader::{Fields, QueryFields};
use crate::api::problem::Problem;
use crate::api::response::json;
use crate::auth::Caller;
use crate::schema::{
    BadBody, Denied, DiscardBody, DryRun, DryRunBody, Missing, OfCompany, OfLetters, Refused,
    ReplayBody, Settled,
};

/// Entries of a page, unless the request says.
const DEFAULT_LETTERS: u64 = 50;
/// Largest sequence: larger whole numbers are not exact in every JSON reader.
const MAX_SEQ: u64 = 9_007_199_254_740_991;

/// A page.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterList)]
struct Listed {
    dead_letters: Vec<DeadLetter>,
    limit: usize,
    /// Where to go on; it can be there although the page is not full.
    next_cursor: Option<u64>,
}

/// One letter.
#[derive(Serialize, ToSchema)]
#[schema(as = OneDeadLetter)]
struct One {
    dead_letter: DeadLetterDetail,
}

/// A letter of which something has become.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterSettled)]
struct Done {
    message: &'static str,
    dead_letter: DeadLetter,
}

/// Many of them.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLettersReplayed)]
struct ManyDone {
    message: &'static str,
    dry_run: bool,
    /// How many of this request are replayed, or would be.
    count: usize,
    #[serde(flatten)]
    replayed: Replayed,
}

/// `GET /dead-letters`: oldest first.
#[utoipa::path(
    get,
    path = "/",
    tag = "dead letters",
    summary = "List the dead letters, oldest first",
    description = "For managers. A request looks at a bounded number of letters: go on while there is a `next_cursor`.",
    params(OfLetters, OfCompany),
    responses((status = 200, body = Listed), Refused, Denied),
)]
pub async fn list(
    State(letters): State<Arc<DeadLetterAccess>>,
    caller: Caller,
    QueryFields(query): QueryFields,
) -> Result<Response, Problem> {
    caller.manager()?;
    let mut f = Fields::of(&query);
    let mut filter = filter(&mut f);
    filter.state = f.optional("state", str::parse).unwrap_or_default();
    let limit = f.number("limit", DEFAULT_LETTERS, 1..=MAX_DEAD_LETTERS as u64) as usize;
    let (scope, cursor) = scope_and_cursor(f, &caller)?;
    let (letters, _turn) = letters.turn()?;
    let page = letters.list(scope, &filter, cursor, limit).await?;
    Ok(json(
        StatusCode::OK,
        Listed {
            dead_letters: page.dead_letters,
            limit,
            next_cursor: page.next_cursor,
        },
    ))
}

/// `GET /dead-letters/{seq}`: with headers and payload.
#[utoipa::path(
    get,
    path = "/{seq}",
    tag = "dead letters",
    summary = "Look at a dead letter, whole",
    description = "For managers. The payload of what concerns users and integrations is left out.",
    params(("seq" = u64, Path, minimum = 1, maximum = 9_007_199_254_740_991_u64, description = "Its sequence."), OfCompany),
    responses((status = 200, body = One), Refused, Denied, Missing),
)]
pub async fn show(
    State(letters): State<Arc<DeadLetterAccess>>,
    caller: Caller,
    Path(seq): Path<String>,
    QueryFields(query): QueryFields,
) -> Result<Response, Problem> {
    caller.manager()?;
    let scope = Scope::Company(company_in(&query, &caller)?);
    let seq = sequence(&seq)?;
    let (letters, _turn) = letters.turn()?;
    Ok(json(
        StatusCode::OK,
        One {
            dead_letter: letters.show(scope, seq).await?,
        },
    ))
}

/// `POST /dead-letters/{seq}/replay`: once, however often it is asked.
#[utoipa::path(
    post,
    path = "/{seq}/replay",
    tag = "dead letters",
    summary = "Replay a dead letter",
    description = "For managers. It is replayed once, however often this is asked; if it fails again it is a new dead letter, whose `replay_of` is this one.",
    params(("seq" = u64, Path, minimum = 1, maximum = 9_007_199_254_740_991_u64, description = "Its sequence."), DryRun),
    request_body = Option<DryRunBody>,
    responses((status = 200, body = Done), Refused, Denied, BadBody, Missing, Settled),
)]
pub async fn replay(
    State(letters): State<Arc<DeadLetterAccess>>,
    caller: Caller,
    Path(seq): Path<String>,
    QueryFields(query): QueryFields,
    MaybeJson(body): MaybeJson,
) -> Result<Response, Problem> {
    let scope = Scope::Company(caller.manager()?);
    let seq = sequence(&seq)?;
    let dry_run = dry_run(&query, &body)?;
    let (letters, _turn) = letters.turn()?;
    let (message, dead_letter) = match dry_run {
        true => (
            "This dead letter can be replayed",
            letters.try_replay(scope, seq).await?,
        ),
        false => (
            "Dead letter replayed",
            letters.replay(scope, seq, &name(&caller)).await?,
        ),
    };
    Ok(json(
        StatusCode::OK,
        Done {
            message,
            dead_letter,
        },
    ))
}

/// `POST /dead-letters/replay`: many, in the order of the log.
#[utoipa::path(
    post,
    path = "/replay",
    tag = "dead letters",
    summary = "Replay many dead letters",
    description = "For managers. Those of one request are replayed in the order of the log, so conversations keep theirs. Go on while there is a `next_cursor`; name `to`, or letters of what fails again meanwhile come after it.",
    params(DryRun),
    request_body = ReplayBody,
    responses((status = 200, body = ManyDone), Refused, Denied, BadBody),
)]
pub async fn replay_many(
    State(letters): State<Arc<DeadLetterAccess>>,
    caller: Caller,
    QueryFields(query): QueryFields,
    JsonObject(body): JsonObject,
) -> Result<Response, Problem> {
    caller.manager()?;
    let dry_run = dry_run(&query, &body)?;
    let mut f = Fields::of(&body);
    let filter = filter(&mut f);
    let limit = f.number("limit", MAX_REPLAYS as u64, 1..=MAX_REPLAYS as u64) as usize;
    let (scope, cursor) = scope_and_cursor(f, &caller)?;
    let (letters, _turn) = letters.turn()?;
    let mode = match dry_run {
        true => Mode::DryRun,
        false => Mode::Replay { by: name(&caller) },
    };
    let replayed = letters
        .replay_many(scope, &filter, cursor, limit, &mode)
        .await?;
    let message = if dry_run {
        "These dead letters would be replayed"
    } else {
        "Dead letters replayed"
    };
    Ok(json(
        StatusCode::OK,
        ManyDone {
            message,
            dry_run,
            count: replayed.sequences.len(),
            replayed,
        },
    ))
}

/// `POST /dead-letters/{seq}/discard`: it is not to be replayed.
#[utoipa::path(
    post,
    path = "/{seq}/discard",
    tag = "dead letters",
    summary = "Discard a dead letter",
    description = "For managers. It stays readable, and cannot be replayed any more. Asked again, the first reason stays.",
    request_body = DiscardBody,
    params(("seq" = u64, Path, minimum = 1, maximum = 9_007_199_254_740_991_u64, description = "Its sequence.")),
    responses((status = 200, body = Done), Refused, Denied, BadBody, Missing, Settled),
)]
pub async fn discard(
    State(letters): State<Arc<DeadLetterAccess>>,
    caller: Caller,
    Path(seq): Path<String>,
    JsonObject(body): JsonObject,
) -> Result<Response, Problem> {
    caller.manager()?;
    let seq = sequence(&seq)?;
    let mut f = Fields::of(&body);
    let named = f.optional("company_id", str::parse::<Id>);
    let reason = f.required("reason", ShortText::new);
    f.finish()?;
    let scope = Scope::Company(caller.company(named)?);
    let reason = reason.ok_or(Problem::Internal)?; // finish() has refused its absence
    let (letters, _turn) = letters.turn()?;
    let dead_letter = letters
        .discard(scope, seq, &name(&caller), reason.as_str())
        .await?;
    Ok(json(
        StatusCode::OK,
        Done {
            message: "Dead letter discarded",
            dead_letter,
        },
    ))
}

/// Whether only to say what would be done: heeded in the query string and in the body, for what is
/// replayed cannot be taken back.
fn dry_run(query: &Map<String, Value>, body: &Map<String, Value>) -> Result<bool, Problem> {
    let (mut q, mut b) = (Fields::of(query), Fields::of(body));
    let (in_query, in_body) = (q.optional("dry_run", str::parse::<bool>), b.flag("dry_run"));
    q.finish()?;
    b.finish()?;
    Ok(in_query.unwrap_or(false) || in_body.unwrap_or(false))
}

/// What both a list and a replay of many can be told, the state aside.
fn filter(f: &mut Fields<'_>) -> Filter {
    Filter {
        reason: f.optional("reason", str::parse),
        service: f.optional("service", str::parse),
        contact: f.optional("contact_id", str::parse),
        from: f.optional("from", str::parse),
        to: f.optional("to", str::parse),
        ..Filter::default()
    }
}

fn scope_and_cursor(mut f: Fields<'_>, caller: &Caller) -> Result<(Scope, u64), Problem> {
    let cursor = f.number("cursor", 0, 0..=MAX_SEQ);
    let named = f.optional("company_id", str::parse::<Id>);
    f.finish()?;
    Ok((Scope::Company(caller.company(named)?), cursor))
}

/// A sequence in a path.
fn sequence(text: &str) -> Result<u64, Problem> {
    let path: Map<String, Value> = [("seq".to_owned(), text.into())].into_iter().collect();
    let mut f = Fields::of(&path);
    let seq = f.number("seq", 0, 1..=MAX_SEQ);
    f.finish().map(|()| seq)
}

/// For the record.
fn name(caller: &Caller) -> String {
    match caller {
        Caller::Staff { user, .. } => format!("user:{user}"),
        Caller::Service => "service".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_a_whole_number() {
        assert_eq!(sequence("7"), Ok(7));
        for bad in [
            "",
            "0",
            "-1",
            "1.5",
            "x",
            "9007199254740992",
            "18446744073709551616",
        ] {
            assert!(
                matches!(sequence(bad), Err(Problem::Validation(_))),
                "{bad}"
            );
        }
    }
}
