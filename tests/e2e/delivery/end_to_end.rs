//! The whole way of one message: REST, log, MongoDB, bot and sockets. Faults are tested in
//! `faults`.

use futures_util::StreamExt;
use mongodb::bson::{Document, doc, oid::ObjectId};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::delivery::bot_calls_for;
use crate::support::ws_client::event;
use crate::support::{SOON, System, documents, eventually, without_as_of_seq};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_reaches_log_database_bot_and_sockets() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let url = format!(
        "{}/ws?token={}",
        system.url("realtime").replacen("http", "ws", 1),
        staff.token
    );
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();

    let inbound = staff.customer_message(&contact, "Is my dog well?").await;
    let outbound = staff
        .operator_message(&contact, "He is, come at five.")
        .await;
    assert_eq!(inbound["forwarding"]["skipped"], true);
    assert_eq!(outbound["forwarding"]["queued"], true);
    let (first, second) = (inbound.id.as_str(), outbound.id.as_str());

    // Sockets: both messages in order, then the delivery.
    for (id, seq) in [(first, &inbound["seq"]), (second, &outbound["seq"])] {
        let new = event(&mut socket, "message:new", |e| e["event"] == "message:new").await;
        assert_eq!(new["data"]["message"]["_id"], id);
        assert_eq!(new["data"]["message"]["id"], id);
        assert_eq!(new["data"]["conversationId"], contact.as_str());
        assert_eq!(&new["data"]["seq"], seq);
    }
    event(&mut socket, "message:status delivered", |e| {
        e["event"] == "message:status" && e["data"]["status"] == "delivered"
    })
    .await;

    // The bot: once, with the message's id as idempotency key.
    let calls = bot_calls_for(system, second).await;
    assert_eq!(calls.len(), 1);
    let customer = calls[0].body["customer_social_id"].as_str().unwrap();
    assert!(customer.starts_with("1784"), "{customer}");
    assert_eq!(calls[0].body["content"], "He is, come at five.");
    assert!(calls[0].api_key);

    // The database, read with a client of its own.
    let database = system.database().await;
    let company = ObjectId::parse_str(&staff.company).unwrap();
    let delivered = eventually("both are in MongoDB, one delivered", SOON, || async {
        let found = documents(&database, "messages", doc! {"company_id": company}).await;
        (found.len() == 2 && found[1].get_bool("delivered").unwrap()).then_some(found)
    })
    .await;
    assert_eq!(delivered[0].get_str("content").unwrap(), "Is my dog well?");
    assert_eq!(
        delivered[1]
            .get_document("delivery")
            .unwrap()
            .get_str("state")
            .unwrap(),
        "delivered"
    );

    // The log: the event with its headers.
    let log = system.operator().await.get_stream("EVENTS").await.unwrap();
    let stored = log
        .direct_get(outbound["seq"].as_u64().unwrap())
        .await
        .unwrap();
    assert_eq!(
        stored.subject.as_str(),
        format!(
            "message.created.{}.{contact}.facebook.outbound.operator",
            staff.company
        )
    );
    assert_eq!(
        stored.headers.get("Event-Type").unwrap().as_str(),
        "message.created"
    );
    assert!(stored.headers.get("traceparent").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_message_is_readable_at_once_and_listed_with_the_total() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    for n in 0..20 {
        let created = staff
            .customer_message(&contact, &format!("number {n}"))
            .await;
        let (status, found) = staff.get_message(&created.id).await;
        assert_eq!(
            (status, &found["messageData"]),
            (StatusCode::OK, &created["messageData"])
        );
    }
    let page = eventually("all are counted", SOON, || async {
        let (status, page) = staff
            .get(&format!("/messages?contact_id={contact}&limit=5&skip=1"))
            .await;
        (status == StatusCode::OK && page["totalMessages"] == 20).then_some(page)
    })
    .await;
    let contents: Vec<&str> = page["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["content"].as_str().unwrap())
        .collect();
    assert_eq!(
        contents,
        [
            "number 18",
            "number 17",
            "number 16",
            "number 15",
            "number 14"
        ]
    );
    assert_eq!(
        (page["limit"].as_u64(), page["skip"].as_u64()),
        (Some(5), Some(1))
    );
    let (status, posted) = staff
        .post(
            "/messages",
            json!({"contact_id": contact, "limit": 5, "skip": 1}),
        )
        .await;
    assert_eq!(
        (status, without_as_of_seq(posted)),
        (StatusCode::OK, without_as_of_seq(page))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_show_the_newest_message_and_the_unread_count() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let (quiet, busy) = (staff.new_contact().await, staff.new_contact().await);
    staff.customer_message(&quiet, "hello").await;
    staff.customer_message(&busy, "one").await;
    let last = staff.customer_message(&busy, "two").await;
    let lines = |want: [u64; 2]| {
        let (staff, busy) = (&staff, &busy);
        async move {
            eventually(&format!("unread counts {want:?}"), SOON, || async {
                let (status, page) = staff
                    .post("/messages/instagram", json!({"platform": "facebook"}))
                    .await;
                assert_eq!(status, StatusCode::OK, "{page}");
                let contacts = page["contacts"].as_array().unwrap().clone();
                let good = contacts.len() == 2
                    && contacts[0]["contact_id"] == busy.as_str()
                    && contacts[0]["unread"] == want[0]
                    && contacts[1]["unread"] == want[1];
                good.then_some(contacts)
            })
            .await
        }
    };
    let contacts = lines([2, 1]).await;
    assert_eq!(contacts[0]["latestMessage"]["content"], "two");
    assert_eq!(contacts[0]["fullName"], "Ada Brown");

    let (status, read) = staff
        .send(
            Method::PUT,
            "/messages/mark-read",
            json!({"contact_id": busy}),
        )
        .await;
    assert_eq!(
        (status, &read["matched"], &read["modified"]),
        (StatusCode::OK, &json!(2), &json!(2)),
        "{read}"
    );
    lines([0, 1]).await;

    let (status, _) = staff
        .send(Method::DELETE, "/messages", json!({"_id": last.id}))
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(lines([0, 1]).await[0]["latestMessage"]["content"], "one");
    let (status, _) = staff.get_message(&last.id).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_answered_after_it_is_applied_and_immutable_fields_are_refused() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let id = staff.customer_message(&contact, "tpyo").await.id;
    let (status, answer) = staff
        .send(
            Method::PATCH,
            "/messages",
            json!({"_id": id, "content": "typo"}),
        )
        .await;
    assert_eq!(
        (status, &answer["messageData"]["content"]),
        (StatusCode::OK, &json!("typo")),
        "{answer}"
    );
    let (status, answer) = staff
        .send(
            Method::PATCH,
            "/messages",
            json!({"_id": id, "role": "operator", "content": "x"}),
        )
        .await;
    assert_eq!(
        (status, &answer["errors"][0]["field"]),
        (StatusCode::BAD_REQUEST, &json!("role"))
    );
    let (status, _) = staff
        .send(
            Method::PATCH,
            "/messages",
            json!({"_id": "0".repeat(24), "content": "x"}),
        )
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // An edit must not leave a message empty, as a create must not.
    let picture = json!([{"type": "image", "url": "https://a.example/b.png"}]);
    for (edit, wanted) in [
        (json!({"content": ""}), StatusCode::CONFLICT),
        (
            json!({"content": "", "attachments": picture}),
            StatusCode::OK,
        ),
        (json!({"attachments": []}), StatusCode::CONFLICT),
        (
            json!({"attachments": [], "content": "again"}),
            StatusCode::OK,
        ),
    ] {
        let mut edit = edit;
        edit["_id"] = json!(id);
        let (status, answer) = staff.send(Method::PATCH, "/messages", edit).await;
        assert_eq!(status, wanted, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_external_id_conflicts_and_a_repeated_key_gives_the_same_answer() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let body = json!({"contact_id": contact, "role": "user", "platform": "facebook", "direction": "inbound", "content": "once", "external_message_id": "m_1"});
    let posts = (0..20).map(|_| staff.post("/messages", body.clone()));
    let answers = futures_util::future::join_all(posts).await;
    let created: Vec<&Value> = answers
        .iter()
        .filter(|(s, _)| *s == StatusCode::CREATED)
        .map(|(_, a)| a)
        .collect();
    assert_eq!(created.len(), 1);
    let id = &created[0]["messageData"]["_id"];
    for (_, conflict) in answers.iter().filter(|(s, _)| *s != StatusCode::CREATED) {
        assert_eq!(
            (
                &conflict["status"],
                &conflict["code"],
                &conflict["existing_id"]
            ),
            (&json!(409), &json!("DUPLICATE_KEY"), id)
        );
    }

    let with_key = || async {
        let body = json!({"contact_id": contact, "role": "user", "platform": "facebook", "direction": "inbound", "content": "again"});
        let request = system
            .http
            .post(format!("{}/api/v1/messages", system.url("gateway")))
            .bearer_auth(&staff.token);
        let answer = request
            .header("Idempotency-Key", "key-1")
            .json(&body)
            .send()
            .await
            .unwrap();
        (
            answer.headers().contains_key("idempotency-replayed"),
            answer.json::<Value>().await.unwrap(),
        )
    };
    let (first, second) = (with_key().await, with_key().await);
    assert_eq!((first.0, second.0), (false, true));
    assert_eq!(first.1, second.1);
    let database = system.database().await;
    let company = ObjectId::parse_str(&staff.company).unwrap();
    let found: Vec<Document> = eventually("both are in MongoDB", SOON, || async {
        let found = documents(&database, "messages", doc! {"company_id": company}).await;
        (found.len() >= 2).then_some(found)
    })
    .await;
    assert_eq!(found.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_service_serves_health_and_metrics_and_registers_with_nats() {
    let system = System::shared().await;
    for name in ["gateway", "persister", "forwarder", "scheduler", "realtime"] {
        for url in system.services(name) {
            let health: Value = system
                .http
                .get(format!("{url}/health"))
                .send()
                .await
                .unwrap()
                .json()
                .await
                .unwrap();
            assert_eq!(
                (&health["service"], &health["checks"]["nats"]["status"]),
                (&json!(name), &json!("ok")),
                "{health}"
            );
            let metrics = system
                .http
                .get(format!("{url}/metrics"))
                .send()
                .await
                .unwrap()
                .text()
                .await
                .unwrap();
            assert!(
                metrics.contains(&format!("service=\"{name}\"")),
                "{metrics}"
            );
        }
    }
    let client = system.operator().await.client();
    let inbox = client.new_inbox();
    let replies = client.subscribe(inbox.clone()).await.unwrap();
    client
        .publish_with_reply("$SRV.PING", inbox, "".into())
        .await
        .unwrap();
    let wanted = [
        "forwarder",
        "forwarder",
        "gateway",
        "gateway",
        "persister",
        "persister",
        "realtime",
        "realtime",
        "realtime",
        "scheduler",
        "scheduler",
    ];
    let name = |m: async_nats::Message| async move {
        serde_json::from_slice::<Value>(&m.payload).unwrap()["name"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let mut names: Vec<String> =
        tokio::time::timeout(SOON, replies.take(wanted.len()).then(name).collect())
            .await
            .unwrap();
    names.sort();
    assert_eq!(names, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_are_json_with_service_and_trace_without_bodies_or_tokens() {
    const WORDS: &str = "nobody-logs-these-words";
    let system = System::start_with(
        crate::support::Folder::new(),
        &[],
        &[("LOG_LEVEL", "debug")],
    )
    .await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let created = staff.operator_message(&contact, WORDS).await;
    let subject = format!(
        "message.created.{}.{contact}.web.inbound.user",
        staff.company
    );
    system
        .operator()
        .await
        .publish(subject, format!("{{\"version\": \"{WORDS}\"}}").into())
        .await
        .unwrap()
        .await
        .unwrap();
    let log = system.folder.0.join("logs/combined.log");
    let lines = eventually(
        "the forwarder and the dead letter are in the log",
        SOON,
        || async {
            let text = std::fs::read_to_string(&log).ok()?;
            let id = created["messageData"]["_id"].as_str()?;
            (text.contains(id) && text.contains("dead letter")).then_some(text)
        },
    )
    .await;
    let mut with_request = 0;
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(
            line["service"].is_string()
                && line["level"].is_string()
                && line["timestamp"].is_string(),
            "{line}"
        );
        let span = &line["span"];
        with_request += usize::from(
            span["request_id"].is_string()
                && span["trace_id"].is_string()
                && span["company"] == staff.company.as_str(),
        );
    }
    assert!(
        with_request > 0,
        "no line has request id, trace id and company"
    );
    for (name, secret) in [
        ("a body", WORDS),
        ("a token", &staff.token),
        ("a password", "correct horse"),
    ] {
        assert!(!lines.contains(secret), "{name} is in the log");
    }
}
