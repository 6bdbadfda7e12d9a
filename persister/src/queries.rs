//! Answers the contract's queries from MongoDB.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Document, doc, oid::ObjectId};
use mongodb::options::FindOneOptions;
use nats::Id;
use nats::domain::{Contact, MessageView, Platform, User};
use nats::query::{
    Conversation, ConversationPage, ExternalHolder, ExternalKey, FindExternal, GetContact, GetMessage, ListConversations, ListMessages,
    MAX_EXTERNAL, MAX_PAGE, MessagePage, UserByEmail,
};
use nats::runtime::connection::Connection;
use nats::runtime::query::QueryError;
use nats::runtime::service::{Service, ServiceError};
use nats::runtime::worker;
use tokio::time::Instant;

use crate::consume::SOURCE;
use crate::database::{DatabaseError, limited};
use crate::document::{self, BadDocument, oid};
use crate::view::View;

/// What misses waits for the view to catch up with the log, no longer than this; so a GET right after its POST finds.
const CATCH_UP: Duration = Duration::from_secs(3);
/// Between looks while catching up.
const LOOK_EVERY: Duration = Duration::from_millis(15);
/// Conversations' documents of one contact: one a platform.
const PLATFORMS: &[Platform] = Platform::ALL;

impl From<DatabaseError> for QueryError {
    fn from(error: DatabaseError) -> QueryError {
        QueryError::Unavailable(error.into_text())
    }
}

impl From<BadDocument> for QueryError {
    fn from(error: BadDocument) -> QueryError {
        QueryError::Bad(error.to_string())
    }
}

#[derive(Clone)]
struct Queries {
    view: View,
    connection: Connection,
}

/// Registers every query on the service.
///
/// # Errors
/// A subscription is refused.
pub async fn answer(service: &Service, view: &View) -> Result<(), ServiceError> {
    let queries = Queries { view: view.clone(), connection: service.connection.clone() };
    macro_rules! answer {
        ($question:ty, $method:ident) => {{
            let queries = queries.clone();
            service
                .answers
                .query::<$question, _, _>(move |question| {
                    let queries = queries.clone();
                    async move { queries.$method(question).await }
                })
                .await?
        }};
    }
    answer!(GetMessage, message);
    answer!(ListMessages, messages);
    answer!(ListConversations, conversations);
    answer!(FindExternal, external);
    answer!(GetContact, contact);
    answer!(UserByEmail, user);
    Ok(())
}

/// Documents that are whole and not deleted.
fn visible(mut filter: Document) -> Document {
    filter.insert("seq", doc! {"$exists": true});
    filter.insert("deleted_at", doc! {"$exists": false});
    filter
}

impl Queries {
    async fn message(&self, q: GetMessage) -> Result<MessageView, QueryError> {
        let filter = visible(doc! {"_id": oid(q.id), "company_id": oid(q.company_id)});
        Ok(document::read_message(&self.find_or_catch_up(&self.view.collections.messages, filter).await?)?)
    }

    async fn contact(&self, q: GetContact) -> Result<Contact, QueryError> {
        let filter = doc! {"_id": oid(q.id), "company_id": oid(q.company_id)};
        Ok(document::read_contact(&self.find_or_catch_up(&self.view.collections.contacts, filter).await?)?)
    }

    async fn user(&self, q: UserByEmail) -> Result<User, QueryError> {
        let found = self.find_one(&self.view.collections.users, doc! {"email": q.email.as_str()}, None).await?;
        Ok(document::read_user(&found.ok_or(QueryError::NotFound)?)?)
    }

    async fn messages(&self, q: ListMessages) -> Result<MessagePage, QueryError> {
        let mut filter = visible(doc! {"company_id": oid(q.company_id), "contact_id": oid(q.contact_id)});
        if let Some(platform) = q.platform {
            filter.insert("platform", platform.as_str());
        }
        let find = self.view.collections.messages.find(filter).sort(doc! {"created_at": -1, "_id": -1}).skip(q.skip).limit(page(q.limit));
        let documents = async { Ok(limited(async { Ok(find.await?.try_collect::<Vec<_>>().await?) }).await?) };
        let (documents, total_messages) = tokio::try_join!(documents, self.total(&q))?;
        let messages = documents.iter().map(document::read_message).collect::<Result<_, _>>()?;
        Ok(MessagePage { messages, total_messages })
    }

    /// Kept with the conversation, so that counting costs nothing.
    async fn total(&self, q: &ListMessages) -> Result<u64, QueryError> {
        let platforms = q.platform.as_ref().map_or(PLATFORMS, std::slice::from_ref);
        let ids: Vec<String> = platforms.iter().map(|p| format!("{}:{}:{p}", q.company_id, q.contact_id)).collect();
        let find = self.view.collections.conversations.find(doc! {"_id": {"$in": ids}}).projection(doc! {"total": 1});
        let found: Vec<Document> = limited(async { Ok(find.await?.try_collect().await?) }).await?;
        Ok(found.iter().filter_map(|d| d.get_i64("total").ok()).sum::<i64>().max(0) as u64)
    }

