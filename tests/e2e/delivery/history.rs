//! What the forwarder makes of a message about which something has happened before its call: it was
//! delivered already, deleted or edited.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::delivery::{bot_calls_for, delivery};
use crate::support::{AFTER_FAULT, SOON, Staff, System, eventually};

/// The shortest duplicate window that nats-server accepts.
const SHORTEST_WINDOW: Duration = Duration::from_millis(100);
/// Messages of one conversation.
const MESSAGES: usize = 12;

/// Gives a company the token for Facebook, for which its messages wait.
async fn connect(staff: &Staff<'_>) {
    let body = json!({"access_token": staff.token_for("facebook")});
    let (status, answer) = staff
        .send(Method::PUT, "/integrations/facebook", body)
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_copied_once_more_are_settled_without_a_second_call() {
    let system = System::start(&["--replicas", "forwarder=2"]).await;
    let staff = system.new_company().await;
    let contacts = [staff.new_contact().await, staff.new_contact().await];
    for contact in &contacts {
        for n in 0..MESSAGES {
            staff.operator_message(contact, &format!("{n}")).await;
        }
    }
    let jetstream = system.operator().await;
    let outbound = jetstream.get_stream("OUTBOUND").await.unwrap();
    let is_empty = || async {
        let info = jetstream.get_stream("OUTBOUND").await.ok()?;
        (info.cached_info().state.messages == 0).then_some(())
    };
    eventually("all are delivered", SOON, is_empty).await;
    // Otherwise the stream itself would refuse the second copies.
    let mut config = outbound.cached_info().config.clone();
    config.duplicate_window = SHORTEST_WINDOW;
    jetstream.update_stream(&config).await.unwrap();
    let events = jetstream.get_stream("EVENTS").await.unwrap();
    events.reset_consumer("relay", Some(1)).await.unwrap();
    let copied_again = || async {
        let relay = events.get_consumer::<pull::Config>("relay").await.ok()?;
        let state = jetstream.get_stream("OUTBOUND").await.ok()?;
        let last = state.cached_info().state.last_sequence;
        let info = relay.cached_info();
        let is_done = info.num_pending == 0 && info.num_ack_pending == 0;
        (is_done && last >= 4 * MESSAGES as u64).then_some(())
    };
    eventually("all are copied once more", AFTER_FAULT, copied_again).await;
    eventually("the copies are settled", AFTER_FAULT, is_empty).await;
    let calls = system.bot_calls().await;
    assert_eq!(calls.len(), 2 * MESSAGES, "a message was called for twice");
    system.assert_audit_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_deleted_while_it_waits_is_never_sent() {
    let system = System::shared().await;
    let staff = system.new_unconnected_company().await;
    let contact = staff.new_contact().await;
    let deleted = staff.operator_message(&contact, "a mistake").await;
    let kept = staff.operator_message(&contact, "as meant").await;
    delivery(&staff, &deleted.id, "held").await;
    let body = json!({"_id": deleted.id});
    let (status, answer) = staff.send(Method::DELETE, "/messages", body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    connect(&staff).await;
    delivery(&staff, &kept.id, "delivered").await;
    delivery(&staff, &deleted.id, "cancelled").await;
    assert!(bot_calls_for(system, &deleted.id).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_edited_while_it_waits_is_sent_as_it_reads_then() {
    let system = System::shared().await;
    let staff = system.new_unconnected_company().await;
    let contact = staff.new_contact().await;
    let message = staff.operator_message(&contact, "come at five").await;
    delivery(&staff, &message.id, "held").await;
    let body = json!({"_id": message.id, "content": "come at six"});
    let (status, answer) = staff.send(Method::PATCH, "/messages", body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    connect(&staff).await;
    delivery(&staff, &message.id, "delivered").await;
    let calls = bot_calls_for(system, &message.id).await;
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].body["content"], "come at six");
}
