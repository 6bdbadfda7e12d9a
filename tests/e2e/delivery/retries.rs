//! Delivery to a failing bot: retried with the same key until it succeeds, or ended by a dead
//! letter. Order over many conversations is in `ordering`.

use serde_json::{Value, json};

use crate::support::delivery::{bot_calls_for, delivery};
use crate::support::{AFTER_FAULT, SOON, System, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_bot_is_retried_and_a_refusal_becomes_a_dead_letter() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let operator_message = async |text: &str| staff.operator_message(&contact, text).await.id;

    system.bot_mode(json!({"status": 503})).await;
    let id = operator_message("try again").await;
    let retrying = delivery(&staff, &id, "retrying").await;
    assert!(
        retrying.get_str("last_error").unwrap().contains("503"),
        "{retrying}"
    );
    assert!(retrying.get_datetime("next_attempt_at").is_ok());
    system.bot_mode(json!({})).await;
    let delivered = delivery(&staff, &id, "delivered").await;
    assert!(delivered.get_i64("attempts").unwrap() >= 2, "{delivered}");
    assert!(bot_calls_for(&system, &id).await.len() >= 2);

    system.bot_mode(json!({"status": 400})).await;
    let id = operator_message("never").await;
    delivery(&staff, &id, "failed").await;
    assert_eq!(
        bot_calls_for(&system, &id).await.len(),
        1,
        "a refusal is final"
    );
    let dead = system.operator().await.get_stream("DEAD").await.unwrap();
    let dead_letter = eventually("a dead letter", SOON, || async {
        dead.direct_get(1).await.ok()
    })
    .await;
    assert!(
        dead_letter.subject.starts_with("dead.forwarder.outbound."),
        "{}",
        dead_letter.subject
    );
    assert_eq!(
        dead_letter.headers.get("Dead-Reason").unwrap().as_str(),
        "refused"
    );
    let payload: Value = serde_json::from_slice(&dead_letter.payload).unwrap();
    assert_eq!(payload["data"]["_id"], id.as_str());

    // The dead letter delays no later message.
    system.bot_mode(json!({})).await;
    let id = operator_message("fine").await;
    delivery(&staff, &id, "delivered").await;
    assert_eq!(system.assert_audit_clean()["failed"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_step_that_the_log_refuses_is_retried_without_calling_the_bot_again() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let jetstream = system.operator().await;
    for (n, (mode, state)) in [(json!({"status": 400}), "failed"), (json!({}), "delivered")]
        .into_iter()
        .enumerate()
    {
        let slow = json!({"delay_ms": 2_000, "status": mode["status"]});
        system.bot_mode(slow).await;
        let id = staff.operator_message(&contact, state).await.id;
        eventually("the bot is called", SOON, || async {
            (!bot_calls_for(&system, &id).await.is_empty()).then_some(())
        })
        .await;
        let events = jetstream.get_stream("EVENTS").await.unwrap();
        let mut full = events.cached_info().config.clone();
        full.max_messages = i64::try_from(events.cached_info().state.messages).unwrap();
        jetstream.update_stream(&full).await.unwrap();
        let refused = again(&system).await;
        eventually("the log refuses it twice", AFTER_FAULT, || async {
            (again(&system).await >= refused + 2).then_some(())
        })
        .await;
        full.max_messages = -1;
        jetstream.update_stream(&full).await.unwrap();
        delivery(&staff, &id, state).await;
        assert_eq!(bot_calls_for(&system, &id).await.len(), 1, "{state}");
        let dead_letters = jetstream
            .get_stream("DEAD")
            .await
            .unwrap()
            .cached_info()
            .state
            .messages;
        assert_eq!(dead_letters, 1, "{n}: the refused one's");
    }
    system.assert_audit_clean();
}

/// How often the forwarder could not finish a message and tried again.
async fn again(system: &System) -> u64 {
    let metrics = system
        .http
        .get(format!("{}/metrics", system.services("forwarder")[0]))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("forward_again_total"));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}