    async fn conversations(&self, q: ListConversations) -> Result<ConversationPage, QueryError> {
        let filter = doc! {"company_id": oid(q.company_id), "platform": q.platform.as_str(), "latest.seq": {"$gt": 0}};
        let fields = doc! {"contact_id": 1, "latest": 1, "unread": 1};
        let find = self
            .view
            .collections
            .conversations
            .find(filter)
            .sort(doc! {"latest.seq": -1})
            .skip(q.skip)
            .limit(page(q.limit))
            .projection(fields);
        let found: Vec<Document> = limited(async { Ok(find.await?.try_collect().await?) }).await?;
        let contact_ids: Vec<ObjectId> = found.iter().filter_map(|d| d.get_object_id("contact_id").ok()).collect();
        let sequences: Vec<i64> = found.iter().filter_map(|d| d.get_document("latest").ok()?.get_i64("seq").ok()).collect();
        let latest = visible(doc! {"contact_id": {"$in": &contact_ids}, "company_id": oid(q.company_id), "seq": {"$in": sequences}});
        let contacts = doc! {"_id": {"$in": &contact_ids}, "company_id": oid(q.company_id)};
        let names = doc! {"fullName": 1, "socialNetworkName": 1};
        let latest =
            async { limited(async { Ok(self.view.collections.messages.find(latest).await?.try_collect::<Vec<_>>().await?) }).await };
        let contacts = async {
            limited(async { Ok(self.view.collections.contacts.find(contacts).projection(names).await?.try_collect::<Vec<_>>().await?) })
                .await
        };
        let (latest, contacts) = tokio::try_join!(latest, contacts)?;
        let mut by_seq: HashMap<u64, MessageView> = HashMap::with_capacity(latest.len());
        for document in &latest {
            let message = document::read_message(document)?;
            by_seq.insert(message.seq.unwrap_or_default(), message);
        }
        let contacts: HashMap<ObjectId, &Document> = contacts.iter().filter_map(|d| Some((d.get_object_id("_id").ok()?, d))).collect();
        let lines = found.iter().filter_map(|d| line(d, &mut by_seq, &contacts)).collect();
        Ok(ConversationPage { contacts: lines })
    }

    async fn external(&self, q: FindExternal) -> Result<Vec<ExternalHolder>, QueryError> {
        if q.keys.len() > MAX_EXTERNAL {
            return Err(QueryError::Bad(format!("at most {MAX_EXTERNAL} keys")));
        }
        let mut by_group: HashMap<(Id, Platform), Vec<&str>> = HashMap::new();
        for key in &q.keys {
            by_group.entry((key.company_id, key.platform)).or_default().push(key.external_message_id.as_str());
        }
        let mut holders = Vec::new();
        for ((company_id, platform), ids) in by_group {
            let filter = doc! {"company_id": oid(company_id), "platform": platform.as_str(), "external_message_id": {"$in": ids}};
            let find = self.view.collections.messages.find(filter).projection(doc! {"external_message_id": 1});
            let found: Vec<Document> = limited(async { Ok(find.await?.try_collect().await?) }).await?;
            holders.extend(found.iter().filter_map(|d| {
                let external_message_id = nats::domain::ExternalId::new(d.get_str("external_message_id").ok()?).ok()?;
                let message_id = document::id(d.get_object_id("_id").ok()?);
                Some(ExternalHolder { key: ExternalKey { company_id, platform, external_message_id }, message_id })
            }));
        }
        Ok(holders)
    }

    async fn find_one(
        &self,
        collection: &Collection<Document>,
        filter: Document,
        options: Option<FindOneOptions>,
    ) -> Result<Option<Document>, QueryError> {
        Ok(limited(async { Ok(collection.find_one(filter).with_options(options).await?) }).await?)
    }

    /// Looks; and while the view is behind the log as it was at the first look, looks again, bounded.
    async fn find_or_catch_up(&self, collection: &Collection<Document>, filter: Document) -> Result<Document, QueryError> {
        if let Some(found) = self.find_one(collection, filter.clone(), None).await? {
            return Ok(found);
        }
        let until = Instant::now() + CATCH_UP;
        let mut target = None;
        loop {
            let lag = worker::lag(&self.connection, SOURCE).await.map_err(QueryError::Unavailable)?;
            // The stream's last sequence at the first look; everything up to it counts.
            let target = *target.get_or_insert(lag.delivered_to + lag.pending);
            let caught_up = lag.settled_to >= target || (lag.pending == 0 && lag.in_work == 0);
            if let Some(found) = self.find_one(collection, filter.clone(), None).await? {
                return Ok(found);
            }
            if caught_up {
                return Err(QueryError::NotFound);
            }
            if Instant::now() >= until {
                return Err(QueryError::Unavailable("the view is behind the log; try again".into()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn page(limit: u32) -> i64 {
    i64::from(limit.clamp(1, MAX_PAGE))
}

fn line(document: &Document, by_seq: &mut HashMap<u64, MessageView>, contacts: &HashMap<ObjectId, &Document>) -> Option<Conversation> {
    let contact = document.get_object_id("contact_id").ok()?;
    let seq = document.get_document("latest").ok()?.get_i64("seq").ok()?;
    let text = |name: &str| contacts.get(&contact)?.get_str(name).ok().map(str::to_owned);
    Some(Conversation {
        contact_id: document::id(contact),
        full_name: text("fullName"),
        social_network_name: text("socialNetworkName"),
        latest_message: by_seq.remove(&(seq as u64))?,
        unread: document.get_i64("unread").unwrap_or_default().max(0) as u64,
    })
}
