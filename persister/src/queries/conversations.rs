//! The list of conversations, each with its newest message and its contact's names.

use std::collections::HashMap;

use contract::Id;
use contract::query::{Cursor, ListConversations, Page};
use mongodb::bson::raw::{RawDocument, RawDocumentBuf};
use mongodb::bson::{Document, doc, oid::ObjectId};
use runtime::rpc::query::QueryError;
use serde::Serialize;

use super::json;
use super::page::{carried, cut, one_more};
use super::reader::{Reader, raw, visible};
use crate::mongo::document::{self, oid};

/// Writes a [`contract::query::ConversationPage`].
#[derive(Serialize)]
pub struct Conversations {
    contacts: Vec<Conversation>,
    next_cursor: Option<Cursor>,
    as_of_seq: u64,
}

/// Writes a [`contract::query::Conversation`].
#[derive(Serialize)]
struct Conversation {
    contact_id: Id,
    platform: String,
    #[serde(rename = "fullName")]
    full_name: Option<String>,
    #[serde(rename = "socialNetworkName")]
    social_network_name: Option<String>,
    #[serde(rename = "latestMessage")]
    latest_message: json::Message,
    unread: i64,
}

impl Reader {
    pub async fn conversations(&self, q: ListConversations) -> Result<Conversations, QueryError> {
        // Before the conversations are read, so that they are at least as new as this sequence says.
        let as_of_seq = self.progress.settled_to(&self.connection).await?;
        let below = q.page.after.map_or(i64::MAX, |after| after.key);
        let mut filter =
            doc! {"company_id": oid(q.company_id), "latest.seq": {"$gt": 0_i64, "$lt": below}};
        if let Some(platform) = q.platform {
            filter.insert("platform", platform.as_str());
        }
        let fields = doc! {"contact_id": 1, "platform": 1, "latest": 1, "unread": 1};
        let conversations = raw(&self.collections.conversations);
        let find = conversations
            .find(filter)
            .sort(doc! {"latest.seq": -1})
            .projection(fields);
        let mut found = self
            .all(find.skip(q.page.skip).limit(one_more(q.page)))
            .await?;
        let next_cursor = cut(&mut found, q.page, latest);
        let (mut newest, contacts) = tokio::try_join!(
            self.newest_messages(q.company_id, &found),
            self.names(q.company_id, &found)
        )?;
        // The newest messages are the long part of the answer, so they count for its size.
        let fits = carried(found.iter().filter_map(|d| newest.get(&latest_id(d)?)));
        let next_cursor = if fits < found.len() && fits < newest.len() {
            let page = Page {
                limit: fits as u32,
                ..q.page
            };
            cut(&mut found, page, latest)
        } else {
            next_cursor
        };
        let contacts = found
            .iter()
            .filter_map(|d| conversation(d, &mut newest, &contacts))
            .collect();
        Ok(Conversations {
            contacts,
            next_cursor,
            as_of_seq,
        })
    }

    async fn newest_messages(
        &self,
        company: Id,
        conversations: &[RawDocumentBuf],
    ) -> Result<HashMap<ObjectId, RawDocumentBuf>, QueryError> {
        let ids: Vec<ObjectId> = conversations.iter().filter_map(|d| latest_id(d)).collect();
        let messages = raw(&self.collections.messages);
        let find = messages.find(visible(
            doc! {"_id": {"$in": ids}, "company_id": oid(company)},
        ));
        Ok(self
            .all(find)
            .await?
            .into_iter()
            .filter_map(|d| Some((d.get_object_id("_id").ok()?, d)))
            .collect())
    }

    async fn names(
        &self,
        company: Id,
        conversations: &[RawDocumentBuf],
    ) -> Result<HashMap<ObjectId, Document>, QueryError> {
        let ids: Vec<ObjectId> = conversations
            .iter()
            .filter_map(|d| d.get_object_id("contact_id").ok())
            .collect();
        let find = self
            .collections
            .contacts
            .find(doc! {"_id": {"$in": ids}, "company_id": oid(company)})
            .projection(doc! {"fullName": 1, "socialNetworkName": 1});
        Ok(self
            .all(find)
            .await?
            .into_iter()
            .filter_map(|d| Some((d.get_object_id("_id").ok()?, d)))
            .collect())
    }
}

/// Where a page of conversations ends.
fn latest(conversation: &RawDocument) -> Option<Cursor> {
    let latest = conversation.get_document("latest").ok()?;
    Some(Cursor {
        key: latest.get_i64("seq").ok()?,
        id: document::id(conversation.get_object_id("contact_id").ok()?),
    })
}

fn latest_id(conversation: &RawDocument) -> Option<ObjectId> {
    conversation
        .get_document("latest")
        .ok()?
        .get_object_id("id")
        .ok()
}

fn conversation(
    found: &RawDocument,
    newest: &mut HashMap<ObjectId, RawDocumentBuf>,
    contacts: &HashMap<ObjectId, Document>,
) -> Option<Conversation> {
    let contact = found.get_object_id("contact_id").ok()?;
    let text = |name: &str| {
        contacts
            .get(&contact)?
            .get_str(name)
            .ok()
            .map(str::to_owned)
    };
    Some(Conversation {
        contact_id: document::id(contact),
        platform: found.get_str("platform").ok()?.to_owned(),
        full_name: text("fullName"),
        social_network_name: text("socialNetworkName"),
        latest_message: json::Message(newest.remove(&latest_id(found)?)?),
        unread: found.get_i64("unread").unwrap_or_default().max(0),
    })
}
