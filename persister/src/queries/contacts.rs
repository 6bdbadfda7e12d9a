//! Contacts, and for whom the bot's suspension is over.

use contract::query::{
    Cursor, GetContact, ListContacts, ListResumable, MAX_RESUMABLE, Resumable, ResumablePage,
};
use mongodb::bson::raw::RawDocument;
use mongodb::bson::{Document, doc};
use runtime::rpc::query::QueryError;
use serde::Serialize;

use super::json;
use super::page::{created_at, cut, older, one_more};
use super::reader::{Reader, belongs, is_visible, raw};
use crate::fold::contact;
use crate::mongo::document::{self, oid};

/// Words of a search at most. Further words are ignored.
const MAX_SEARCH_WORDS: usize = 8;

/// Writes a [`contract::query::ContactPage`].
#[derive(Serialize)]
pub struct Contacts {
    contacts: Vec<json::Contact>,
    next_cursor: Option<Cursor>,
}

impl Reader {
    pub async fn contact(&self, q: GetContact) -> Result<json::Contact, QueryError> {
        let is_it = |d: &RawDocument| belongs(d, q.company_id) && is_visible(d);
        self.find_or_catch_up(&raw(&self.collections.contacts), oid(q.id), is_it)
            .await
            .map(json::Contact)
    }

    pub async fn contacts(&self, q: ListContacts) -> Result<Contacts, QueryError> {
        let mut filter = doc! {"company_id": oid(q.company_id), "seq": {"$exists": true}};
        let words = q.search.as_deref().map(contact::words).unwrap_or_default();
        if q.search.is_some() && words.is_empty() {
            return Ok(Contacts {
                contacts: Vec::new(),
                next_cursor: None,
            });
        }
        // A word has letters and digits only, so it needs no escape in a regular expression.
        let begins = |word: &String| doc! {"search": {"$regex": format!("^{word}")}};
        let mut all: Vec<Document> = words.iter().take(MAX_SEARCH_WORDS).map(begins).collect();
        all.extend(q.page.after.map(older));
        if !all.is_empty() {
            filter.insert("$and", all);
        }
        let contacts = raw(&self.collections.contacts);
        let find = contacts
            .find(filter)
            .sort(doc! {"created_at": -1, "_id": -1});
        let mut found = self
            .all(find.skip(q.page.skip).limit(one_more(q.page)))
            .await?;
        let next_cursor = cut(&mut found, q.page, created_at, "_id");
        Ok(Contacts {
            contacts: found.into_iter().map(json::Contact).collect(),
            next_cursor,
        })
    }

    pub async fn resumable(&self, q: ListResumable) -> Result<ResumablePage, QueryError> {
        self.catch_up().await?;
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
        let find = self
            .collections
            .contacts
            .find(filter)
            .sort(doc! {"botSuspendUntil": 1, "_id": 1})
            .projection(doc! {"company_id": 1, "botSuspendUntil": 1});
        let found = self.all(find.limit(limit as i64)).await?;
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
}
