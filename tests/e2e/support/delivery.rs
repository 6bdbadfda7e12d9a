//! The delivery of one message: its state in the database, and the calls that the stub bot received.

use mongodb::bson::{Document, doc, oid::ObjectId};
use serde::Deserialize;
use serde_json::Value;

use super::{AFTER_FAULT, Staff, System, documents, eventually};

/// A call that the stub bot has received.
#[derive(Clone, Debug, Deserialize)]
pub struct BotCall {
    /// The stub bot numbers its calls from 1.
    pub n: u64,
    pub idempotency_key: Option<String>,
    /// Whether the call carried the API key.
    pub api_key: bool,
    /// The status of the stub bot's answer; `None` if it gave none.
    pub status: Option<u16>,
    pub body: Value,
}

impl BotCall {
    /// The idempotency key, which every call must have.
    pub fn key(&self) -> &str {
        self.idempotency_key
            .as_deref()
            .unwrap_or_else(|| panic!("no idempotency key: {self:?}"))
    }

    /// Whether the stub bot answered with success.
    pub fn succeeded(&self) -> bool {
        self.status == Some(200)
    }
}

/// Waits until the message's delivery has this state, and returns the document's `delivery`.
pub async fn delivery(staff: &Staff<'_>, id: &str, state: &str) -> Document {
    let database = staff.system.database().await;
    let filter = doc! {"_id": ObjectId::parse_str(id).unwrap()};
    eventually(&format!("the message is {state}"), AFTER_FAULT, || async {
        let found = documents(&database, "messages", filter.clone()).await;
        let delivery = found.first()?.get_document("delivery").ok()?.clone();
        (delivery.get_str("state").ok()? == state).then_some(delivery)
    })
    .await
}

/// The calls that the stub bot received for one message.
pub async fn bot_calls_for(system: &System, id: &str) -> Vec<BotCall> {
    system
        .bot_calls()
        .await
        .into_iter()
        .filter(|call| call.idempotency_key.as_deref() == Some(id))
        .collect()
}
