//! `POST /messages/batch`: each message has a result of its own, in the order of the list.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{SOON, System, eventually, id_of};

fn message(contact: &str, content: &str) -> Value {
    json!({"contact_id": contact, "role": "user", "platform": "web", "direction": "inbound", "content": content})
}

fn external(contact: &str, id: &str) -> Value {
    let mut message = message(contact, id);
    message["external_message_id"] = json!(id);
    message
}

fn statuses(body: &Value) -> Vec<u64> {
    body["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["status"].as_u64().unwrap())
        .collect()
}

/// The sequences of the stored messages, in the order of the list.
fn sequences(body: &Value) -> Vec<u64> {
    body["results"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|r| r["seq"].as_u64())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_of_a_batch_has_its_own_result() {
    let system = System::shared().await;
    let (staff, other) = (system.new_company().await, system.new_company().await);
    let contact = staff.new_contact().await;
    let mut of_another = message(&contact, "not mine");
    of_another["company_id"] = json!(other.company);
    let operator = json!({"contact_id": contact, "role": "operator", "platform": "Facebook", "direction": "outbound", "content": "to the bot"});
    let list = json!({"messages": [
        message(&contact, "one"), message(&contact, ""), "nonsense", external(&contact, "twice"), external(&contact, "twice"), of_another, operator,
        message("nonsense", "x"),
    ]});
    let answer = staff
        .post_to(0, "/messages/batch", &[("Prefer", "wait=5")], &list)
        .await;
    assert_eq!(
        (answer.status, answer.header("preference-applied")),
        (StatusCode::OK, ""),
        "{answer:?}"
    );
    let body = &answer.body;
    assert_eq!(
        statuses(body),
        [201, 400, 400, 201, 409, 403, 201, 400],
        "{body}"
    );
    assert_eq!((&body["created"], &body["failed"]), (&json!(3), &json!(5)));
    let results = &body["results"];
    assert_eq!(
        (
            &results[0]["messageData"]["content"],
            &results[0]["forwarding"]["skipped"]
        ),
        (&json!("one"), &json!(true))
    );
    assert_eq!(results[1]["error"]["errors"][0]["field"], "content");
    assert_eq!(
        (
            &results[4]["error"]["code"],
            &results[4]["error"]["existing_id"]
        ),
        (&json!("DUPLICATE_KEY"), &json!(id_of(&results[3])))
    );
    assert_eq!(
        (
            &results[6]["forwarding"]["queued"],
            &results[7]["error"]["code"]
        ),
        (&json!(true), &json!("CAST_ERROR"))
    );
    let id = id_of(&results[6]);
    let (status, found) = staff.get_message(id).await;
    assert_eq!(
        (status, &found["messageData"]["content"]),
        (StatusCode::OK, &json!("to the bot"))
    );

    let too_many = vec![message(&contact, "x"); 501];
    for wrong in [
        json!({}),
        json!({"messages": []}),
        json!({"messages": {}}),
        json!({"messages": too_many}),
    ] {
        let (status, problem) = staff.post("/messages/batch", wrong).await;
        assert_eq!(
            (status, &problem["errors"][0]["field"]),
            (StatusCode::BAD_REQUEST, &json!("messages")),
            "{problem}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_stored_in_the_order_of_its_list() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let (contact, other) = (staff.new_contact().await, staff.new_contact().await);
    let list: Vec<Value> = (0..500)
        .map(|n| message(if n % 5 == 0 { &other } else { &contact }, &n.to_string()))
        .collect();
    let (status, body) = staff
        .post("/messages/batch", json!({"messages": list}))
        .await;
    assert_eq!(
        (status, &body["created"], &body["failed"]),
        (StatusCode::OK, &json!(500), &json!(0)),
        "{}",
        body["results"][0]
    );
    assert!(sequences(&body).is_sorted());
    let path = format!("/messages?contact_id={contact}&limit=200");
    let page = eventually("all are listed", SOON, || async {
        let page = staff.get(&path).await.1;
        (page["totalMessages"] == 400).then_some(page)
    })
    .await;
    let newest: Vec<&str> = page["messages"]
        .as_array()
        .unwrap()
        .iter()
        .take(3)
        .map(|m| m["content"].as_str().unwrap())
        .collect();
    assert_eq!(newest, ["499", "498", "497"]);

    // A message that the log has already makes the log refuse the whole group commit. Then its
    // halves are written, and so on, still in order.
    let known = staff.post("/messages", external(&contact, "known")).await;
    assert_eq!(known.0, StatusCode::CREATED);
    let mut list: Vec<Value> = (0..100)
        .map(|n| {
            external(
                if n % 5 == 0 { &other } else { &contact },
                &format!("next-{n}"),
            )
        })
        .collect();
    list[50] = external(&contact, "known");
    let (_, body) = staff
        .post("/messages/batch", json!({"messages": list}))
        .await;
    let of = |wanted: &str| -> Vec<u64> {
        let results = body["results"].as_array().unwrap().iter();
        results
            .filter(|r| r["messageData"]["contact_id"] == wanted)
            .map(|r| r["seq"].as_u64().unwrap())
            .collect()
    };
    assert_eq!((&body["created"], statuses(&body)[50]), (&json!(99), 409));
    assert!(
        of(&contact).is_sorted() && of(&other).is_sorted(),
        "{:?}",
        sequences(&body)
    );
    // The group is not split into single messages, which would make other requests wait.
    let metrics = system
        .http
        .get(format!("{}/metrics", system.url("gateway")))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(metrics.contains("publish_batch_halved_total"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_batch_stores_no_message_twice() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let list: Vec<Value> = (0..40).map(|n| message(&contact, &n.to_string())).collect();
    let key = [("Idempotency-Key", "batch-1")];
    let first = staff
        .post_to(0, "/messages/batch", &key, &json!({"messages": list}))
        .await
        .body;
    assert_eq!(first["created"], 40, "{first}");
    assert!(first["results"][0]["replayed"].is_null());
    let mut changed = list.clone();
    changed[7] = message(&contact, "another text");
    changed.push(message(&contact, "one more"));
    let second = staff
        .post_to(1, "/messages/batch", &key, &json!({"messages": changed}))
        .await
        .body;
    assert_eq!(
        (&second["created"], &second["failed"]),
        (&json!(40), &json!(1)),
        "{second}"
    );
    for (n, result) in second["results"].as_array().unwrap().iter().enumerate() {
        match n {
            7 => assert_eq!(
                (&result["status"], &result["error"]["code"]),
                (&json!(422), &json!("IDEMPOTENCY_KEY_REUSED"))
            ),
            40 => assert!(result["replayed"].is_null()),
            n => {
                let mut expected = first["results"][n].clone();
                expected["replayed"] = json!(true);
                assert_eq!(result, &expected);
            }
        }
    }
    let path = format!("/messages?contact_id={contact}");
    eventually("41 are listed", SOON, || async {
        (staff.get(&path).await.1["totalMessages"] == 41).then_some(())
    })
    .await;
}
