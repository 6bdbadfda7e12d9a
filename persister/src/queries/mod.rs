//! Answers the contract's queries from MongoDB. Writes nothing.

mod audit;
mod contacts;
mod conversations;
mod directory;
mod integrations;
mod json;
mod messages;
mod page;
mod reader;
mod sla;

use std::sync::Arc;

use contract::Timestamp;
use contract::query::{
    AuditMessages, FindContacts, FindKeyOwners, GetCompany, GetContact, GetDelivery,
    GetIntegration, GetMessage, GetUser, ListContacts, ListConversations, ListExpiring,
    ListIntegrations, ListMessages, ListOverdue, ListRefreshable, ListResumable, ReportSla,
    UserByEmail, WalkMessages,
};
use runtime::service::{Service, ServiceError};

use crate::mongo::collections::Collections;
use crate::progress::Progress;
use reader::Reader;

/// Registers every query on the service.
///
/// # Errors
/// A subscription is refused.
pub async fn answer(
    service: &Service,
    collections: Collections,
    progress: Progress,
) -> Result<(), ServiceError> {
    let reader = Arc::new(Reader {
        collections,
        connection: service.connection.clone(),
        progress,
        clock: Timestamp::now,
    });
    macro_rules! answer {
        ($question:ty, $method:ident) => {{
            let reader = reader.clone();
            service
                .answers
                .query::<$question, _, _, _>(move |question| {
                    let reader = reader.clone();
                    async move { reader.$method(question).await }
                })
                .await?
        }};
    }
    answer!(GetMessage, message);
    answer!(ListMessages, messages);
    answer!(ListConversations, conversations);
    answer!(GetDelivery, delivery);
    answer!(FindKeyOwners, key_owners);
    answer!(GetContact, contact);
    answer!(FindContacts, known_contacts);
    answer!(ListContacts, contacts);
    answer!(ListResumable, resumable);
    answer!(GetIntegration, integration);
    answer!(ListIntegrations, integrations);
    answer!(ListExpiring, expiring);
    answer!(ListRefreshable, refreshable);
    answer!(GetUser, user);
    answer!(UserByEmail, user_by_email);
    answer!(GetCompany, company);
    answer!(ReportSla, sla_report);
    answer!(ListOverdue, overdue);
    answer!(AuditMessages, audit);
    answer!(WalkMessages, walk);
    Ok(())
}
