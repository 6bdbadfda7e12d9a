//! A company's conversations, latest first, with what is unread: `GET /conversations`, and `POST
//! /messages/instagram` as the old backend had it.

use axum::response::Response;
use contract::Id;
use contract::domain::Platform;
use contract::query::ListConversations;
use serde_json::{Map, Value};

use crate::api::extract::{Call, JsonObject};
use crate::api::field_reader::{Fields, QueryFields, platform_name};
use crate::api::page::{page, with_page};
use crate::api::problem::Problem;
use crate::schema::{
    After, BadBody, ConversationList, ConversationsBody, Denied, OfCompany, OnPlatform, PageOf,
    Refused,
};

/// `GET /conversations`: of every platform, unless one is named.
#[utoipa::path(
    get,
    path = "/",
    tag = "conversations",
    summary = "List conversations, latest first",
    params(OnPlatform, PageOf, After, OfCompany),
    responses((status = 200, body = ConversationList), Refused, Denied),
)]
pub async fn list(call: Call, QueryFields(query): QueryFields) -> Result<Response, Problem> {
    answer(call, &query, None).await
}

/// `POST /messages/instagram`: of Instagram, unless another platform is named.
#[utoipa::path(
    post,
    path = "/instagram",
    tag = "conversations",
    summary = "List conversations, the old backend's way",
    description = "Of instagram, unless another platform is named.",
    request_body = ConversationsBody,
    responses((status = 200, body = ConversationList), Refused, Denied, BadBody),
)]
pub async fn instagram(call: Call, JsonObject(body): JsonObject) -> Result<Response, Problem> {
    answer(call, &body, Some(Platform::Instagram)).await
}

async fn answer(
    Call { log, caller, trace }: Call,
    given: &Map<String, Value>,
    default: Option<Platform>,
) -> Result<Response, Problem> {
    let mut f = Fields::of(given);
    let company = f.optional("company_id", str::parse::<Id>);
    let platform = f.optional("platform", platform_name).or(default);
    let page = page(&mut f);
    f.finish()?;
    let question = ListConversations {
        company_id: caller.company(company)?,
        platform,
        page,
    };
    let answer = log.ask_raw(&question, trace).await?;
    Ok(with_page(&answer, page))
}
