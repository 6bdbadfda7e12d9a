//! The collections of the view, and the one query that several writers share. Makes no index; see
//! `indexes`.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use mongodb::bson::{Document, oid::ObjectId};
use mongodb::{Collection, Database};

use crate::mongo::client::{DatabaseError, limited};

/// The collections of the view. Cloning shares the connections.
#[derive(Clone)]
pub struct Collections {
    /// Messages, and the placeholders of messages whose `message.created` has not come yet.
    pub messages: Collection<Document>,
    /// One document for a company's contact on a platform: counters, latest message, read marks.
    pub conversations: Collection<Document>,
    pub contacts: Collection<Document>,
    pub companies: Collection<Document>,
    /// Staff.
    pub users: Collection<Document>,
    /// One document for a company's access to a platform.
    pub integrations: Collection<Document>,
    /// For each integration the last failure to renew its token.
    pub refresh_failures: Collection<Document>,
    /// One document for each call to the bot, by the sequence of the event that tells of the call.
    pub attempts: Collection<Document>,
    /// How long messages took to be persisted. This collection is no part of the view.
    pub persist_latencies: Collection<Document>,
}

impl Collections {
    pub fn of(database: &Database) -> Collections {
        let named = |name| database.collection(name);
        Collections {
            messages: named("messages"),
            conversations: named("conversations"),
            contacts: named("contacts"),
            companies: named("companies"),
            users: named("users"),
            integrations: named("integrations"),
            refresh_failures: named("refresh_failures"),
            attempts: named("attempts"),
            persist_latencies: named("persist_latencies"),
        }
    }

    /// Some fields of the messages that a filter finds, by `_id`.
    ///
    /// # Errors
    /// MongoDB is away.
    pub async fn find_messages(
        &self,
        filter: Document,
        fields: Document,
    ) -> Result<HashMap<ObjectId, Document>, DatabaseError> {
        let find = async {
            let found = self.messages.find(filter).projection(fields).await?;
            Ok(found.try_collect::<Vec<_>>().await?)
        };
        Ok(limited(find)
            .await?
            .into_iter()
            .filter_map(|d| Some((d.get_object_id("_id").ok()?, d)))
            .collect())
    }
}
