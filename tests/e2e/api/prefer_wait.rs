//! `Prefer: wait=N`: the answer to a create says how the delivery ended, as the Express backend's
//! answer did.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{AFTER_FAULT, Answer, Folder, Staff, System, eventually};

/// At most a quarter of these, [`MAX_WAITS`], may wait for a delivery.
const MAX_IN_FLIGHT: &str = "40";
const MAX_WAITS: usize = 10;

async fn post(staff: &Staff<'_>, contact: &str, text: &str, headers: &[(&str, &str)]) -> Answer {
    let body = json!({"contact_id": contact, "role": "operator", "platform": "facebook", "direction": "outbound", "content": text});
    let answer = staff.post_to(0, "/messages", headers, &body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn prefer_wait_answers_with_the_outcome_of_the_delivery() {
    let system = System::start_with(Folder::new(), &[], &[("MAX_IN_FLIGHT", MAX_IN_FLIGHT)]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;

    // Delivered. A repetition with the same key says so too.
    let key = ("Idempotency-Key", "once");
    let first = post(&staff, &contact, "take it", &[("Prefer", "wait=20"), key]).await;
    let forwarding = &first.body["forwarding"];
    assert_eq!(
        (
            &forwarding["success"],
            &forwarding["state"],
            &forwarding["attempts"]
        ),
        (&json!(true), &json!("delivered"), &json!(1))
    );
    assert!(forwarding["delivered_at"].is_string());
    assert_eq!(
        (first.header("preference-applied"), &first.body["warning"]),
        ("wait=20", &Value::Null)
    );
    assert_eq!(first.body["messageData"]["delivered"], true);
    let again = post(&staff, &contact, "take it", &[("Prefer", "wait=20"), key]).await;
    assert_eq!(
        (
            again.header("idempotency-replayed"),
            again.header("preference-applied")
        ),
        ("true", "wait=20")
    );
    assert_eq!(
        (&again.body["forwarding"], &again.body["messageData"]["_id"]),
        (forwarding, &first.body["messageData"]["_id"])
    );

    // No wait is requested, the header is invalid, or the message is not for the bot.
    for headers in [
        &[][..],
        &[("Prefer", "wait=soon")],
        &[("Prefer", "respond-async")],
    ] {
        let answer = post(&staff, &contact, "no wait", headers).await;
        assert_eq!(
            (
                answer.header("preference-applied"),
                &answer.body["forwarding"]
            ),
            ("", &json!({"queued": true})),
            "{headers:?}"
        );
    }
    let body = json!({"contact_id": contact, "role": "user", "platform": "facebook", "direction": "inbound", "content": "hello"});
    let inbound = staff
        .post_to(0, "/messages", &[("Prefer", "wait=5")], &body)
        .await;
    assert_eq!(
        (
            inbound.header("preference-applied"),
            &inbound.body["forwarding"]["skipped"]
        ),
        ("", &json!(true))
    );

    // The bot refuses the message.
    system.bot_mode(json!({"status": 400})).await;
    let failed = post(&staff, &contact, "never", &[("Prefer", "wait=30")]).await;
    let forwarding = &failed.body["forwarding"];
    assert_eq!(
        (
            &forwarding["success"],
            &forwarding["failed"],
            &forwarding["state"]
        ),
        (&json!(false), &json!(true), &json!("failed"))
    );
    assert!(
        forwarding["error"].as_str().unwrap().contains("400"),
        "{forwarding}"
    );
    assert_eq!(
        failed.body["warning"],
        "Message saved, but forwarding to the platform failed"
    );

    // The bot fails: the wait ends before the retries do.
    system.bot_mode(json!({"status": 503})).await;
    let other = staff.new_contact().await;
    let pending = post(&staff, &other, "later", &[("Prefer", "wait=1")]).await;
    let forwarding = &pending.body["forwarding"];
    assert_eq!(
        (&forwarding["queued"], &forwarding["success"]),
        (&json!(true), &Value::Null)
    );
    assert!(
        forwarding["attempts"].as_u64().unwrap() >= 1 && forwarding["state"] != "delivered",
        "{forwarding}"
    );
    assert!(
        pending.body["warning"]
            .as_str()
            .unwrap()
            .contains("tried again"),
        "{}",
        pending.body
    );

    // The bot hangs: the wait ends by its own limit, and 0 s means the shortest wait.
    system.bot_mode(json!({"hang_ratio": 1.0})).await;
    let other = staff.new_contact().await;
    let started = Instant::now();
    let hanging = post(&staff, &other, "hello?", &[("Prefer", "wait=0")]).await;
    assert_eq!(
        (
            hanging.header("preference-applied"),
            &hanging.body["forwarding"]["queued"]
        ),
        ("wait=1", &json!(true))
    );
    assert!(started.elapsed() >= Duration::from_secs(1));

    // Beyond the limit of waits a request is answered without a wait, but stored.
    let other = staff.new_contact().await;
    let many = (0..MAX_WAITS + 3).map(|n| {
        let (staff, other) = (&staff, &other);
        async move { post(staff, other, &format!("many {n}"), &[("Prefer", "wait=4")]).await }
    });
    let granted = join_all(many)
        .await
        .iter()
        .filter(|answer| answer.header("preference-applied") == "wait=4")
        .count();
    assert_eq!(granted, MAX_WAITS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_wait_survives_a_nats_reconnect_and_ends_when_its_gateway_stops() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let called = async |count: usize| {
        eventually("the bot is called", AFTER_FAULT, || async {
            (system.bot_calls().await.len() >= count).then_some(())
        })
        .await;
    };
    system.bot_mode(json!({"delay_ms": 2_000})).await;
    let fault = async {
        called(1).await;
        system.kill_and_await_restart("nats-server").await;
    };
    let (answer, ()) = tokio::join!(
        post(&staff, &contact, "in between", &[("Prefer", "wait=30")]),
        fault
    );
    assert_eq!(
        answer.body["forwarding"]["state"], "delivered",
        "{}",
        answer.body
    );

    system.await_ready().await;
    system.bot_mode(json!({"hang_ratio": 1.0})).await;
    let (started, calls) = (Instant::now(), system.bot_calls().await.len());
    let stop = async {
        called(calls + 1).await;
        system.signal("-TERM", "gateway");
    };
    let (answer, ()) = tokio::join!(
        post(&staff, &contact, "cut short", &[("Prefer", "wait=30")]),
        stop
    );
    assert_eq!(answer.body["forwarding"]["queued"], true, "{}", answer.body);
    assert!(
        started.elapsed() < Duration::from_secs(25),
        "the gateway stops although somebody waits"
    );
}
