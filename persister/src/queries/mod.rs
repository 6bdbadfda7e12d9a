//! Answers the contract's queries from MongoDB.

mod audit;
mod find;
mod integrations;
mod json;
mod sla;

use std::collections::HashMap;
use std::sync::Arc;

use contract::domain::{Platform, User};
use contract::query::{
    AuditMessages, Cursor, DedupKey, FindKeyOwners, GetCompany, GetContact, GetDelivery,
    GetIntegration, GetMessage, GetUser, KeyOwner, ListContacts, ListConversations, ListExpiring,
    ListIntegrations, ListMessages, ListOverdue, ListRefreshable, ListResumable, MAX_ATTEMPTS,
    MAX_KEYS, MAX_RESUMABLE, Page, ReportSla, Resumable, ResumablePage, UniqueKey, UserByEmail,
    WalkMessages,
};
use contract::{Id, Timestamp};
use mongodb::Collection;
use mongodb::bson::raw::{RawDocument, RawDocumentBuf};
use mongodb::bson::{DateTime, Document, doc, oid::ObjectId};
use runtime::net::connection::Connection;
use runtime::rpc::query::QueryError;
use runtime::service::{Service, ServiceError};
use serde::Serialize;

use crate::fold::contact;
use crate::mongo::DatabaseError;
use crate::mongo::document::{self, BadDocument, oid};
use crate::progress::Progress;
use crate::view::View;
use find::{carried, created_at, next, older, one_more};

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

/// [`contract::query::MessagePage`], as it is written.
#[derive(Serialize)]
struct Messages {
    messages: Vec<json::Message>,
    #[serde(rename = "totalMessages")]
    total_messages: u64,
    next_cursor: Option<Cursor>,
    as_of_seq: u64,
}

/// [`contract::query::DeliveryHistory`], as it is written.
#[derive(Serialize)]
struct History {
    delivery: Option<json::Document>,
    attempts: Vec<json::Attempt>,
}

/// [`contract::query::ContactPage`], as it is written.
#[derive(Serialize)]
struct Contacts {
    contacts: Vec<json::Contact>,
    next_cursor: Option<Cursor>,
}

/// [`contract::query::ConversationPage`], as it is written.
#[derive(Serialize)]
struct Conversations {
    contacts: Vec<Line>,
    next_cursor: Option<Cursor>,
    as_of_seq: u64,
}

