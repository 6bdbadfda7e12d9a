//! Requests as channels and old clients write them: what is stored, shown and handed to the bot is in
//! the one form of the contract. Each way of writing a value is tested beside its reader.

use std::io::Write;

use contract::Timestamp;
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::delivery::{bot_calls_for, delivery};
use crate::support::{SOON, System, eventually, id_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_stored_and_sent_in_the_form_of_the_contract() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    // Not so long ago that the message would count as sent.
    let written = Timestamp::now().millis() / 1_000 - 60;
    // As text, because no JSON writer here would write half an emoji.
    let body = format!(
        r#"{{"contact_id": "{contact}", "role": "Operator", "platform": "Facebook",
            "direction": "OUTBOUND", "content": "see\u0000 you \ud83d", "created_at": {written},
            "external_message_id": 17841400008460056123, "tag": "HUMAN_AGENT",
            "attachments": [
                {{"type": "location", "payload": {{"lat": 48.1}}, "name": "here"}},
                {{"type": "image", "payload": {{"url": "HTTPS://a.example/1"}}}}
            ]}}"#
    );
    let mut compressed = GzEncoder::new(Vec::new(), Compression::fast());
    compressed.write_all(body.as_bytes()).unwrap();
    let url = format!("{}/api/v1/Messages/", system.services("gateway")[0]);
    let request = system
        .http
        .post(url)
        .header("authorization", format!("bearer {}", staff.token))
        .header("content-type", "application/json")
        .header("content-encoding", "gzip")
        .body(compressed.finish().unwrap());
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    let created: Value = answer.json().await.unwrap();
    let id = id_of(&created);
    let expected = json!({
        "role": "operator", "platform": "facebook", "direction": "outbound",
        "content": "see you \u{fffd}", "created_at": Timestamp::from_millis(written * 1_000),
        "external_message_id": "17841400008460056123", "extra": {"tag": "HUMAN_AGENT"},
        "attachments": [
            {"type": "location", "payload": {"lat": 48.1}, "extra": {"name": "here"}},
            {"type": "image", "url": "https://a.example/1", "payload": {"url": "HTTPS://a.example/1"}},
        ],
    });
    let shown = staff.get(&format!("/messages/{id}")).await.1;
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(created["messageData"][name], *value, "{name}");
        assert_eq!(shown["messageData"][name], *value, "{name}: {shown}");
    }
    delivery(&staff, id, "delivered").await;
    let calls = bot_calls_for(system, id).await;
    for name in ["content", "attachments", "extra", "external_message_id"] {
        assert_eq!(calls[0].body[name], expected[name], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_wrong_costs_a_batch_its_own_entry_only() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let entry = |content: Value, created_at: Value| {
        json!({
            "contact_id": contact, "role": "user", "platform": "telegram", "direction": "inbound",
            "content": content, "created_at": created_at,
        })
    };
    let batch = json!({"messages": [
        entry(json!("half HALF"), json!("2021-09-08T06:34:04+0000")),
        entry(json!("x".repeat(5_001)), Value::Null),
        entry(json!("a\0b"), json!("1631082844000")),
        entry(json!("late"), json!("tomorrow")),
        entry(json!(42), json!("")),
    ]});
    let url = format!("{}/api/v1/messages/batch", system.services("gateway")[0]);
    let answer = system
        .http
        .post(url)
        .bearer_auth(&staff.token)
        .header("content-type", "application/json")
        .body(batch.to_string().replace("HALF", r"\ud83d"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let answer: Value = answer.json().await.unwrap();
    let results = answer["results"].as_array().unwrap();
    let status: Vec<&Value> = results.iter().map(|result| &result["status"]).collect();
    assert_eq!(status, [201, 400, 201, 400, 201], "{answer}");
    let contents = [0, 2, 4].map(|n: usize| &results[n]["messageData"]["content"]);
    assert_eq!(contents, ["half \u{fffd}", "ab", "42"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_one_time_stand_in_the_order_of_the_log() {
    const MESSAGES: usize = 12;
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let gateways = system.services("gateway").len();
    for n in 0..MESSAGES {
        let body = json!({
            "contact_id": contact, "role": "user", "platform": "web", "direction": "inbound",
            "content": n.to_string(), "created_at": "2026-01-01T00:00:05Z",
        });
        let answer = staff.post_to(n % gateways, "/messages", &[], &body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    }
    let path = format!("/messages?contact_id={contact}&limit=5");
    eventually("all are listed", SOON, || async {
        (staff.get(&path).await.1["totalMessages"] == MESSAGES).then_some(())
    })
    .await;
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let (status, page) = staff.get(&format!("{path}&cursor={cursor}")).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        let messages = page["messages"].as_array().unwrap();
        seen.extend(
            messages
                .iter()
                .map(|m| m["content"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    let newest_first: Vec<String> = (0..MESSAGES).rev().map(|n| n.to_string()).collect();
    assert_eq!(seen, newest_first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contact_needs_no_name_and_a_filter_that_is_not_known_is_refused() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let nameless = json!({"social": {"instagramId": 17841400000000000_i64}});
    let (status, answer) = staff.post("/contacts", nameless).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let names = (
        &answer["contact"]["fullName"],
        &answer["contact"]["social"]["instagramId"],
    );
    assert_eq!(
        names,
        (&json!("17841400000000000"), &json!("17841400000000000"))
    );
    let contact = answer["contact"]["_id"].as_str().unwrap();
    for (path, name) in [
        ("/contacts?unknown=1784".to_owned(), "unknown"),
        (
            format!("/messages?contact_id={contact}&unknown=x"),
            "unknown",
        ),
        ("/conversations?platfrom=web".to_owned(), "platfrom"),
    ] {
        let (status, answer) = staff.get(&path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {answer}");
        assert_eq!(answer["errors"][0]["field"], name, "{path}");
    }
    let (status, answer) = staff
        .send(Method::GET, "/conversations/?platform=WEB", json!({}))
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}
