//! How far the delivery of one message is, in the database and at the stub bot.

use mongodb::bson::{Document, doc, oid::ObjectId};
use serde_json::Value;

use super::{AFTER_FAULT, Staff, System, documents, eventually};

/// The message's `delivery`, once it is as wanted.
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

/// What the bot was asked with this message's key.
pub async fn calls(system: &System, id: &str) -> Vec<Value> {
    system
        .deliveries()
        .await
        .into_iter()
        .filter(|d| d["idempotency_key"] == id)
        .collect()
}
