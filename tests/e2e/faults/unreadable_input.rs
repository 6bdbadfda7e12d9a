//! Unreadable events, settings and frames are reported, and events are kept as dead letters. Other
//! input is processed meanwhile.

use async_nats::jetstream::consumer::pull;
use futures_util::{SinkExt, StreamExt};
use reqwest::StatusCode;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::support::{SOON, System, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_unknown_events_become_dead_letters_and_consumption_goes_on() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let jetstream = system.operator().await;
    let subject = format!(
        "message.created.{}.{contact}.web.inbound.user",
        staff.company
    );
    let unknown = json!({"id": "e".repeat(24), "type": "message.created", "version": 99, "occurred_at": "2026-01-01T00:00:00.000Z",
        "actor": {"kind": "system"}, "company_id": staff.company, "data": {}});
    let mut bad = Vec::new();
    for (payload, reason) in [
        ("{not json".to_owned(), "malformed"),
        (unknown.to_string(), "unknown_version"),
    ] {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("X-Kept", "as it was");
        let ack = jetstream
            .publish_with_headers(subject.clone(), headers, payload.clone().into())
            .await
            .unwrap()
            .await
            .unwrap();
        bad.push((ack.sequence, payload, reason));
    }
    // A later event is processed.
    let created = staff.customer_message(&contact, "still here").await;
    let (status, _) = staff.get_message(&created.id).await;
    assert_eq!(status, StatusCode::OK);

    let dead = jetstream.get_stream("DEAD").await.unwrap();
    let filter_subject = format!("dead.persister.{subject}");
    let consumer = dead
        .create_consumer(pull::Config {
            filter_subject,
            ..Default::default()
        })
        .await
        .unwrap();
    let mut dead_letters = consumer.messages().await.unwrap();
    let two = async {
        [
            dead_letters.next().await.unwrap().unwrap(),
            dead_letters.next().await.unwrap().unwrap(),
        ]
    };
    let found = tokio::time::timeout(SOON, two)
        .await
        .expect("two dead letters");
    for (seq, payload, reason) in bad {
        // Two persisters work in parallel, so the order is not known.
        let dead_letter = found
            .iter()
            .find(|l| l.payload == payload.as_bytes())
            .unwrap_or_else(|| panic!("no dead letter of {payload}"));
        let header = |name: &str| {
            dead_letter
                .headers
                .as_ref()
                .unwrap()
                .get(name)
                .unwrap_or_else(|| panic!("no {name}"))
                .as_str()
                .to_owned()
        };
        assert_eq!(
            (
                header("Dead-Reason"),
                header("Dead-Stream-Seq"),
                header("Dead-Stream")
            ),
            (reason.into(), seq.to_string(), "EVENTS".into())
        );
        assert_eq!(
            (header("X-Kept"), header("Dead-Attempts")),
            ("as it was".into(), "1".into())
        );
        assert!(!header("Dead-Error").is_empty() && !header("Dead-First-At").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_mongodb_refuses_becomes_a_dead_letter_without_affecting_others() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let nul = json!({"fullName": "x", "profile": {"deep": [{"a\u{0}b": 1}]}});
    let (status, answer) = staff.post("/contacts", nul.clone()).await;
    assert_eq!(
        (status, &answer["errors"][0]["field"]),
        (StatusCode::BAD_REQUEST, &json!("profile")),
        "{answer}"
    );

    // The same contact, published directly to NATS.
    let id = "c".repeat(24);
    let data = json!({"_id": id, "company_id": staff.company, "fullName": "x", "profile": nul["profile"], "created_at": "2026-01-01T00:00:00.000Z"});
    let event = json!({"id": "e".repeat(24), "type": "contact.created", "version": 1, "occurred_at": "2026-01-01T00:00:00.000Z",
        "actor": {"kind": "system"}, "company_id": staff.company, "data": data});
    let jetstream = system.operator().await;
    let subject = format!("contact.created.{}.{id}", staff.company);
    let contact = staff.new_contact().await;
    jetstream
        .publish(subject.clone(), event.to_string().into())
        .await
        .unwrap()
        .await
        .unwrap();
    let created = staff.customer_message(&contact, "not held up").await;
    let (status, _) = staff.get_message(&created.id).await;
    assert_eq!(status, StatusCode::OK);
    let dead = jetstream.get_stream("DEAD").await.unwrap();
    let dead_letter = eventually("a dead letter", SOON, || async {
        dead.direct_get_last_for_subject(format!("dead.persister.{subject}"))
            .await
            .ok()
    })
    .await;
    assert_eq!(
        dead_letter.headers.get("Dead-Reason").unwrap().as_str(),
        "failed"
    );
}

#[test]
fn invalid_settings_stop_a_service_at_start_and_are_all_listed() {
    for service in ["gateway", "persister", "forwarder", "scheduler", "realtime"] {
        let output = crate::support::petbuddy()
            .arg(service)
            .env_clear()
            .envs([
                ("PATH", "/usr/bin:/bin"),
                ("LOG_LEVEL", "loud"),
                ("NODE_ENV", "moon"),
                ("HOST", "here"),
                ("NATS_PASSWORD", ""),
            ])
            .envs([
                ("PORT", "0"),
                ("REALTIME_PORT", "x"),
                ("PERSISTER_PORT", "x"),
                ("FORWARDER_PORT", "x"),
                ("SCHEDULER_PORT", "x"),
            ])
            .envs([
                ("JWT_ACCESS_SECRET", "too-short-to-sign"),
                ("INTERNAL_SERVICE_API_KEY", "too-short-to-sign"),
            ])
            .current_dir(std::env::temp_dir())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{service}: {said}");
        let port = if service == "gateway" {
            "PORT".into()
        } else {
            format!("{}_PORT", service.to_uppercase())
        };
        for name in ["LOG_LEVEL", "NODE_ENV", "HOST", "NATS_PASSWORD", &port] {
            assert!(
                said.contains(name),
                "{service} does not name {name}: {said}"
            );
        }
        assert!(
            !said.contains("too-short-to-sign"),
            "{service} shows a secret: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_frame_gets_an_error_and_a_flood_of_them_closes_that_socket_only() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let url = format!(
        "{}/ws?token={}",
        system.url("realtime").replacen("http", "ws", 1),
        staff.token
    );
    let (mut rude, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    let (mut polite, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    rude.send(Frame::text("{nonsense")).await.unwrap();
    crate::support::ws_client::event(&mut rude, "error", |e| e["event"] == "error").await;
    let flood = async {
        loop {
            if rude.send(Frame::text("[]")).await.is_err() {
                return;
            }
            match futures_util::FutureExt::now_or_never(rude.next()) {
                Some(None | Some(Err(_) | Ok(Frame::Close(_)))) => return,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(SOON, flood)
        .await
        .expect("the flood is cut off");
    let contact = staff.new_contact().await;
    staff.customer_message(&contact, "calm").await;
    let event = eventually("the other socket lives", SOON, || {
        let next = futures_util::FutureExt::now_or_never(polite.next());
        async move {
            next.flatten()
                .and_then(Result::ok)
                .filter(|f| f.to_text().is_ok_and(|t| t.contains("message:new")))
        }
    })
    .await;
    assert!(event.to_text().unwrap().contains("calm"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_allowed_message_fits_into_the_log() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let (long, wide) = ("😀".repeat(1_000), "😀".repeat(2_000));
    let file =
        json!({"type": long, "url": format!("https://a.example/{wide}"), "file_description": long});
    let body = json!({"contact_id": "b".repeat(24), "role": "user", "platform": "web", "direction": "inbound", "content": "😀".repeat(5_000), "attachments": vec![file; 20]});
    assert_eq!(staff.post("/messages", body).await.0, StatusCode::CREATED);
}