/// [`contract::query::Conversation`], as it is written.
#[derive(Serialize)]
struct Line {
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

struct Queries {
    view: View,
    connection: Connection,
    progress: Progress,
    /// The time.
    clock: fn() -> Timestamp,
}

/// Registers every query on the service.
///
/// # Errors
/// A subscription is refused.
pub async fn answer(
    service: &Service,
    view: &View,
    progress: Progress,
) -> Result<(), ServiceError> {
    let (view, connection) = (view.clone(), service.connection.clone());
    let queries = Arc::new(Queries {
        view,
        connection,
        progress,
        clock: Timestamp::now,
    });
    macro_rules! answer {
        ($question:ty, $method:ident) => {{
            let queries = queries.clone();
            service
                .answers
                .query::<$question, _, _, _>(move |question| {
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
    answer!(FindKeyOwners, holders);
    answer!(GetContact, contact);
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

/// Documents that are whole and not deleted.
fn visible(mut filter: Document) -> Document {
    filter.insert("seq", doc! {"$exists": true});
    filter.insert("deleted_at", doc! {"$exists": false});
    filter
}

impl Queries {
    async fn message(&self, q: GetMessage) -> Result<json::Message, QueryError> {
        let is_it = |d: &RawDocument| belongs(d, q.company_id) && is_visible(d);
        self.find_or_catch_up(&raw(&self.view.collections.messages), oid(q.id), is_it)
            .await
            .map(json::Message)
    }

    async fn contact(&self, q: GetContact) -> Result<json::Contact, QueryError> {
        let is_it = |d: &RawDocument| belongs(d, q.company_id) && is_visible(d);
        self.find_or_catch_up(&raw(&self.view.collections.contacts), oid(q.id), is_it)
            .await
            .map(json::Contact)
    }

    async fn user(&self, q: GetUser) -> Result<User, QueryError> {
        let is_it = |d: &RawDocument| belongs(d, q.company_id);
        let found = self
            .find_or_catch_up(&raw(&self.view.collections.users), oid(q.id), is_it)
            .await?;
        Ok(document::read_user(&whole(&found)?)?)
    }

    async fn delivery(&self, q: GetDelivery) -> Result<History, QueryError> {
        let json::Message(message) = self
            .message(GetMessage {
                company_id: q.company_id,
                id: q.id,
            })
            .await?;
        let delivery = message
            .get_document("delivery")
            .ok()
            .map(|d| json::Document(d.to_owned()));
        // The newest, and of those the oldest first.
        let filter = doc! {"message_id": oid(q.id), "company_id": oid(q.company_id)};
        let attempts = raw(&self.view.collections.attempts);
        let found = self
            .all(
                attempts
                    .find(filter)
                    .sort(doc! {"_id": -1})
                    .limit(MAX_ATTEMPTS),
            )
            .await?;
        Ok(History {
            delivery,
            attempts: found.into_iter().rev().map(json::Attempt).collect(),
        })
    }

    async fn contacts(&self, q: ListContacts) -> Result<Contacts, QueryError> {
        let mut filter = doc! {"company_id": oid(q.company_id), "seq": {"$exists": true}};
        let words = q.search.as_deref().map(contact::words).unwrap_or_default();
        if q.search.is_some() && words.is_empty() {
            return Ok(Contacts {
                contacts: Vec::new(),
                next_cursor: None,
            });
        }
        // A word has letters and digits only, so it is no pattern.
        let begins = |word: &String| doc! {"search": {"$regex": format!("^{word}")}};
        let mut all: Vec<Document> = words.iter().take(MAX_SEARCH_WORDS).map(begins).collect();
        all.extend(
            q.page
                .after
                .map(|after| older(after, DateTime::from_millis(after.key))),
        );
        if !all.is_empty() {
            filter.insert("$and", all);
        }
        let contacts = raw(&self.view.collections.contacts);
        let find = contacts
            .find(filter)
            .sort(doc! {"created_at": -1, "_id": -1});
        let mut found = self
            .all(find.skip(q.page.skip).limit(one_more(q.page)))
            .await?;
        let next_cursor = next(&mut found, q.page, created_at, "_id");
        Ok(Contacts {
            contacts: found.into_iter().map(json::Contact).collect(),
            next_cursor,
        })
    }

    async fn resumable(&self, q: ListResumable) -> Result<ResumablePage, QueryError> {
        self.caught_up().await?;
        let limit = q.limit.clamp(1, MAX_RESUMABLE) as usize;
        let mut filter =
            doc! {"botSuspendUntil": {"$lte": document::date(q.passed)}, "seq": {"$exists": true}};
        if let Some(after) = q.after {
            let at = document::date(after.until);
            filter.insert(
                "$or",
                [
                    doc! {"botSuspendUntil": {"$gt": at}},
                    doc! {"botSuspendUntil": at, "_id": {"$gt": oid(after.contact_id)}},
                ],
            );
        }
        let contacts = self
            .view
            .collections
            .contacts
            .find(filter)
            .sort(doc! {"botSuspendUntil": 1, "_id": 1});
        let found = self
            .all(
                contacts
                    .projection(doc! {"company_id": 1, "botSuspendUntil": 1})
                    .limit(limit as i64),
            )
            .await?;
        let resumable: Vec<Resumable> = found
            .iter()
            .map(document::read_resumable)
            .collect::<Result<_, _>>()?;
        let next = resumable
            .last()
            .copied()
            .filter(|_| resumable.len() == limit);
        Ok(ResumablePage { resumable, next })
    }

    async fn user_by_email(&self, q: UserByEmail) -> Result<User, QueryError> {
        let find = || {
            self.one(
                &self.view.collections.users,
                doc! {"email": q.email.as_str()},
            )
        };
        let mut found = find().await?;
        if found.is_none() {
            // Nobody is told that there is no such user by a view that is still being built.
            self.caught_up().await?;
            found = find().await?;
        }
        Ok(document::read_user(&found.ok_or(QueryError::NotFound)?)?)
    }

    async fn messages(&self, q: ListMessages) -> Result<Messages, QueryError> {
        let page = self.message_page(&q).await?;
        let is_past_the_end =
            page.total_messages > 0 && (q.page.skip > 0 || q.page.after.is_some());
        if !page.messages.is_empty() || is_past_the_end {
            return Ok(page);
        }
        // Nothing yet, or nobody: the contact tells; and so does the first message, which may be on
        // its way.
        match self
            .contact(GetContact {
                company_id: q.company_id,
                id: q.contact_id,
            })
            .await
        {
            Err(QueryError::NotFound) => {
                self.message_page(&q)
                    .await
                    .and_then(|page| match page.messages.is_empty() {
                        true => Err(QueryError::NotFound),
                        false => Ok(page),
                    })
            }
            found => found.map(|_| page),
        }
    }

    async fn message_page(&self, q: &ListMessages) -> Result<Messages, QueryError> {
        // First, so that the rest can only know more than it says.
        let as_of_seq = self.progress.settled_to(&self.connection).await?;
        let mut filter =
            visible(doc! {"company_id": oid(q.company_id), "contact_id": oid(q.contact_id)});
        if let Some(platform) = q.platform {
            filter.insert("platform", platform.as_str());
        }
        if let Some(after) = q.page.after {
            filter.extend(older(after, DateTime::from_millis(after.key)));
        }
        let messages = raw(&self.view.collections.messages);
        let find = messages
            .find(filter)
            .sort(doc! {"created_at": -1, "_id": -1});
        let documents = self.all(find.skip(q.page.skip).limit(one_more(q.page)));
        let (mut found, total_messages) = tokio::try_join!(documents, self.total(q))?;
        let next_cursor = next(&mut found, q.page, created_at, "_id");
        Ok(Messages {
            messages: found.into_iter().map(json::Message).collect(),
            total_messages,
            next_cursor,
            as_of_seq,
        })
    }

    /// Kept with the conversation, so that counting costs nothing.
    async fn total(&self, q: &ListMessages) -> Result<u64, QueryError> {
        let platforms = q.platform.as_ref().map_or(PLATFORMS, std::slice::from_ref);
        let ids: Vec<String> = platforms
            .iter()
            .map(|p| format!("{}:{}:{p}", q.company_id, q.contact_id))
            .collect();
        let find = self
            .view
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

    async fn conversations(&self, q: ListConversations) -> Result<Conversations, QueryError> {
        // First, as above.
        let as_of_seq = self.progress.settled_to(&self.connection).await?;
        let below = q.page.after.map_or(i64::MAX, |after| after.key);
        let mut filter =
            doc! {"company_id": oid(q.company_id), "latest.seq": {"$gt": 0_i64, "$lt": below}};
        if let Some(platform) = q.platform {
            filter.insert("platform", platform.as_str());
        }
        let fields = doc! {"contact_id": 1, "platform": 1, "latest": 1, "unread": 1};
        let conversations = raw(&self.view.collections.conversations);
        let find = conversations
            .find(filter)
            .sort(doc! {"latest.seq": -1})
            .projection(fields);
        let mut found = self
            .all(find.skip(q.page.skip).limit(one_more(q.page)))
            .await?;
        let latest_seq = |d: &RawDocument| d.get_document("latest").ok()?.get_i64("seq").ok();
        let next_cursor = next(&mut found, q.page, latest_seq, "contact_id");
        let contact_ids: Vec<ObjectId> = found
            .iter()
            .filter_map(|d| d.get_object_id("contact_id").ok())
            .collect();
        let newest: Vec<ObjectId> = found.iter().filter_map(|d| latest_id(d)).collect();
        let latest = visible(doc! {"_id": {"$in": newest}, "company_id": oid(q.company_id)});
        let contacts = doc! {"_id": {"$in": contact_ids}, "company_id": oid(q.company_id)};
        let names = doc! {"fullName": 1, "socialNetworkName": 1};
        let messages = raw(&self.view.collections.messages);
        let contacts = self.all(
            self.view
                .collections
                .contacts
                .find(contacts)
                .projection(names),
        );
        let (latest, contacts) = tokio::try_join!(self.all(messages.find(latest)), contacts)?;
        let mut newest: HashMap<ObjectId, RawDocumentBuf> = latest
            .into_iter()
            .filter_map(|d| Some((d.get_object_id("_id").ok()?, d)))
            .collect();
        let contacts: HashMap<ObjectId, Document> = contacts
            .into_iter()
            .filter_map(|d| Some((d.get_object_id("_id").ok()?, d)))
            .collect();
        // The newest messages are what is long here.
        let fits = carried(found.iter().filter_map(|d| newest.get(&latest_id(d)?)));
        let cut = (fits < found.len() && fits < newest.len()).then_some(Page {
            limit: fits as u32,
            ..q.page
        });
        let next_cursor = cut.map_or(next_cursor, |page| {
            next(&mut found, page, latest_seq, "contact_id")
        });
        let lines = found
            .iter()
            .filter_map(|d| line(d, &mut newest, &contacts))
            .collect();
        Ok(Conversations {
            contacts: lines,
            next_cursor,
            as_of_seq,
        })
    }

    /// One query for each company and kind of key among them.
    async fn holders(&self, q: FindKeyOwners) -> Result<Vec<KeyOwner>, QueryError> {
        if q.keys.len() > MAX_KEYS {
            return Err(QueryError::Bad(format!("at most {MAX_KEYS} keys")));
        }
        let mut by_group: HashMap<(Id, Option<Platform>), HashMap<&str, &UniqueKey>> =
            HashMap::new();
        for key in &q.keys {
            let (platform, text) = match &key.key {
                DedupKey::External { platform, id } => (Some(*platform), id.as_str()),
                DedupKey::Request(text) => (None, text.as_str()),
            };
            by_group
                .entry((key.company_id, platform))
                .or_default()
                .insert(text, key);
        }
        let mut holders = Vec::new();
        for ((company_id, platform), keys) in by_group {
            let wanted: Vec<&str> = keys.keys().copied().collect();
            let (field, mut filter) = match platform {
                Some(platform) => (
                    "external_message_id",
                    doc! {"company_id": oid(company_id), "platform": platform.as_str()},
                ),
                None => ("request", doc! {"company_id": oid(company_id)}),
            };
            filter.insert(field, doc! {"$in": wanted});
            let found = self
                .all(
                    self.view
                        .collections
                        .messages
                        .find(filter)
                        .projection(doc! {field: 1, "seq": 1}),
                )
                .await?;
            holders.extend(found.iter().filter_map(|d| {
                let key = (*keys.get(d.get_str(field).ok()?)?).clone();
                Some(KeyOwner {
                    key,
                    message_id: document::id(d.get_object_id("_id").ok()?),
                    seq: d.get_i64("seq").ok()? as u64,
                })
            }));
        }
        Ok(holders)
    }
}

/// As [`visible`], for a document that was found by its id.
fn is_visible(document: &RawDocument) -> bool {
    let has = |field: &str| document.get(field).ok().flatten().is_some();
    has("seq") && !has("deleted_at")
}

fn belongs(document: &RawDocument, company: Id) -> bool {
    document
        .get_object_id("company_id")
        .is_ok_and(|id| id == oid(company))
}

fn whole(document: &RawDocument) -> Result<Document, QueryError> {
    Document::try_from(document).map_err(|e| QueryError::Bad(e.to_string()))
}

/// Documents as they come, for answers that are passed on.
fn raw(collection: &Collection<Document>) -> Collection<RawDocumentBuf> {
    collection.clone_with_type()
}

fn latest_id(conversation: &RawDocument) -> Option<ObjectId> {
    conversation
        .get_document("latest")
        .ok()?
        .get_object_id("id")
        .ok()
}

fn line(
    found: &RawDocument,
    newest: &mut HashMap<ObjectId, RawDocumentBuf>,
    contacts: &HashMap<ObjectId, Document>,
) -> Option<Line> {
    let contact = found.get_object_id("contact_id").ok()?;
    let text = |name: &str| {
        contacts
            .get(&contact)?
            .get_str(name)
            .ok()
            .map(str::to_owned)
    };
    Some(Line {
        contact_id: document::id(contact),
        platform: found.get_str("platform").ok()?.to_owned(),
        full_name: text("fullName"),
        social_network_name: text("socialNetworkName"),
        latest_message: json::Message(newest.remove(&latest_id(found)?)?),
        unread: found.get_i64("unread").unwrap_or_default().max(0),
    })
}
