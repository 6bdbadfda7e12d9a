//! Looks at one message, and at how its delivery went.

use contract::domain::MessageView;
use contract::query::{DeliveryHistory, GetDelivery, GetMessage};

use super::fields::MessageInPath;
use crate::api::extract::{Call, InPath, QueryString};
use crate::api::problem::Problem;
use crate::api::refusals::{Denied, Missing, Refused};
use crate::api::response::{Raw, named_answer};
use crate::routes::queries::OfCompany;

named_answer! {
    /// One message.
    pub struct OneMessage { "messageData": MessageView }
}

/// `GET /messages/{id}`
#[utoipa::path(
    get,
    path = "/{id}",
    tag = "messages",
    summary = "Look at a message",
    params(MessageInPath, OfCompany),
    responses((status = 200, body = OneMessage), Refused, Denied, Missing),
)]
pub async fn get(
    Call { log, caller, trace }: Call,
    id: InPath<MessageInPath>,
    query: QueryString<OfCompany>,
) -> Result<OneMessage, Problem> {
    let question = GetMessage {
        company_id: caller.company(query.read()?.company_id)?,
        id: id.read()?,
    };
    let message = log.ask_raw(&question, trace).await;
    message.map(OneMessage).map_err(Problem::missing("message"))
}

/// `GET /messages/{id}/delivery`: the state of the delivery, and every attempt.
#[utoipa::path(
    get,
    path = "/{id}/delivery",
    tag = "messages",
    summary = "How its delivery went, call by call",
    params(MessageInPath, OfCompany),
    responses((status = 200, body = DeliveryHistory), Refused, Denied, Missing),
)]
pub async fn delivery(
    Call { log, caller, trace }: Call,
    id: InPath<MessageInPath>,
    query: QueryString<OfCompany>,
) -> Result<Raw<DeliveryHistory>, Problem> {
    let question = GetDelivery {
        company_id: caller.company(query.read()?.company_id)?,
        id: id.read()?,
    };
    let history = log.ask_raw(&question, trace).await;
    history.map_err(Problem::missing("message"))
}
