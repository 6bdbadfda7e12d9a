//! Lists the messages of a conversation, newest first.

use contract::Id;
use contract::domain::Platform;
use contract::query::{ListMessages, MessagePage, Page};

use crate::api::declare::query;
use crate::api::extract::{Call, QueryString};
use crate::api::field::FlattenQuery;
use crate::api::page::{PageQuery, page_answer};
use crate::api::problem::Problem;
use crate::api::refusals::{Denied, Missing, Refused};
use crate::routes::queries::{OfCompany, OnPlatform};

query! {
    /// Which messages to list.
    pub struct ListQuery {
        /// The customer.
        contact_id: Id,
        on: FlattenQuery<OnPlatform>,
        page: FlattenQuery<PageQuery>,
        of: FlattenQuery<OfCompany>,
    }
}

page_answer! {
    /// A page of messages.
    pub struct MessageList: MessagePage
}

/// `GET /messages?contact_id=`
#[utoipa::path(
    get,
    path = "/",
    tag = "messages",
    summary = "List a conversation, newest first",
    params(ListQuery),
    responses((status = 200, body = MessageList), Refused, Denied, Missing),
)]
pub async fn list(call: Call, query: QueryString<ListQuery>) -> Result<MessageList, Problem> {
    let ListQuery {
        contact_id,
        on,
        page,
        of,
    } = query.read()?;
    let company = call.caller.company(of.company_id)?;
    list_messages(&call, company, contact_id, on.platform, page.into()).await
}

/// Asks the persister for a page of a conversation.
pub async fn list_messages(
    Call { log, trace, .. }: &Call,
    company_id: Id,
    contact_id: Id,
    platform: Option<Platform>,
    page: Page,
) -> Result<MessageList, Problem> {
    let question = ListMessages {
        company_id,
        contact_id,
        platform,
        page,
    };
    let answer = log
        .ask_raw(&question, *trace)
        .await
        .map_err(Problem::missing("contact"))?;
    Ok(MessageList { answer, page })
}
