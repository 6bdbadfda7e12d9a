//! Messages, their delivery, and the owners of dedup keys.

use std::collections::HashMap;

use contract::Id;
use contract::domain::Platform;
use contract::query::{
    Cursor, DedupKey, FindKeyOwners, GetContact, GetDelivery, GetMessage, KeyOwner, ListMessages,
    MAX_ATTEMPTS, MAX_KEYS, UniqueKey,
};
use mongodb::bson::raw::RawDocument;
use mongodb::bson::{Document, doc};
use runtime::rpc::query::QueryError;
use serde::Serialize;

use super::json;
use super::page::{by_seq, cut, older_by_seq, one_more};
use super::reader::{Reader, belongs, is_visible, raw, visible};
use crate::mongo::document::{self, oid};
use crate::mongo::indexes::GIVEN_ID;

/// Writes a [`contract::query::MessagePage`].
#[derive(Serialize)]
pub struct Messages {
    messages: Vec<json::Message>,
    #[serde(rename = "totalMessages")]
    total_messages: u64,
    next_cursor: Option<Cursor>,
    as_of_seq: u64,
}

/// Writes a [`contract::query::DeliveryHistory`].
#[derive(Serialize)]
pub struct History {
    delivery: Option<json::Document>,
    attempts: Vec<json::Attempt>,
}

impl Reader {
    pub async fn message(&self, q: GetMessage) -> Result<json::Message, QueryError> {
        let is_it = |d: &RawDocument| belongs(d, q.company_id) && is_visible(d);
        self.find_or_catch_up(&raw(&self.collections.messages), oid(q.id), is_it)
            .await
            .map(json::Message)
    }

    pub async fn delivery(&self, q: GetDelivery) -> Result<History, QueryError> {
        let get = GetMessage {
            company_id: q.company_id,
            id: q.id,
        };
        let json::Message(message) = self.message(get).await?;
        let delivery = message
            .get_document("delivery")
            .ok()
            .map(|d| json::Document(d.to_owned()));
        // The newest attempts, in the order in which they were made.
        let filter = doc! {"message_id": oid(q.id), "company_id": oid(q.company_id)};
        let attempts = raw(&self.collections.attempts);
        let newest = attempts
            .find(filter)
            .sort(doc! {"_id": -1})
            .limit(MAX_ATTEMPTS);
        let found = self.all(newest).await?;
        Ok(History {
            delivery,
            attempts: found.into_iter().rev().map(json::Attempt).collect(),
        })
    }

