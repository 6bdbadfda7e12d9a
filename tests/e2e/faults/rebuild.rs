//! Law 1: a dropped database is rebuilt from the log. Also: a deleted consumer is recreated, and
//! `petbuddy setup` can be repeated.

use mongodb::bson::{Bson, Document, doc};
use reqwest::Method;
use serde_json::json;

use crate::support::delivery::{bot_calls_for, delivery};
use crate::support::{AFTER_FAULT, SOON, System, documents, eventually};

const COLLECTIONS: [&str; 6] = [
    "messages",
    "conversations",
    "contacts",
    "companies",
    "users",
    "attempts",
];

/// All documents, without the fields that say how conversations were counted.
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
async fn a_dropped_database_is_rebuilt_from_the_log() {
    let system = System::start(&["--replicas", "persister=2"]).await;
    let staff = system.new_company().await;
    staff
        .send(
            Method::PUT,
            "/sla/targets",
            json!({"delivery_seconds": 30, "first_response_seconds": 60}),
        )
        .await;
    for _ in 0..3 {
        let contact = staff.new_contact().await;
        let first = staff.customer_message(&contact, "hello").await.id;
        let second = staff.customer_message(&contact, "are you there?").await.id;
        staff
            .send(
                Method::PUT,
                "/messages/mark-read",
                json!({"contact_id": contact}),
            )
            .await;
        staff.operator_message(&contact, "yes").await;
        staff
            .send(
                Method::PATCH,
                "/messages",
                json!({"_id": first, "content": "hello!"}),
            )
            .await;
        staff
            .send(Method::DELETE, "/messages", json!({"_id": second}))
            .await;
    }
    let database = system.database().await;
    let log = system.operator().await.get_stream("EVENTS").await.unwrap();
    let settled = || async {
        let consumer = log
            .get_consumer::<async_nats::jetstream::consumer::pull::Config>("persister")
            .await
            .ok()?;
        let info = consumer.cached_info();
        (info.num_pending == 0 && info.num_ack_pending == 0).then_some(())
    };
    let delivered = doc! {"role": "operator", "delivery.state": "delivered"};
    eventually(
        "all is delivered, and nothing is in flight any more",
        SOON,
        || async {
            (documents(&database, "messages", delivered.clone())
                .await
                .len()
                == 3)
                .then_some(())?;
            settled().await
        },
    )
    .await;
    let before = content(&database).await;
    assert_eq!(before[0].1.len(), 9);

    database.drop().await.unwrap();
    log.reset_consumer("persister", Some(1)).await.unwrap();
    let after = eventually("the same documents are back", AFTER_FAULT, || async {
        // The log is applied first. Otherwise the documents could be incomplete.
        settled().await?;
        let now = content(&database).await;
        now.iter()
            .map(|(_, d)| d.len())
            .eq(before.iter().map(|(_, d)| d.len()))
            .then_some(now)
    })
    .await;
    for ((name, before), (_, after)) in before.into_iter().zip(after) {
        let by_name = |d: Document| {
            d.into_iter()
                .collect::<std::collections::BTreeMap<String, Bson>>()
        };
        let (before, after): (Vec<_>, Vec<_>) = (
            before.into_iter().map(by_name).collect(),
            after.into_iter().map(by_name).collect(),
        );
        assert_eq!(before, after, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_consumer_is_recreated_without_missing_or_repeating_events() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    staff.customer_message(&contact, "before").await;
    let log = system.operator().await.get_stream("EVENTS").await.unwrap();
    log.delete_consumer("persister").await.unwrap();
    staff.customer_message(&contact, "after").await;
    eventually(
        "both messages are there, counted once",
        AFTER_FAULT,
        || async {
            let (_, page) = staff.get(&format!("/messages?contact_id={contact}")).await;
            (page["messages"].as_array()?.len() == 2 && page["totalMessages"] == 2).then_some(())
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_is_idempotent_and_only_reports_changes_that_could_lose_data() {
    use async_nats::jetstream::stream::Config;
    use std::time::Duration;
    let system = System::start(&[]).await;
    let setup = || {
        let output = crate::support::petbuddy()
            .arg("setup")
            .env("NATS_URL", system.url("nats"))
            .env("NATS_USER", "operator")
            .env(
                "NATS_PASSWORD",
                system.run["operator"]["password"].as_str().unwrap(),
            )
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (code, said) = setup();
    assert!(
        code == Some(0)
            && said.lines().count() >= 8
            && said.lines().all(|l| l.ends_with("as it should be")),
        "{said}"
    );

    let jetstream = system.operator().await;
    let change = async |name: &str, change: fn(&mut Config)| {
        let mut config = jetstream
            .get_stream(name)
            .await
            .unwrap()
            .cached_info()
            .config
            .clone();
        change(&mut config);
        jetstream.update_stream(config).await.unwrap();
    };
    change("DEAD", |c| c.max_age = Duration::from_secs(3_600)).await;
    change("EVENTS", |c| c.max_age = Duration::from_secs(60 * 86_400)).await;
    change("KV_sessions", |c| c.max_bytes = 1 << 20).await;
    let (code, said) = setup();
    assert_eq!(code, Some(0));
    assert!(
        said.contains("bucket sessions: updated max_bytes"),
        "{said}"
    );
    assert!(
        said.contains("stream DEAD: updated max_age")
            && said.contains("stream EVENTS: DIFFERS in max_age"),
        "{said}"
    );
    let kept = jetstream
        .get_stream("EVENTS")
        .await
        .unwrap()
        .cached_info()
        .config
        .max_age;
    assert_eq!(
        kept,
        Duration::from_secs(60 * 86_400),
        "drift is left as it is"
    );
    let bucket = jetstream
        .get_stream("KV_sessions")
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    assert_eq!(
        (bucket.max_bytes, bucket.allow_message_ttl),
        (64 << 20, true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_moves_a_sourced_queue_over_to_the_relay_without_losing_or_repeating_a_message() {
    use async_nats::jetstream::stream::{Source, SubjectTransform};
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let jetstream = system.operator().await;
    // As it was before the relay.
    let events = jetstream.get_stream("EVENTS").await.unwrap();
    events.delete_consumer("relay").await.unwrap();
    let outbound = jetstream.get_stream("OUTBOUND").await.unwrap();
    let mut config = outbound.cached_info().config.clone();
    let transform = SubjectTransform {
        source: "message.created.*.*.facebook.outbound.operator".into(),
        destination: "outbound.{{partition(16,1,2)}}.{{wildcard(1)}}.{{wildcard(2)}}.facebook"
            .into(),
    };
    config.sources = Some(vec![Source {
        name: "EVENTS".into(),
        subject_transforms: vec![transform],
        ..Source::default()
    }]);
    jetstream.update_stream(&config).await.unwrap();
    let before = staff.operator_message(&contact, "sourced").await;
    delivery(&staff, &before.id, "delivered").await;

    let output = system.petbuddy_as_operator(&["setup"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("consumer EVENTS/relay: created")
            && said.contains("stream OUTBOUND: updated sources"),
        "{said}"
    );
    let after = staff.operator_message(&contact, "relayed").await;
    delivery(&staff, &after.id, "delivered").await;
    let again = system.petbuddy_as_operator(&["setup"]).output().unwrap();
    let said = String::from_utf8(again.stdout).unwrap();
    assert!(
        said.lines().all(|l| l.ends_with("as it should be")),
        "{said}"
    );
    for message in [&before.id, &after.id] {
        assert_eq!(bot_calls_for(&system, message).await.len(), 1, "{message}");
    }
    system.assert_audit_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_for_a_cluster_says_at_once_that_there_is_none() {
    let system = System::shared().await;
    let mut setup = system.petbuddy_as_operator(&["setup"]);
    let output = setup.env("NATS_REPLICAS", "3").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("belongs to no cluster"), "{said}");
}
