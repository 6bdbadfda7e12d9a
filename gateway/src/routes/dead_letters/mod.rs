//! `/dead-letters`: what could not be processed, for the managers of the company concerned. Decides
//! nothing about a dead letter: `runtime::dead_letters` does, as for the operator's command line.

pub mod access;
mod fields;

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use runtime::dead_letters::{DeadLetter, DeadLetterDetail, Mode, Replayed, Scope};
use serde::Serialize;
use utoipa::ToSchema;

use self::access::DeadLetterAccess;
use self::fields::{
    DiscardBody, DryRun, DryRunBody, ListQuery, ReplayBody, Sequence, SequenceInPath,
};
use super::queries::OfCompany;
use crate::api::extract::{InPath, JsonBody, MaybeJsonBody, QueryString};
use crate::api::problem::Problem;
use crate::api::refusals::{BadBody, Denied, Missing, Refused, Resolved};
use crate::api::response::json;
use crate::auth::Caller;

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
    description = "For managers. A request looks at a bounded number of letters: go on while there \
        is a `next_cursor`.",
    params(ListQuery),
    responses((status = 200, body = Listed), Refused, Denied),
)]
pub async fn list(
    State(access): State<Arc<DeadLetterAccess>>,
    caller: Caller,
    query: QueryString<ListQuery>,
) -> Result<Response, Problem> {
    caller.manager()?;
    let query = query.read()?;
    let scope = Scope::Company(caller.company(query.of.company_id)?);
    let limit = query.limit as usize;
    let (dead_letters, _permit) = access.acquire()?;
    let page = dead_letters
        .list(scope, &query.filter(), query.cursor, limit)
        .await?;
    let listed = Listed {
        dead_letters: page.dead_letters,
        limit,
        next_cursor: page.next_cursor,
    };
    Ok(json(StatusCode::OK, listed))
}

/// `GET /dead-letters/{seq}`: with headers and payload.
#[utoipa::path(
    get,
    path = "/{seq}",
    tag = "dead letters",
    summary = "Look at a dead letter, whole",
    description = "For managers. The payload of what concerns users and integrations is left out.",
    params(SequenceInPath, OfCompany),
    responses((status = 200, body = One), Refused, Denied, Missing),
)]
pub async fn show(
    State(access): State<Arc<DeadLetterAccess>>,
    caller: Caller,
    seq: InPath<SequenceInPath>,
    query: QueryString<OfCompany>,
) -> Result<Response, Problem> {
    caller.manager()?;
    let scope = Scope::Company(caller.company(query.read()?.company_id)?);
    let Sequence(seq) = seq.read()?;
    let (dead_letters, _permit) = access.acquire()?;
    let dead_letter = dead_letters.show(scope, seq).await?;
    Ok(json(StatusCode::OK, One { dead_letter }))
}

/// `POST /dead-letters/{seq}/replay`: once, however often it is asked for.
#[utoipa::path(
    post,
    path = "/{seq}/replay",
    tag = "dead letters",
    summary = "Replay a dead letter",
    description = "For managers. It is replayed once, however often this is asked; if it fails \
        again it is a new dead letter, whose `replay_of` is this one.",
    params(SequenceInPath, DryRun),
    request_body = Option<DryRunBody>,
    responses((status = 200, body = Done), Refused, Denied, BadBody, Missing, Resolved),
)]
pub async fn replay(
    State(access): State<Arc<DeadLetterAccess>>,
    caller: Caller,
    seq: InPath<SequenceInPath>,
    query: QueryString<DryRun>,
    MaybeJsonBody(body): MaybeJsonBody<DryRunBody>,
) -> Result<Response, Problem> {
    let scope = Scope::Company(caller.manager()?);
    let Sequence(seq) = seq.read()?;
    let (in_query, in_body) = (query.read()?.dry_run, body.read()?.dry_run);
    let is_dry_run = in_query || in_body.unwrap_or(false);
    let (dead_letters, _permit) = access.acquire()?;
    let done = match is_dry_run {
        true => Done {
            message: "This dead letter can be replayed",
            dead_letter: dead_letters.try_replay(scope, seq).await?,
        },
        false => Done {
            message: "Dead letter replayed",
            dead_letter: dead_letters.replay(scope, seq, &name(&caller)).await?,
        },
    };
    Ok(json(StatusCode::OK, done))
}

/// `POST /dead-letters/replay`: many, in the order of the log.
#[utoipa::path(
    post,
    path = "/replay",
    tag = "dead letters",
    summary = "Replay many dead letters",
    description = "For managers. Those of one request are replayed in the order of the log, so \
        conversations keep theirs. Go on while there is a `next_cursor`; name `to`, or letters of \
        what fails again meanwhile come after it.",
    params(DryRun),
    request_body = ReplayBody,
    responses((status = 200, body = ManyDone), Refused, Denied, BadBody),
)]
pub async fn replay_many(
    State(access): State<Arc<DeadLetterAccess>>,
    caller: Caller,
    query: QueryString<DryRun>,
    body: JsonBody<ReplayBody>,
) -> Result<Response, Problem> {
    caller.manager()?;
    let in_query = query.read()?.dry_run;
    let body = body.read()?;
    // Because a replay cannot be taken back, a dry run counts in either place.
    let dry_run = in_query || body.dry_run.unwrap_or(false);
    let scope = Scope::Company(caller.company(body.company_id)?);
    let mode = match dry_run {
        true => Mode::DryRun,
        false => Mode::Replay { by: name(&caller) },
    };
    let limit = body.limit as usize;
    let (dead_letters, _permit) = access.acquire()?;
    let replayed = dead_letters
        .replay_many(scope, &body.filter(), body.cursor, limit, &mode)
        .await?;
    let done = ManyDone {
        message: match dry_run {
            true => "These dead letters would be replayed",
            false => "Dead letters replayed",
        },
        dry_run,
        count: replayed.sequences.len(),
        replayed,
    };
    Ok(json(StatusCode::OK, done))
}

/// `POST /dead-letters/{seq}/discard`: the dead letter is not to be replayed.
#[utoipa::path(
    post,
    path = "/{seq}/discard",
    tag = "dead letters",
    summary = "Discard a dead letter",
    description = "For managers. It stays readable, and cannot be replayed any more. Asked again, \
        the first reason stays.",
    request_body = DiscardBody,
    params(SequenceInPath),
    responses((status = 200, body = Done), Refused, Denied, BadBody, Missing, Resolved),
)]
pub async fn discard(
    State(access): State<Arc<DeadLetterAccess>>,
    caller: Caller,
    seq: InPath<SequenceInPath>,
    body: JsonBody<DiscardBody>,
) -> Result<Response, Problem> {
    caller.manager()?;
    let Sequence(seq) = seq.read()?;
    let DiscardBody { company_id, reason } = body.read()?;
    let scope = Scope::Company(caller.company(company_id)?);
    let (dead_letters, _permit) = access.acquire()?;
    let dead_letter = dead_letters
        .discard(scope, seq, &name(&caller), reason.as_str())
        .await?;
    let done = Done {
        message: "Dead letter discarded",
        dead_letter,
    };
    Ok(json(StatusCode::OK, done))
}

/// The name of a caller in the record of a dead letter.
fn name(caller: &Caller) -> String {
    match caller {
        Caller::Staff { user, .. } => format!("user:{user}"),
        Caller::Service => "service".into(),
    }
}
