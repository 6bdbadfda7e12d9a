//! Repeated creates, one after the other and 50 at once, on two gateways: stored once and answered
//! alike. Within the log's duplicate window the log recognises the repetition; after the window the
//! database does.

use std::time::Duration;

use contract::event::{Actor, Envelope, Event, MessageRead};
use contract::{Id, Timestamp};
use futures_util::future::join_all;
use mongodb::bson::{doc, oid::ObjectId};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{Answer, SOON, Staff, System, documents, eventually, id_of};

/// Concurrent repetitions.
const AT_ONCE: usize = 50;
/// The shortest duplicate window that nats-server accepts.
const SHORTEST_WINDOW: Duration = Duration::from_millis(100);

/// A message with an `Idempotency-Key`, with an `external_message_id`, or with both.
struct Case {
    key: Option<&'static str>,
    external: Option<&'static str>,
}

const CASES: [Case; 3] = [
    Case {
        key: Some("key-1"),
        external: None,
    },
    Case {
        key: None,
        external: Some("mid-1"),
    },
    Case {
        key: Some("key-2"),
        external: Some("mid-2"),
    },
];

impl Case {
    async fn post(
        &self,
        staff: &Staff<'_>,
        gateway: usize,
        contact: &str,
        content: &str,
    ) -> Answer {
        let mut body = json!({"contact_id": contact, "role": "user", "platform": "facebook", "direction": "inbound", "content": content});
        if let Some(id) = self.external {
            body["external_message_id"] = json!(id);
        }
        let headers: Vec<(&str, &str)> = self
            .key
            .map(|key| ("Idempotency-Key", key))
            .into_iter()
            .collect();
        staff.post_to(gateway, "/messages", &headers, &body).await
    }

    /// Asserts that `answer` repeats `first`, as it must for a repeated request.
    fn is_repetition(&self, answer: &Answer, first: &Value) {
        match self.key {
            Some(_) => {
                assert_eq!(
                    (answer.status, answer.header("idempotency-replayed")),
                    (StatusCode::CREATED, "true"),
                    "{answer:?}"
                );
                assert_eq!(&answer.body, first);
            }
            None => is_conflict(answer, first),
        }
    }
}

fn is_conflict(answer: &Answer, first: &Value) {
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (StatusCode::CONFLICT, &json!("DUPLICATE_KEY")),
        "{answer:?}"
    );
    assert_eq!(answer.body["existing_id"], id_of(first));
}

/// Tries every kind of repetition of messages that are stored already.
async fn repetitions(staff: &Staff<'_>, contact: &str, firsts: &[Value]) {
    for (case, first) in CASES.iter().zip(firsts) {
        for gateway in [0, 1] {
            case.is_repetition(
                &case.post(staff, gateway, contact, "as before").await,
                first,
            );
        }
        let changed = case.post(staff, 1, contact, "another text").await;
        match case.key {
            Some(_) => {
                let expected = (
                    StatusCode::UNPROCESSABLE_ENTITY,
                    &json!("IDEMPOTENCY_KEY_REUSED"),
                );
                assert_eq!(
                    (changed.status, &changed.body["code"]),
                    expected,
                    "{changed:?}"
                );
            }
            None => is_conflict(&changed, first),
        }
        let at_once = (0..AT_ONCE).map(|n| case.post(staff, n % 2, contact, "as before"));
        join_all(at_once)
            .await
            .iter()
            .for_each(|answer| case.is_repetition(answer, first));
    }
    // The same `external_message_id` with another key, or with none.
    let other_key = Case {
        key: Some("key-3"),
        external: CASES[2].external,
    };
    is_conflict(
        &other_key.post(staff, 0, contact, "as before").await,
        &firsts[2],
    );
    let no_key = Case {
        key: None,
        external: CASES[2].external,
    };
    is_conflict(
        &no_key.post(staff, 1, contact, "as before").await,
        &firsts[2],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_message_is_stored_once_within_the_duplicate_window_and_after_it() {
    let system = System::start(&["--replicas", "gateway=2"]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;

    // Of concurrent creates one is stored, and the other answers name its id.
    let mut firsts = Vec::new();
    for case in &CASES {
        let answers =
            join_all((0..AT_ONCE).map(|n| case.post(&staff, n % 2, &contact, "as before"))).await;
        let is_first = |a: &&Answer| {
            a.status == StatusCode::CREATED && a.header("idempotency-replayed").is_empty()
        };
        let stored: Vec<&Answer> = answers.iter().filter(is_first).collect();
        assert_eq!(stored.len(), 1, "{answers:?}");
        let first = stored[0].body.clone();
        answers
            .iter()
            .filter(|a| !is_first(a))
            .for_each(|answer| case.is_repetition(answer, &first));
        firsts.push(first);
    }
    repetitions(&staff, &contact, &firsts).await;
    for first in &firsts {
        assert_eq!(staff.get_message(id_of(first)).await.0, StatusCode::OK);
    }

    forget_message_ids(&system, &staff, &contact).await;
    repetitions(&staff, &contact, &firsts).await;

    let database = system.database().await;
    let of_company = doc! {"company_id": ObjectId::parse_str(&staff.company).unwrap()};
    assert_eq!(
        documents(&database, "messages", of_company).await.len(),
        CASES.len()
    );
    let dead = system.operator().await.get_stream("DEAD").await.unwrap();
    assert_eq!(
        dead.cached_info().state.messages,
        0,
        "a duplicate got into the log"
    );
}

/// Makes the log forget every `Nats-Msg-Id`, as it does when the duplicate window has passed.
async fn forget_message_ids(system: &System, staff: &Staff<'_>, contact: &str) {
    let jetstream = system.operator().await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    let window = std::mem::replace(&mut config.duplicate_window, SHORTEST_WINDOW);
    jetstream.update_stream(&config).await.unwrap();
    let event = Event::MessageRead(MessageRead {
        contact_id: contact.parse().unwrap(),
        platform: None,
    });
    let envelope = Envelope::new(
        Timestamp::now(),
        Actor::System,
        staff.company.parse().unwrap(),
        event,
    );
    let probe = Id::generate(Timestamp::now()).to_string();
    let is_duplicate = async || {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", probe.as_str());
        let published = jetstream.publish_with_headers(
            envelope.subject().to_string(),
            headers,
            envelope.to_json().unwrap().into(),
        );
        published.await.unwrap().await.unwrap().duplicate
    };
    assert!(!is_duplicate().await);
    eventually("the log forgets message ids", SOON, || async {
        (!is_duplicate().await).then_some(())
    })
    .await;
    config.duplicate_window = window;
    jetstream.update_stream(&config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn repeating_a_message_that_the_log_no_longer_has_is_a_conflict() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let first = CASES[0].post(&staff, 0, &contact, "as before").await.body;
    assert_eq!(staff.get_message(id_of(&first)).await.0, StatusCode::OK);
    let purged = system.operator().await.get_stream("EVENTS").await.unwrap();
    purged
        .delete_message(first["seq"].as_u64().unwrap())
        .await
        .unwrap();
    // Within the window only the log knows the key, and the key owner's event is gone.
    let answer = CASES[0].post(&staff, 0, &contact, "as before").await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (StatusCode::CONFLICT, &json!("DUPLICATE_KEY")),
        "{answer:?}"
    );
    forget_message_ids(&system, &staff, &contact).await;
    is_conflict(
        &CASES[0].post(&staff, 0, &contact, "as before").await,
        &first,
    );
}
