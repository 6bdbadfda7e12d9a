//! Contacts, and for whom the bot's suspension is over.

use contract::domain::Platform;
use contract::query::{
    ContactKey, Cursor, FindContacts, GetContact, ListContacts, ListResumable, MAX_CONTACT_KEYS,
    MAX_RESUMABLE, Resumable, ResumablePage,
};
use mongodb::bson::raw::RawDocument;
use mongodb::bson::{Document, doc};
use runtime::rpc::query::QueryError;
use serde::Serialize;

use super::json;
use super::page::{by_id, cut, older, one_more};
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

/// Contacts of one answer to [`FindContacts`] at most. So many can have the same id only from before
/// ids were unique; the newest ones are left out.
const MAX_KNOWN: i64 = 256;

/// Writes a [`contract::query::KnownContact`].
#[derive(Serialize)]
pub struct KnownContact {
    contact: json::Contact,
    seq: i64,
}

impl Reader {
    /// The contacts that have one of the keys.
    pub async fn known_contacts(&self, q: FindContacts) -> Result<Vec<KnownContact>, QueryError> {
        if q.on_platforms.len().max(q.ids.len()) > MAX_CONTACT_KEYS {
            return Err(QueryError::Bad(format!("at most {MAX_CONTACT_KEYS} keys")));
        }
        let ids: Vec<_> = q.ids.iter().copied().map(oid).collect();
        let keys = q.on_platforms.iter();
        let mut any: Vec<Document> = keys
            .filter_map(|(platform, id)| on_platform(*platform, id.as_str()))
            .collect();
        any.push(doc! {"_id": {"$in": ids}});
        let filter = doc! {"company_id": oid(q.company_id), "seq": {"$exists": true}, "$or": any};
        let contacts = raw(&self.collections.contacts);
        // The oldest first. Before ids were unique, several contacts could have the same one.
        let found = self
            .all(contacts.find(filter).sort(doc! {"seq": 1}).limit(MAX_KNOWN))
            .await?;
        let known = found.into_iter().map(|document| {
            let seq = document.get_i64("seq").unwrap_or_default();
            KnownContact {
                contact: json::Contact(document),
                seq,
            }
        });
        Ok(known.collect())
    }

    pub async fn contact(&self, q: GetContact) -> Result<json::Contact, QueryError> {
        let is_it = |d: &RawDocument| belongs(d, q.company_id) && is_visible(d);
        self.find_or_catch_up(&raw(&self.collections.contacts), oid(q.id), is_it)
            .await
            .map(json::Contact)
    }

    pub async fn contacts(&self, q: ListContacts) -> Result<Contacts, QueryError> {
        let mut filter = doc! {"company_id": oid(q.company_id), "seq": {"$exists": true}};
        let search = q.search.as_deref();
        let words = search.map(contact::words).unwrap_or_default();
        if q.search.is_some() && words.is_empty() {
            return Ok(Contacts {
                contacts: Vec::new(),
                next_cursor: None,
            });
        }
        let mut all: Vec<Document> = words.iter().take(MAX_SEARCH_WORDS).map(begins).collect();
        if let Some(number) = search.and_then(contact::national_number) {
            all = vec![doc! {"$or": [{"$and": all}, begins(&number)]}];
        }
        all.extend(q.with.iter().map(has));
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
        let next_cursor = cut(&mut found, q.page, by_id);
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

/// Matches contacts with a word that begins like this. A word has letters and digits only, so it
/// needs no escape in a regular expression.
fn begins(word: &String) -> Document {
    doc! {"search": {"$regex": format!("^{word}")}}
}

/// Matches contacts that have the key exactly.
fn has(key: &ContactKey) -> Document {
    let matches = |field: &str, text: &str, pattern: String| {
        let words = contact::words(text);
        let mut all: Vec<Document> = words.iter().take(MAX_SEARCH_WORDS).map(begins).collect();
        all.push(doc! {field: {"$regex": pattern, "$options": "i"}});
        doc! {"$and": all}
    };
    match key {
        // No contact has an id on a platform without ids.
        ContactKey::Platform(platform, id) => {
            on_platform(*platform, id.as_str()).unwrap_or(doc! {"$expr": false})
        }
        ContactKey::Email(email) => matches("email", email, format!("^{}$", escaped(email))),
        ContactKey::Phone(text) => {
            let digits: String = text.chars().filter(char::is_ascii_digit).collect();
            if digits.is_empty() {
                return doc! {"$expr": false};
            }
            let pattern: String = digits.chars().map(|d| format!("{d}[^0-9]*")).collect();
            matches("phone", &digits, format!("^[^0-9]*{pattern}$"))
        }
    }
}

fn on_platform(platform: Platform, id: &str) -> Option<Document> {
    let field = document::social_field(platform)?;
    Some(doc! {format!("social.{field}"): id})
}

/// A text as a regular expression that matches the text alone.
fn escaped(text: &str) -> String {
    let escape = |c: char| match c.is_alphanumeric() {
        true => c.to_string(),
        // As a code point, because a backslash before some characters has a meaning of its own.
        false => format!("\\x{{{:x}}}", u32::from(c)),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_escaped_character_by_character() {
        assert_eq!(escaped("a.b+é@x"), r"a\x{2e}b\x{2b}é\x{40}x");
    }
}
