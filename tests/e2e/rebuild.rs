//! Law 1: the database can be dropped, and comes back from the log.

use mongodb::bson::{Bson, Document, doc};
use reqwest::Method;
use serde_json::json;

use crate::harness::{AFTER_FAULT, SOON, System, documents, eventually};

const COLLECTIONS: [&str; 5] = ["messages", "conversations", "contacts", "companies", "users"];

/// Everything in the database, without how conversations were counted.
async fn content(database: &mongodb::Database) -> Vec<(String, Vec<Document>)> {
    let mut all = Vec::new();
    for name in COLLECTIONS {
        let mut found = documents(database, name, doc! {}).await;
        for d in &mut found {
            d.remove("fold");
            d.remove("revision");
        }
        all.push((name.to_owned(), found));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_database_comes_back_from_the_log() {
    let system = System::start(&["--replicas", "persister=2"]).await;
    let staff = system.new_company().await;
    for _ in 0..3 {
        let contact = staff.new_contact().await;
        let first = staff.message(&contact, "user", "hello").await["messageData"]["_id"].clone();
        let second = staff.message(&contact, "user", "are you there?").await["messageData"]["_id"].clone();
        staff.send(Method::PUT, "/messages/mark-read", json!({"contact_id": contact})).await;
        staff.message(&contact, "operator", "yes").await;
        staff.send(Method::PATCH, "/messages", json!({"_id": first, "content": "hello!"})).await;
        staff.send(Method::DELETE, "/messages", json!({"_id": second})).await;
    }
    let database = system.database().await;
    let log = system.operator().await.get_stream("EVENTS").await.unwrap();
    let settled = || async {
        let consumer = log.get_consumer::<async_nats::jetstream::consumer::pull::Config>("persister").await.ok()?;
        let info = consumer.cached_info();
        (info.num_pending == 0 && info.num_ack_pending == 0).then_some(())
    };
    let delivered = doc! {"role": "operator", "delivery.state": "delivered"};
    eventually("all is delivered and settled", SOON, || async {
        settled().await?;
        (documents(&database, "messages", delivered.clone()).await.len() == 3).then_some(())
    })
    .await;
    let before = content(&database).await;
    assert_eq!(before[0].1.len(), 9);

    database.drop().await.unwrap();
    log.reset_consumer("persister", Some(1)).await.unwrap();
    let after = eventually("the same documents are back", AFTER_FAULT, || async {
        let now = content(&database).await;
        (now.iter().map(|(_, d)| d.len()).eq(before.iter().map(|(_, d)| d.len())) && settled().await.is_some()).then_some(now)
    })
    .await;
    for ((name, before), (_, after)) in before.into_iter().zip(after) {
        let by_name = |d: Document| d.into_iter().collect::<std::collections::BTreeMap<String, Bson>>();
        let (before, after): (Vec<_>, Vec<_>) = (before.into_iter().map(by_name).collect(), after.into_iter().map(by_name).collect());
        assert_eq!(before, after, "{name}");
    }
}
