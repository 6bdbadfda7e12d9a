//! Answers the contract's queries from MongoDB.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::action::Find;
use mongodb::bson::{DateTime, Document, doc, oid::ObjectId};
use mongodb::options::FindOneOptions;
use nats::Id;
use nats::domain::{Contact, Integration, MessageView, Platform, User};
use nats::query::{
    ContactPage, Conversation, ConversationPage, Cursor, DeliveryHistory, FindHolders, GetContact, GetDelivery, GetIntegration, GetMessage,
    GetUser, Holder, KeyOf, ListContacts, ListConversations, ListIntegrations, ListMessages, MAX_ATTEMPTS, MAX_KEYS, MAX_PAGE, MessagePage,
    Page, UniqueKey, UserByEmail,
};
use nats::runtime::connection::Connection;
use nats::runtime::query::QueryError;
use nats::runtime::service::{Service, ServiceError};
use nats::runtime::worker;
use tokio::time::Instant;

use crate::consume::SOURCE;
use crate::contact;
use crate::database::{DatabaseError, limited};
use crate::document::{self, BadDocument, oid};
use crate::view::{View, integration_id};

/// What misses waits for the view to catch up with the log, no longer than this; so a GET right after its POST finds.
const CATCH_UP: Duration = Duration::from_secs(3);
/// Between looks while catching up.
const LOOK_EVERY: Duration = Duration::from_millis(15);
/// Conversations' documents of one contact: one a platform.
const PLATFORMS: &[Platform] = Platform::ALL;
/// Words of a search that count.
const MAX_SEARCH_WORDS: usize = 8;

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
    answer!(GetDelivery, delivery);
    answer!(FindHolders, holders);
    answer!(GetContact, contact);
    answer!(ListContacts, contacts);
    answer!(GetIntegration, integration);
    answer!(ListIntegrations, integrations);
    answer!(GetUser, user);
    answer!(UserByEmail, user_by_email);
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

    async fn user(&self, q: GetUser) -> Result<User, QueryError> {
        let filter = doc! {"_id": oid(q.id), "company_id": oid(q.company_id)};
        Ok(document::read_user(&self.find_or_catch_up(&self.view.collections.users, filter).await?)?)
    }

    async fn integration(&self, q: GetIntegration) -> Result<Integration, QueryError> {
        let filter = doc! {"_id": integration_id(q.company_id, q.platform), "deleted_at": {"$exists": false}};
        Ok(document::read_integration(&self.find_or_catch_up(&self.view.collections.integrations, filter).await?)?)
    }

    async fn integrations(&self, q: ListIntegrations) -> Result<Vec<Integration>, QueryError> {
        let ids: Vec<String> = PLATFORMS.iter().map(|platform| integration_id(q.company_id, *platform)).collect();
        let find =
            self.view.collections.integrations.find(doc! {"_id": {"$in": ids}, "deleted_at": {"$exists": false}}).sort(doc! {"_id": 1});
        let found = self.all(find).await?;
        Ok(found.iter().map(document::read_integration).collect::<Result<_, _>>()?)
    }

    async fn delivery(&self, q: GetDelivery) -> Result<DeliveryHistory, QueryError> {
        let delivery = self.message(GetMessage { company_id: q.company_id, id: q.id }).await?.delivery;
        // The newest, and of those the oldest first.
        let filter = doc! {"message_id": oid(q.id), "company_id": oid(q.company_id)};
        let mut found = self.all(self.view.collections.attempts.find(filter).sort(doc! {"_id": -1}).limit(MAX_ATTEMPTS)).await?;
        found.reverse();
        Ok(DeliveryHistory { delivery, attempts: found.iter().map(document::read_attempt).collect::<Result<_, _>>()? })
    }

    async fn contacts(&self, q: ListContacts) -> Result<ContactPage, QueryError> {
        let mut filter = doc! {"company_id": oid(q.company_id), "seq": {"$exists": true}};
        let words = q.search.as_deref().map(contact::words).unwrap_or_default();
        if q.search.is_some() && words.is_empty() {
            return Ok(ContactPage { contacts: Vec::new(), next_cursor: None });
        }
        // A word has letters and digits only, so it is no pattern.
        let begins = |word: &String| doc! {"search": {"$regex": format!("^{word}")}};
        let mut all: Vec<Document> = words.iter().take(MAX_SEARCH_WORDS).map(begins).collect();
        all.extend(q.page.after.map(|after| older(after, DateTime::from_millis(after.key))));
        if !all.is_empty() {
            filter.insert("$and", all);
        }
        let find = self.view.collections.contacts.find(filter).sort(doc! {"created_at": -1, "_id": -1});
        let mut found = self.all(find.skip(q.page.skip).limit(one_more(q.page))).await?;
        let next_cursor = next(&mut found, q.page, |d| d.get_datetime("created_at").ok().map(|at| at.timestamp_millis()), "_id");
        Ok(ContactPage { contacts: found.iter().map(document::read_contact).collect::<Result<_, _>>()?, next_cursor })
    }

    async fn user_by_email(&self, q: UserByEmail) -> Result<User, QueryError> {
        let found = self.find_one(&self.view.collections.users, doc! {"email": q.email.as_str()}, None).await?;
        Ok(document::read_user(&found.ok_or(QueryError::NotFound)?)?)
    }

    async fn messages(&self, q: ListMessages) -> Result<MessagePage, QueryError> {
        let page = self.message_page(&q).await?;
        if !page.messages.is_empty() || q.page.skip > 0 || q.page.after.is_some() {
            return Ok(page);
        }
        // Nothing yet, or nobody: the contact tells; and so does the first message, which may be on its way.
        match self.contact(GetContact { company_id: q.company_id, id: q.contact_id }).await {
            Err(QueryError::NotFound) => self.message_page(&q).await.and_then(|page| match page.messages.is_empty() {
                true => Err(QueryError::NotFound),
                false => Ok(page),
            }),
            found => found.map(|_| page),
        }
    }

    async fn message_page(&self, q: &ListMessages) -> Result<MessagePage, QueryError> {
        let mut filter = visible(doc! {"company_id": oid(q.company_id), "contact_id": oid(q.contact_id)});
        if let Some(platform) = q.platform {
            filter.insert("platform", platform.as_str());
        }
        if let Some(after) = q.page.after {
            filter.extend(older(after, DateTime::from_millis(after.key)));
        }
        let find = self.view.collections.messages.find(filter).sort(doc! {"created_at": -1, "_id": -1});
        let documents = self.all(find.skip(q.page.skip).limit(one_more(q.page)));
        let (mut found, total_messages) = tokio::try_join!(documents, self.total(q))?;
        let next_cursor = next(&mut found, q.page, |d| d.get_datetime("created_at").ok().map(|at| at.timestamp_millis()), "_id");
        let messages = found.iter().map(document::read_message).collect::<Result<_, _>>()?;
        Ok(MessagePage { messages, total_messages, next_cursor })
    }

    /// Kept with the conversation, so that counting costs nothing.
    async fn total(&self, q: &ListMessages) -> Result<u64, QueryError> {
        let platforms = q.platform.as_ref().map_or(PLATFORMS, std::slice::from_ref);
        let ids: Vec<String> = platforms.iter().map(|p| format!("{}:{}:{p}", q.company_id, q.contact_id)).collect();
        let find = self.view.collections.conversations.find(doc! {"_id": {"$in": ids}}).projection(doc! {"total": 1});
        Ok(self.all(find).await?.iter().filter_map(|d| d.get_i64("total").ok()).sum::<i64>().max(0) as u64)
    }

    async fn conversations(&self, q: ListConversations) -> Result<ConversationPage, QueryError> {
        let below = q.page.after.map_or(i64::MAX, |after| after.key);
        let mut filter = doc! {"company_id": oid(q.company_id), "latest.seq": {"$gt": 0_i64, "$lt": below}};
        if let Some(platform) = q.platform {
            filter.insert("platform", platform.as_str());
        }
        let fields = doc! {"contact_id": 1, "platform": 1, "latest": 1, "unread": 1};
        let find = self.view.collections.conversations.find(filter).sort(doc! {"latest.seq": -1}).projection(fields);
        let mut found = self.all(find.skip(q.page.skip).limit(one_more(q.page))).await?;
        let next_cursor = next(&mut found, q.page, latest_seq, "contact_id");
        let contact_ids: Vec<ObjectId> = found.iter().filter_map(|d| d.get_object_id("contact_id").ok()).collect();
        let newest: Vec<ObjectId> = found.iter().filter_map(latest_id).collect();
        let latest = visible(doc! {"_id": {"$in": newest}, "company_id": oid(q.company_id)});
        let contacts = doc! {"_id": {"$in": &contact_ids}, "company_id": oid(q.company_id)};
        let names = doc! {"fullName": 1, "socialNetworkName": 1};
        let latest = self.all(self.view.collections.messages.find(latest));
        let contacts = self.all(self.view.collections.contacts.find(contacts).projection(names));
        let (latest, contacts) = tokio::try_join!(latest, contacts)?;
        let mut newest: HashMap<Id, MessageView> = HashMap::with_capacity(latest.len());
        for document in &latest {
            let message = document::read_message(document)?;
            newest.insert(message.message.id, message);
        }
        let contacts: HashMap<ObjectId, &Document> = contacts.iter().filter_map(|d| Some((d.get_object_id("_id").ok()?, d))).collect();
        let lines = found.iter().filter_map(|d| line(d, &mut newest, &contacts)).collect();
        Ok(ConversationPage { contacts: lines, next_cursor })
    }

    /// One query for each company and kind of key among them.
    async fn holders(&self, q: FindHolders) -> Result<Vec<Holder>, QueryError> {
        if q.keys.len() > MAX_KEYS {
            return Err(QueryError::Bad(format!("at most {MAX_KEYS} keys")));
        }
        let mut by_group: HashMap<(Id, Option<Platform>), HashMap<&str, &UniqueKey>> = HashMap::new();
        for key in &q.keys {
            let (platform, text) = match &key.key {
                KeyOf::External { platform, id } => (Some(*platform), id.as_str()),
                KeyOf::Request(text) => (None, text.as_str()),
            };
            by_group.entry((key.company_id, platform)).or_default().insert(text, key);
        }
        let mut holders = Vec::new();
        for ((company_id, platform), keys) in by_group {
            let wanted: Vec<&str> = keys.keys().copied().collect();
            let (field, mut filter) = match platform {
                Some(platform) => ("external_message_id", doc! {"company_id": oid(company_id), "platform": platform.as_str()}),
                None => ("request", doc! {"company_id": oid(company_id)}),
            };
            filter.insert(field, doc! {"$in": wanted});
            let found = self.all(self.view.collections.messages.find(filter).projection(doc! {field: 1, "seq": 1})).await?;
            holders.extend(found.iter().filter_map(|d| {
                let key = (*keys.get(d.get_str(field).ok()?)?).clone();
                Some(Holder { key, message_id: document::id(d.get_object_id("_id").ok()?), seq: d.get_i64("seq").ok()? as u64 })
            }));
        }
        Ok(holders)
    }

    /// All documents that a query finds.
    async fn all(&self, find: Find<'_, Document>) -> Result<Vec<Document>, QueryError> {
        Ok(limited(async { Ok(find.await?.try_collect().await?) }).await?)
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

/// One more than the page: whether there is a next one.
fn one_more(page: Page) -> i64 {
    i64::from(page.limit.clamp(1, MAX_PAGE)) + 1
}

/// Cuts what was read to the page, and says where the next one begins.
fn next(found: &mut Vec<Document>, page: Page, key: impl Fn(&Document) -> Option<i64>, id: &str) -> Option<Cursor> {
    let limit = page.limit.clamp(1, MAX_PAGE) as usize;
    if found.len() <= limit {
        return None;
    }
    found.truncate(limit);
    let last = found.last()?;
    Some(Cursor { key: key(last)?, id: document::id(last.get_object_id(id).ok()?) })
}

/// What comes after a cursor in a list by `created_at` and `_id`, both descending.
fn older(after: Cursor, at: DateTime) -> Document {
    doc! {"created_at": {"$lte": at}, "$or": [{"created_at": {"$lt": at}}, {"_id": {"$lt": oid(after.id)}}]}
}

fn latest_seq(conversation: &Document) -> Option<i64> {
    conversation.get_document("latest").ok()?.get_i64("seq").ok()
}

fn latest_id(conversation: &Document) -> Option<ObjectId> {
    conversation.get_document("latest").ok()?.get_object_id("id").ok()
}

fn line(document: &Document, newest: &mut HashMap<Id, MessageView>, contacts: &HashMap<ObjectId, &Document>) -> Option<Conversation> {
    let contact = document.get_object_id("contact_id").ok()?;
    let text = |name: &str| contacts.get(&contact)?.get_str(name).ok().map(str::to_owned);
    Some(Conversation {
        contact_id: document::id(contact),
        platform: document.get_str("platform").ok()?.parse().ok()?,
        full_name: text("fullName"),
        social_network_name: text("socialNetworkName"),
        latest_message: newest.remove(&document::id(latest_id(document)?))?,
        unread: document.get_i64("unread").unwrap_or_default().max(0) as u64,
    })
}
