//! Messages that have reached the customer by another way: an echo of the platform's own app, and
//! history. They are stored once, shown as delivered, and never sent.

use std::time::Duration;

use contract::Timestamp;
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::delivery::{bot_calls_for, delivery};
use crate::support::{AFTER_FAULT, System, eventually, id_of};

fn from_operator(contact: &str, more: Value) -> Value {
    let mut body = json!({
        "contact_id": contact,
        "role": "operator",
        "direction": "outbound",
        "platform": "facebook",
        "content": "typed elsewhere",
    });
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_customer_has_from_elsewhere_is_stored_once_and_never_sent() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let long_ago = Timestamp::now().millis() - Duration::from_secs(25 * 60 * 60).as_millis() as i64;
    let long_ago = Timestamp::from_millis(long_ago).to_string();
    for more in [
        json!({"external_message_id": "mid.echo", "sent_elsewhere": true}),
        json!({"created_at": long_ago}),
    ] {
        let body = from_operator(&contact, more);
        let answers = join_all((0..10).map(|_| staff.post("/messages", body.clone()))).await;
        let (created, refused): (Vec<_>, Vec<_>) = answers
            .into_iter()
            .partition(|(status, _)| *status == StatusCode::CREATED);
        let has_key = body.get("external_message_id").is_some();
        assert_eq!(created.len(), if has_key { 1 } else { 10 });
        let is_conflict = |(status, _): &(StatusCode, Value)| *status == StatusCode::CONFLICT;
        assert!(refused.iter().all(is_conflict), "{refused:?}");
        // The message after it has its turn only when the one before it is done with.
        let next = staff.operator_message(&contact, "to be sent").await;
        delivery(&staff, &next.id, "delivered").await;
        for (_, answer) in created {
            assert_eq!(answer["forwarding"]["skipped"], true, "{answer}");
            let (_, shown) = staff.get_message(id_of(&answer)).await;
            let shown = &shown["messageData"];
            assert_eq!(shown["delivered"], true, "{shown}");
            assert_eq!(shown["sent_elsewhere"], true, "{shown}");
            assert!(shown.get("delivery").is_none(), "{shown}");
            assert!(bot_calls_for(system, id_of(&answer)).await.is_empty());
        }
    }
}

/// The platform tells of each message that it has sent, often before the bot has answered.
#[tokio::test(flavor = "multi_thread")]
async fn an_echo_of_an_operators_message_is_recognised_also_during_the_call() {
    let system = System::start(&["--replicas", "gateway=2"]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    for (n, delay_ms) in [(0, 0), (1, 1_500), (2, 0)] {
        let id_given = format!("m_{n}");
        let body = json!({"recipient_id": "9", "message_id": id_given});
        let mode = json!({"status": 200, "body": body, "delay_ms": delay_ms});
        system.bot_mode(mode).await;
        let sent = staff.operator_message(&contact, "by the bot").await;
        // The call is under way, or has ended.
        let is_called =
            || async { (!bot_calls_for(&system, &sent.id).await.is_empty()).then_some(()) };
        eventually("the bot is called", AFTER_FAULT, is_called).await;
        let echo = from_operator(
            &contact,
            json!({"external_message_id": id_given, "sent_elsewhere": true}),
        );
        let echoes = (0..10).map(|e| staff.post_to(e % 2, "/messages", &[], &echo));
        for answer in join_all(echoes).await {
            assert_eq!(answer.status, StatusCode::CONFLICT, "{n}: {answer:?}");
            assert_eq!(
                answer.body["existing_id"],
                json!(sent.id),
                "{n}: {answer:?}"
            );
        }
        let (_, shown) = staff.get_message(&sent.id).await;
        let delivery = &shown["messageData"]["delivery"];
        assert_eq!(delivery["external_message_id"], json!(id_given), "{shown}");
    }
    system.assert_audit_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platforms_id_is_unique_within_its_conversation_only() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contacts = [staff.new_contact().await, staff.new_contact().await];
    for platform in ["telegram", "facebook", "web"] {
        for expected in [StatusCode::CREATED, StatusCode::CONFLICT] {
            for contact in &contacts {
                let body = json!({
                    "contact_id": contact,
                    "role": "user",
                    "direction": "inbound",
                    "platform": platform,
                    "content": "hi",
                    "external_message_id": "42",
                });
                let (status, answer) = staff.post("/messages", body).await;
                assert_eq!(status, expected, "{platform}: {answer}");
                if status == StatusCode::CREATED {
                    let (status, shown) = staff.get_message(id_of(&answer)).await;
                    assert_eq!(status, StatusCode::OK, "{shown}");
                }
            }
        }
    }
}
