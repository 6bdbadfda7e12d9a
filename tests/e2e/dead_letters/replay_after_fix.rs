//! For each reason: a message becomes a dead letter, the cause is removed, and a replay delivers
//! the message. Also dead letters of the persister, whose replay stores a message.

use mongodb::bson::{Document, doc, oid::ObjectId};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::dead_letters::{
    failed_again, keys_delivered, list_dead_letters, only_dead_letter, open_dead_letters, outbound,
    replay, send_operator_message,
};
use crate::support::delivery::delivery;
use crate::support::{Folder, SOON, System, documents, eventually};

/// An event as a gateway stores it.
fn event(company: &str, kind: &str, data: &Value) -> Value {
    json!({"id": ObjectId::new().to_hex(), "type": kind, "version": 1, "occurred_at": contract::Timestamp::now().to_string(),
        "actor": {"kind": "system"}, "company_id": company, "data": data})
}

fn operators_message(company: &str, contact: &str, id: &str) -> Value {
    let data = json!({"_id": id, "company_id": company, "contact_id": contact, "role": "operator", "platform": "facebook",
        "direction": "outbound", "content": "hello", "attachments": [], "created_at": contract::Timestamp::now().to_string()});
    event(company, "message.created", &data)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reason_is_named_and_a_replay_after_the_fix_delivers() {
    let environment = [
        ("FORWARDER_DEADLINE", "4s"),
        ("FORWARDER_MAX_RETRY_PAUSE", "1s"),
    ];
    let system = System::start_with(Folder::new(), &[], &environment).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let jetstream = system.operator().await;
    let store = async |subject: String, payload: &Value| {
        jetstream
            .publish(subject, payload.to_string().into())
            .await
            .unwrap()
            .await
            .unwrap();
    };

    // Refused, and past its deadline: the bot is mended, and the message older than the deadline
    // when it is replayed. The last was taken by a bot that could not say so; then it says that it
    // has it.
    for (ill, reason, mended) in [
        (400, "refused", json!({})),
        (503, "expired", json!({})),
        (503, "expired", json!({"status": 409})),
    ] {
        system.bot_mode(json!({"status": ill})).await;
        let id = send_operator_message(&staff, &contact, reason).await;
        delivery(&staff, &id, "failed").await;
        let dead_letter = only_dead_letter(&staff, reason).await;
        assert_eq!(
            (&dead_letter["message_id"], &dead_letter["contact_id"]),
            (&json!(id), &json!(contact)),
            "{dead_letter}"
        );
        system.bot_mode(mended).await;
        replay(&staff, dead_letter.seq).await;
        delivery(&staff, &id, "delivered").await;
    }
    system.bot_mode(json!({})).await;

    // Missing contact: fixed by creating the contact.
    let missing = ObjectId::new().to_hex();
    let id = send_operator_message(&staff, &missing, "who?").await;
    delivery(&staff, &id, "failed").await;
    let dead_letter = only_dead_letter(&staff, "missing_data").await;
    let late = json!({"_id": missing, "company_id": staff.company, "fullName": "Late Comer", "created_at": "2026-11-23T00:00:00.000Z"});
    store(
        format!("contact.created.{}.{missing}", staff.company),
        &event(&staff.company, "contact.created", &late),
    )
    .await;
    eventually("the contact is there", SOON, || async {
        staff
            .get(&format!("/contacts/{missing}"))
            .await
            .0
            .is_success()
            .then_some(())
    })
    .await;
    replay(&staff, dead_letter.seq).await;
    delivery(&staff, &id, "delivered").await;

    // A platform that nobody carries: as long as that is so, a replay makes another dead letter, which
    // points to the first.
    let id = send_operator_message(&staff, &contact, "to be sent astray").await;
    delivery(&staff, &id, "delivered").await;
    let astray = ObjectId::new().to_hex();
    let payload = operators_message(&staff.company, &contact, &astray);
    store(
        format!("outbound.0.{}.{contact}.myspace", staff.company),
        &payload,
    )
    .await;
    let first = only_dead_letter(&staff, "unknown_platform").await;
    replay(&staff, first.seq).await;
    let second = failed_again(&staff, &first).await;
    // The sender corrects the subject and sends the message again, so the dead letter is not needed.
    let place = outbound_subject(&system, &staff.company, &contact).await;
    let body = json!({"reason": "was for facebook, and is sent there"});
    let (status, answer) = staff
        .post(&format!("/dead-letters/{}/discard", second.seq), body)
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    store(place, &payload).await;
    eventually("it is delivered", SOON, || async {
        keys_delivered(&system, &contact)
            .await
            .contains(&astray)
            .then_some(())
    })
    .await;
    assert!(list_dead_letters(&staff, "").await.is_empty());
    system.assert_audit_clean();
}

/// The subject in `OUTBOUND` of this conversation's messages to Facebook.
async fn outbound_subject(system: &System, company: &str, contact: &str) -> String {
    // The subject is in a dead letter of the forwarder.
    let dead = system.operator().await.get_stream("DEAD").await.unwrap();
    let dead_letter = dead
        .direct_get_first_for_subject(format!(
            "dead.forwarder.outbound.*.{company}.{contact}.facebook"
        ))
        .await
        .unwrap();
    dead_letter
        .subject
        .strip_prefix("dead.forwarder.")
        .unwrap()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn replaying_a_persister_dead_letter_stores_the_message_without_delivering_it_again() {
    let system = System::start(&["--replicas", "persister=2"]).await;
    let staff = system.new_company().await;
    let (contact, id) = (staff.new_contact().await, ObjectId::new());
    let database = system.database().await;
    let messages = database.collection::<Document>("messages");
    // A document that is not from the log has the same unique key.
    let company: ObjectId = staff.company.parse().unwrap();
    let of_contact: ObjectId = contact.parse().unwrap();
    let foreign = doc! {
        "company_id": company, "contact_id": of_contact, "platform": "facebook",
        "external_message_id": "mid.7",
    };
    let foreign = messages.insert_one(foreign).await.unwrap().inserted_id;
    let mut payload = operators_message(&staff.company, &contact, &id.to_hex());
    payload["data"]["external_message_id"] = json!("mid.7");
    let subject = format!(
        "message.created.{}.{contact}.facebook.outbound.operator",
        staff.company
    );
    system
        .operator()
        .await
        .publish(subject.clone(), payload.to_string().into())
        .await
        .unwrap()
        .await
        .unwrap();
    let dead_letter = only_dead_letter(&staff, "duplicate_key").await;
    assert_eq!(
        (
            &dead_letter["service"],
            &dead_letter["subject"],
            &dead_letter["stream"]
        ),
        (&json!("persister"), &json!(subject), &json!("EVENTS"))
    );
    assert_eq!(dead_letter["event_seq"], dead_letter["stream_seq"]);
    eventually("the bot has it all the same", SOON, || async {
        (keys_delivered(&system, &contact).await.len() == 1).then_some(())
    })
    .await;
    assert_eq!(system.assert_audit_clean()["refused"], 1);

    // As long as the cause is there, it is another dead letter, of the same place.
    replay(&staff, dead_letter.seq).await;
    let again = failed_again(&staff, &dead_letter).await;
    assert_eq!(again["event_seq"], dead_letter["event_seq"]);
    messages.delete_one(doc! {"_id": foreign}).await.unwrap();
    replay(&staff, again.seq).await;
    let delivery = delivery(&staff, &id.to_hex(), "delivered").await;
    assert_eq!(delivery.get_i64("attempts").unwrap(), 1, "{delivery}");
    eventually("nothing awaits the bot", SOON, || async {
        (outbound(&system).await.1 == 0).then_some(())
    })
    .await;
    assert_eq!(keys_delivered(&system, &contact).await, [id.to_hex()]);
    assert!(list_dead_letters(&staff, "").await.is_empty());
    system.assert_audit_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_edit_does_not_undo_a_newer_edit() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let database = system.database().await;
    // MongoDB refuses some documents as long as the collection has this validator.
    let rule = async |rule: Document| {
        drop(
            database
                .run_command(doc! {"collMod": "messages", "validator": rule})
                .await
                .unwrap(),
        )
    };
    let edit = async |id: &str, text: &str| {
        let (status, answer) = staff
            .send(
                Method::PATCH,
                "/messages",
                json!({"_id": id, "content": text}),
            )
            .await;
        assert!(status.is_success(), "{answer}");
    };
    let content = async |id: &str| {
        let filter = doc! {"_id": id.parse::<ObjectId>().unwrap()};
        documents(&database, "messages", filter).await[0]
            .get_str("content")
            .unwrap()
            .to_owned()
    };
    let created = async |text: &str| staff.customer_message(&contact, text).await.id;
    let (overtaken, alone) = (created("first").await, created("first").await);
    rule(doc! {"content": {"$ne": "refused"}}).await;
    for id in [&overtaken, &alone] {
        edit(id, "refused").await;
    }
    let refused = open_dead_letters(&staff, 2).await;
    assert!(
        refused
            .iter()
            .all(|dead_letter| dead_letter["reason"] == "failed"
                && dead_letter["service"] == "persister"),
        "{refused:?}"
    );
    rule(doc! {}).await;
    edit(&overtaken, "newest").await;
    for dead_letter in &refused {
        replay(&staff, dead_letter.seq).await;
    }
    eventually("the edit that was refused is there", SOON, || async {
        (content(&alone).await == "refused").then_some(())
    })
    .await;
    // The persister has applied both replays once this later message is readable.
    let marker = created("after both").await;
    let (status, _) = staff.get(&format!("/messages/{marker}")).await;
    assert_eq!(
        (status, content(&overtaken).await.as_str()),
        (StatusCode::OK, "newest")
    );
    assert!(list_dead_letters(&staff, "").await.is_empty());
}
