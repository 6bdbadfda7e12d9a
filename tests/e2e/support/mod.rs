//! What all test groups share: the system under test, clients of its public surfaces, and bounded
//! waits for a state. Contains no test.

pub mod cluster;
pub mod dead_letters;
pub mod delivery;
pub mod load;
pub mod mongo_set;
pub mod openapi;
pub mod socketio_client;
mod staff;
pub mod stored_text;
mod system;
pub mod ws_client;

use std::future::Future;
use std::time::Duration;

use mongodb::bson::Document;
use serde_json::Value;
use tokio::time::{Instant, interval};

pub use staff::{Answer, Staff, id_of};
pub use system::{Folder, START, System, client, kill, petbuddy, runner};

/// How long a state of a healthy system may take.
pub const SOON: Duration = Duration::from_secs(30);
/// How long a state may take after a fault. Longer, because the consumer's ack wait passes first.
pub const AFTER_FAULT: Duration = Duration::from_secs(90);

/// Calls `look` until it returns a value. Fails with `what` after `within`.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + within;
    let mut tick = interval(Duration::from_millis(50));
    loop {
        tick.tick().await;
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
    }
}

/// A page without `as_of_seq`. Because other companies write to the log too, the field differs
/// between two equal pages.
pub fn without_as_of_seq(mut page: Value) -> Value {
    page.as_object_mut().unwrap().remove("as_of_seq").unwrap();
    page
}

/// All documents of a collection that match, by `_id`.
pub async fn documents(
    database: &mongodb::Database,
    collection: &str,
    filter: Document,
) -> Vec<Document> {
    use futures_util::TryStreamExt;
    let collection = database.collection::<Document>(collection);
    collection
        .find(filter)
        .sort(mongodb::bson::doc! {"_id": 1})
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap()
}
