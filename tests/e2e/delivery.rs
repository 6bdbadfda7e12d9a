//! Delivery to a bot that fails: retried with the same key until it works, or given up as a dead letter.

use mongodb::bson::{Document, doc, oid::ObjectId};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{AFTER_FAULT, Folder, SOON, Staff, System, documents, eventually};

/// The message's `delivery`, once it is as wanted.
async fn delivery(staff: &Staff<'_>, id: &str, state: &str) -> Document {
    let database = staff.system.database().await;
    let filter = doc! {"_id": ObjectId::parse_str(id).unwrap()};
    eventually(&format!("the message is {state}"), AFTER_FAULT, || async {
        let found = documents(&database, "messages", filter.clone()).await;
        let delivery = found.first()?.get_document("delivery").ok()?.clone();
        (delivery.get_str("state").ok()? == state).then_some(delivery)
    })
    .await
}

async fn calls(system: &System, id: &str) -> Vec<Value> {
    system.deliveries().await.into_iter().filter(|d| d["idempotency_key"] == id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_bot_is_called_again_and_a_refusal_becomes_a_dead_letter() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let operator_message =
        async |text: &str| staff.message(&contact, "operator", text).await["messageData"]["_id"].as_str().unwrap().to_owned();

    system.bot_mode(json!({"status": 503})).await;
    let id = operator_message("try again").await;
    let retrying = delivery(&staff, &id, "retrying").await;
    assert!(retrying.get_str("last_error").unwrap().contains("503"), "{retrying}");
    assert!(retrying.get_datetime("next_attempt_at").is_ok());
    system.bot_mode(json!({})).await;
    let delivered = delivery(&staff, &id, "delivered").await;
    assert!(delivered.get_i64("attempts").unwrap() >= 2, "{delivered}");
    assert!(calls(&system, &id).await.len() >= 2);

    system.bot_mode(json!({"status": 400})).await;
    let id = operator_message("never").await;
    delivery(&staff, &id, "failed").await;
    assert_eq!(calls(&system, &id).await.len(), 1, "a refusal is final");
    let dead = system.operator().await.get_stream("DEAD").await.unwrap();
    let letter = eventually("a dead letter", SOON, || async { dead.direct_get(1).await.ok() }).await;
    assert!(letter.subject.starts_with("dead.forwarder.outbound."), "{}", letter.subject);
    assert_eq!(letter.headers.get("Dead-Reason").unwrap().as_str(), "refused");
    let payload: Value = serde_json::from_slice(&letter.payload).unwrap();
    assert_eq!(payload["data"]["_id"], id.as_str());

    // Others are not held up by it.
    system.bot_mode(json!({})).await;
    let id = operator_message("fine").await;
    delivery(&staff, &id, "delivered").await;
    assert_eq!(system.nothing_is_amiss()["failed"], 1);
}

/// The company's open dead letters, as a manager sees them.
async fn letters(staff: &Staff<'_>) -> Vec<Value> {
    let (status, answer) = staff.get("/dead-letters").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["dead_letters"].as_array().unwrap().clone()
}

/// The one open letter there is, once it is for this reason.
async fn only_letter(staff: &Staff<'_>, reason: &str) -> Value {
    eventually(&format!("one dead letter, {reason}"), SOON, || async {
        let letters = letters(staff).await;
        (letters.len() == 1 && letters[0]["reason"] == reason).then(|| letters[0].clone())
    })
    .await
}

async fn replay(staff: &Staff<'_>, letter: &Value) {
    let (status, answer) = staff.post(&format!("/dead-letters/{}/replay", letter["seq"]), json!({})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reason_is_named_and_what_is_mended_can_be_replayed() {
    let environment = [("FORWARDER_DEADLINE", "4s"), ("FORWARDER_MAX_RETRY_PAUSE", "1s")];
    let system = System::start_with(Folder::new(), &[], &environment).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let operator_message =
        async |contact: &str, text: &str| staff.message(contact, "operator", text).await["messageData"]["_id"].as_str().unwrap().to_owned();

    // Refused, and past its deadline: the bot is mended.
    for (mode, reason) in [(json!({"status": 400}), "refused"), (json!({"status": 503}), "expired")] {
        system.bot_mode(mode).await;
        let id = operator_message(&contact, reason).await;
        let letter = only_letter(&staff, reason).await;
        assert_eq!(letter["message_id"], id.as_str(), "{letter}");
        delivery(&staff, &id, "failed").await;
        system.bot_mode(json!({})).await;
        replay(&staff, &letter).await;
        delivery(&staff, &id, "delivered").await;
    }

    // A contact that is not there: it is entered.
    let (missing, jetstream) = (ObjectId::new().to_hex(), system.operator().await);
    let id = operator_message(&missing, "who?").await;
    let letter = only_letter(&staff, "missing_data").await;
    let event = json!({
        "id": ObjectId::new().to_hex(), "type": "contact.created", "version": 1, "occurred_at": "2026-11-23T00:00:00.000Z",
        "actor": {"kind": "system"}, "company_id": staff.company,
        "data": {"_id": missing, "company_id": staff.company, "fullName": "Late Comer", "created_at": "2026-11-23T00:00:00.000Z"},
    });
    let subject = format!("contact.created.{}.{missing}", staff.company);
    jetstream.publish(subject, event.to_string().into()).await.unwrap().await.unwrap();
    eventually("the contact is there", SOON, || async { staff.get(&format!("/contacts/{missing}")).await.0.is_success().then_some(()) })
        .await;
    replay(&staff, &letter).await;
    delivery(&staff, &id, "delivered").await;

    // A platform that nobody carries: replaying it makes another letter, which points to the first.
    let subject = format!("outbound.0.{}.{contact}.telegram", staff.company);
    jetstream.publish(subject, "{}".into()).await.unwrap().await.unwrap();
    let first = only_letter(&staff, "unknown_platform").await;
    replay(&staff, &first).await;
    eventually("another letter", SOON, || async {
        let letters = letters(&staff).await;
        (letters.len() == 1 && letters[0]["replay_of"] == first["seq"]).then_some(())
    })
    .await;
    system.nothing_is_amiss();
}
