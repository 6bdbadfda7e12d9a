//! A company's conversations, latest first, with what is unread: `GET /conversations`, and
//! `POST /messages/instagram` as the Express backend had it. Messages themselves are in `messages`.

use contract::Id;
use contract::domain::Platform;
use contract::query::{ConversationPage, ListConversations, Page};

use super::queries::{OfCompany, OnPlatform};
use crate::api::declare::{body, query};
use crate::api::extract::{Call, JsonBody, QueryString};
use crate::api::field::FlattenQuery;
use crate::api::page::{After, Limit, PageQuery, Skip, page, page_answer};
use crate::api::problem::Problem;
use crate::api::refusals::{BadBody, Denied, Refused};

query! {
    /// Which conversations to list.
    pub struct ListQuery {
        on: FlattenQuery<OnPlatform>,
        page: FlattenQuery<PageQuery>,
        of: FlattenQuery<OfCompany>,
    }
}

body! {
    /// Which conversations to list; the old backend's way, the same as `GET /conversations`.
    pub struct ConversationsBody {
        company_id: Option<Id>,
        /// `instagram` where it is not given.
        platform: Option<Platform>,
        limit: Limit,
        skip: Skip,
        /// `next_cursor` of the page before; empty for the first page.
        cursor: After,
    }
    example { "limit": 20, "skip": 0 }
}

page_answer! {
    /// A page of conversations.
    pub struct ConversationList: ConversationPage
}

/// `GET /conversations`: of every platform, unless one is named.
#[utoipa::path(
    get,
    path = "/",
    tag = "conversations",
    summary = "List conversations, latest first",
    params(ListQuery),
    responses((status = 200, body = ConversationList), Refused, Denied),
)]
pub async fn list(call: Call, query: QueryString<ListQuery>) -> Result<ConversationList, Problem> {
    let ListQuery { on, page, of } = query.read()?;
    answer(call, of.company_id, on.platform, page.into()).await
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
pub async fn instagram(
    call: Call,
    body: JsonBody<ConversationsBody>,
) -> Result<ConversationList, Problem> {
    let body = body.read()?;
    let platform = body.platform.unwrap_or(Platform::Instagram);
    let page = page(body.limit, body.skip, body.cursor);
    answer(call, body.company_id, Some(platform), page).await
}

async fn answer(
    Call { log, caller, trace }: Call,
    company: Option<Id>,
    platform: Option<Platform>,
    page: Page,
) -> Result<ConversationList, Problem> {
    let question = ListConversations {
        company_id: caller.company(company)?,
        platform,
        page,
    };
    let answer = log.ask_raw(&question, trace).await?;
    Ok(ConversationList { answer, page })
}
