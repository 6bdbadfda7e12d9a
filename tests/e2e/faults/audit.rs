//! `petbuddy audit` names every difference between log, database and deliveries, and reports none
//! on a consistent system, even under load.

use mongodb::bson::{Document, doc, oid::ObjectId};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::load::Load;
use crate::support::{AFTER_FAULT, SOON, System, documents, eventually, petbuddy};

/// The differences of a report: kind and message id.
fn named(report: &Value) -> Vec<(String, String)> {
    let differences = report["differences"]
        .as_array()
        .unwrap_or_else(|| panic!("{report}"));
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut named: Vec<_> = differences
        .iter()
        .map(|d| (text(&d["difference"]), text(&d["id"])))
        .collect();
    named.sort();
    named
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_passes_on_a_busy_system_and_names_every_tampered_message() {
    let system = System::start(&["--replicas", "persister=2,forwarder=2"]).await;
    let (staff, other) = (system.new_company().await, system.new_company().await);
    let contacts = [
        staff.new_contact().await,
        staff.new_contact().await,
        staff.new_contact().await,
    ];
    let load = Load::start(
        system.url("gateway"),
        staff.token.clone(),
        contacts.to_vec(),
    );
    for _ in 0..3 {
        load.more(300).await;
        let report = system.assert_audit_clean();
        assert!(
            report["in_log"].as_u64().unwrap() > 0 && report["delivered"].as_u64().unwrap() > 0,
            "{report}"
        );
    }
    let accepted = load.end().await;
    let deleted = accepted[0].0.clone();
    staff
        .send(Method::DELETE, "/messages", json!({"_id": deleted}))
        .await;
    let database = system.database().await;
    eventually("all is in the database", AFTER_FAULT, || async {
        (documents(&database, "messages", doc! {"seq": {"$exists": true}})
            .await
            .len()
            == accepted.len())
        .then_some(())
    })
    .await;
    let report = system.assert_audit_clean();
    assert_eq!(
        (
            &report["in_log"],
            &report["in_database"],
            &report["deleted"]
        ),
        (&json!(accepted.len()), &json!(accepted.len()), &json!(1))
    );

    let messages = database.collection::<Document>("messages");
    let gone = ObjectId::parse_str(&accepted[1].0).unwrap();
    let known = messages
        .find_one(doc! {"_id": ObjectId::parse_str(&accepted[2].0).unwrap()})
        .await
        .unwrap()
        .unwrap();
    // One document claims the sequence of another message, one a sequence beyond the log.
    let copy = |id: ObjectId, seq: i64| {
        let mut copy = known.clone();
        copy.insert("_id", id);
        copy.insert("seq", seq);
        copy.remove("external_message_id");
        copy
    };
    let (forged, beyond) = (ObjectId::new(), ObjectId::new());
    messages
        .insert_many([
            copy(forged, known.get_i64("seq").unwrap()),
            copy(beyond, 1 << 40),
        ])
        .await
        .unwrap();
    messages.delete_one(doc! {"_id": gone}).await.unwrap();
    let (code, report) = system.audit(&[]);
    let wanted = [("extra", forged), ("extra", beyond), ("missing", gone)]
        .map(|(what, id)| (what.to_owned(), id.to_hex()));
    let mut wanted = wanted.to_vec();
    wanted.sort();
    assert_eq!(
        (code, named(&report)),
        (Some(1), wanted.clone()),
        "{report}"
    );
    assert_eq!(
        system.audit(&["--company", &staff.company]).1["differences"],
        report["differences"]
    );
    assert_eq!(system.audit(&["--company", &other.company]).0, Some(0));

    // The text output names the same messages.
    let mut command = petbuddy();
    command
        .arg("audit")
        .env("NATS_URL", system.url("nats"))
        .env("NATS_USER", "operator");
    let password = system.run["operator"]["password"].as_str().unwrap();
    let output = command.env("NATS_PASSWORD", password).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        wanted.iter().all(|(_, id)| text.contains(id)) && text.ends_with("3 differences\n"),
        "{text}"
    );

    let output = command.env("NATS_PASSWORD", "wrong").output().unwrap();
    assert_eq!(
        (output.status.code(), output.stdout.is_empty()),
        (Some(2), true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_reports_undeliverable_messages_as_lost_but_not_waiting_or_dead_ones() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let database = system.database().await;
    let sent = async |text: &str| staff.operator_message(&contact, text).await.id;
    let state = async |id: &str, state: &str| {
        let filter = doc! {"_id": ObjectId::parse_str(id).unwrap(), "delivery.state": state};
        eventually(&format!("it is {state}"), SOON, || async {
            documents(&database, "messages", filter.clone()).await.pop()
        })
        .await;
    };
    system.bot_mode(json!({"status": 400})).await;
    let refused = sent("refused").await;
    state(&refused, "failed").await;
    system.bot_mode(json!({})).await;
    staff
        .send(Method::DELETE, "/integrations/facebook", json!({}))
        .await;
    let held = sent("held").await;
    state(&held, "held").await;
    let behind = sent("behind it").await;
    let report = eventually("all that is settled is well", AFTER_FAULT, || async {
        let report = system.assert_audit_clean();
        (report["in_log"] == 3).then_some(report)
    })
    .await;
    assert_eq!(
        (&report["failed"], &report["waiting"], &report["delivered"]),
        (&json!(1), &json!(2), &json!(0)),
        "{report}"
    );

    let log = system.operator().await;
    log.get_stream("DEAD").await.unwrap().purge().await.unwrap();
    log.get_stream("OUTBOUND")
        .await
        .unwrap()
        .purge()
        .await
        .unwrap();
    let (code, report) = system.audit(&[]);
    let mut wanted = vec![
        ("no_dead_letter".to_owned(), refused),
        ("lost".to_owned(), held),
        ("lost".to_owned(), behind),
    ];
    wanted.sort();
    assert_eq!((code, named(&report)), (Some(1), wanted), "{report}");
}