    pub async fn messages(&self, q: ListMessages) -> Result<Messages, QueryError> {
        let page = self.message_page(&q).await?;
        let is_past_the_end =
            page.total_messages > 0 && (q.page.skip > 0 || q.page.after.is_some());
        if !page.messages.is_empty() || is_past_the_end {
            return Ok(page);
        }
        // Either the contact has no message yet, or there is no such contact. A first message may be
        // on its way, which shows as well that the contact is there.
        let contact = GetContact {
            company_id: q.company_id,
            id: q.contact_id,
        };
        match self.contact(contact).await {
            Ok(_) => Ok(page),
            Err(QueryError::NotFound) => {
                let page = self.message_page(&q).await?;
                match page.messages.is_empty() {
                    true => Err(QueryError::NotFound),
                    false => Ok(page),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn message_page(&self, q: &ListMessages) -> Result<Messages, QueryError> {
        // Before the messages are read, so that they are at least as new as this sequence says.
        let as_of_seq = self.progress.settled_to(&self.connection).await?;
        let mut filter =
            visible(doc! {"company_id": oid(q.company_id), "contact_id": oid(q.contact_id)});
        if let Some(platform) = q.platform {
            filter.insert("platform", platform.as_str());
        }
        if let Some(after) = q.page.after {
            filter.extend(older_by_seq(after));
        }
        let messages = raw(&self.collections.messages);
        let find = messages
            .find(filter)
            // Messages of the same time stand in the order of the log, as on sockets. Ids of two
            // gateways have no order.
            .sort(doc! {"created_at": -1, "seq": -1});
        let documents = self.all(find.skip(q.page.skip).limit(one_more(q.page)));
        let (mut found, total_messages) = tokio::try_join!(documents, self.total(q))?;
        let next_cursor = cut(&mut found, q.page, by_seq);
        Ok(Messages {
            messages: found.into_iter().map(json::Message).collect(),
            total_messages,
            next_cursor,
            as_of_seq,
        })
    }

    /// The number of messages, which the conversations' documents keep. So nothing is counted here.
    async fn total(&self, q: &ListMessages) -> Result<u64, QueryError> {
        let platforms = q
            .platform
            .as_ref()
            .map_or(Platform::ALL, std::slice::from_ref);
        let ids: Vec<String> = platforms
            .iter()
            .map(|p| format!("{}:{}:{p}", q.company_id, q.contact_id))
            .collect();
        let find = self
            .collections
            .conversations
            .find(doc! {"_id": {"$in": ids}})
            .projection(doc! {"total": 1});
        Ok(self
            .all(find)
            .await?
            .iter()
            .filter_map(|d| d.get_i64("total").ok())
            .sum::<i64>()
            .max(0) as u64)
    }

    /// The owners of dedup keys. Asks MongoDB once for each company and kind of key.
    pub async fn key_owners(&self, q: FindKeyOwners) -> Result<Vec<KeyOwner>, QueryError> {
        if q.keys.len() > MAX_KEYS {
            return Err(QueryError::Bad(format!("at most {MAX_KEYS} keys")));
        }
        type Keys<'a> = HashMap<(Option<Id>, &'a str), &'a UniqueKey>;
        let mut by_group: HashMap<(Id, Option<Platform>), Keys<'_>> = HashMap::new();
        for key in &q.keys {
            let (platform, text) = match &key.key {
                DedupKey::External {
                    contact_id,
                    platform,
                    id,
                } => (Some(*platform), (Some(*contact_id), id.as_str())),
                DedupKey::Request(text) => (None, (None, text.as_str())),
            };
            by_group
                .entry((key.company_id, platform))
                .or_default()
                .insert(text, key);
        }
        let mut owners = Vec::new();
        for ((company_id, platform), keys) in by_group {
            let wanted: Vec<&str> = keys.keys().map(|(_, text)| *text).collect();
            let wanted = doc! {"$in": wanted};
            let filter = match platform {
                Some(platform) => doc! {
                    "company_id": oid(company_id),
                    "platform": platform.as_str(),
                    "$or": [{"external_message_id": &wanted}, {GIVEN_ID: &wanted}],
                },
                None => doc! {"company_id": oid(company_id), "request": wanted},
            };
            let find = self.collections.messages.find(filter);
            let find = find.projection(doc! {
                "request": 1, "external_message_id": 1, GIVEN_ID: 1, "contact_id": 1, "seq": 1,
            });
            let found = self.all(find).await?;
            let owner = |d: &Document| {
                let contact = d.get_object_id("contact_id").ok().map(document::id);
                let within = contact.filter(|_| platform.is_some());
                let texts = match platform {
                    Some(_) => [
                        d.get_str("external_message_id").ok(),
                        d.get_document("delivery")
                            .and_then(|delivery| delivery.get_str("external_message_id"))
                            .ok(),
                    ],
                    None => [d.get_str("request").ok(), None],
                };
                let mut texts = texts.into_iter().flatten();
                let key = texts.find_map(|text| keys.get(&(within, text)))?;
                let key = (*key).clone();
                Some(KeyOwner {
                    key,
                    message_id: document::id(d.get_object_id("_id").ok()?),
                    seq: d.get_i64("seq").ok()? as u64,
                })
            };
            owners.extend(found.iter().filter_map(owner));
        }
        Ok(owners)
    }
}
