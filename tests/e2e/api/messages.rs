//! The message endpoints: answers to valid and invalid requests, and stable pages. Repeated creates
//! are in `idempotency`.

use futures_util::{StreamExt, stream};
use mongodb::bson::{Document, doc, oid::ObjectId};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{AFTER_FAULT, SOON, Staff, System, eventually, id_of, without_as_of_seq};

/// Requests of the read-your-writes test in flight at once.
const READERS: usize = 8;

fn contents(page: &Value) -> Vec<String> {
    page["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["content"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_readable_on_another_gateway_right_after_creation() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let body = json!({"contact_id": contact, "role": "user", "platform": "web", "direction": "inbound", "content": "found?"});
    let write_and_read = |n: usize| {
        let (staff, body) = (&staff, &body);
        async move {
            let created = staff.post_to(n % 2, "/messages", &[], body).await;
            assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
            let url = format!(
                "{}/api/v1/messages/{}",
                system.services("gateway")[(n + 1) % 2],
                id_of(&created.body)
            );
            system
                .http
                .get(url)
                .bearer_auth(&staff.token)
                .send()
                .await
                .unwrap()
                .status()
        }
    };
    let found: Vec<StatusCode> = stream::iter(0..1_000)
        .map(write_and_read)
        .buffer_unordered(READERS)
        .collect()
        .await;
    assert_eq!(
        found
            .iter()
            .filter(|status| **status == StatusCode::OK)
            .count(),
        1_000
    );
}

/// Reads pages by cursor to the end. Runs a future after the first page.
async fn pages(
    staff: &Staff<'_>,
    path: &str,
    list: &str,
    meanwhile: impl AsyncFnOnce(),
) -> Vec<Value> {
    let (status, mut page) = staff.get(path).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    meanwhile().await;
    let mut all = Vec::new();
    loop {
        all.append(page[list].as_array_mut().unwrap());
        let Some(cursor) = page["next_cursor"].as_str() else {
            return all;
        };
        let (status, next) = staff.get(&format!("{path}&cursor={cursor}")).await;
        assert_eq!(status, StatusCode::OK, "{next}");
        assert!(
            !next[list].as_array().unwrap().is_empty(),
            "a cursor that leads nowhere"
        );
        page = next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cursor_pages_are_stable_while_messages_arrive() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let write = async |n: usize, at: &str| {
        let body = json!({"contact_id": contact, "role": "user", "platform": "web", "direction": "inbound", "content": format!("{n}"), "created_at": at});
        assert_eq!(staff.post("/messages", body).await.0, StatusCode::CREATED);
    };
    for n in 0..23 {
        // Several messages share a time, so that the cursor must distinguish them by id.
        write(n, &format!("2026-01-01T00:00:{:02}Z", n / 4)).await;
    }
    let path = format!("/messages?contact_id={contact}&limit=5");
    eventually("all are listed", SOON, || async {
        (staff.get(&path).await.1["totalMessages"] == 23).then_some(())
    })
    .await;
    let meanwhile = async || {
        for n in 100..110 {
            write(n, "2026-01-02T00:00:00Z").await;
        }
        eventually("the new ones are listed", SOON, || async {
            (contents(&staff.get(&path).await.1)[0] == "109").then_some(())
        })
        .await;
    };
    let seen = pages(&staff, &path, "messages", meanwhile).await;
    let seen: Vec<&str> = seen
        .iter()
        .map(|m| m["content"].as_str().unwrap())
        .collect();
    let expected: Vec<String> = (0..23).rev().map(|n| n.to_string()).collect();
    assert_eq!(seen, expected);

    for wrong in [
        "cursor=zzz",
        "limit=0",
        "limit=201",
        "limit=x",
        "skip=-1",
        "platform=fax",
    ] {
        let (status, problem) = staff
            .get(&format!("/messages?contact_id={contact}&{wrong}"))
            .await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::BAD_REQUEST, &json!("VALIDATION_ERROR")),
            "{wrong}: {problem}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_filtered_by_platform_and_paged_by_cursor() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let mut contacts = Vec::new();
    for n in 0..7 {
        let contact = staff.new_contact().await;
        let platform = ["Instagram", "facebook"][n % 2];
        let body = json!({"contact_id": contact, "role": "user", "platform": platform, "direction": "inbound", "content": format!("{n}")});
        assert_eq!(staff.post("/messages", body).await.0, StatusCode::CREATED);
        contacts.push(contact);
    }
    let count = async |path: &str| {
        staff.get(path).await.1["contacts"]
            .as_array()
            .unwrap()
            .len()
    };
    eventually("all are listed", SOON, || async {
        (count("/conversations").await == 7).then_some(())
    })
    .await;
    assert_eq!(
        (
            count("/conversations?platform=INSTAGRAM").await,
            count("/conversations?platform=facebook").await
        ),
        (4, 3)
    );
    assert_eq!(count("/conversations?platform=telegram").await, 0);
    let (status, posted) = staff.post("/messages/instagram", json!({})).await;
    assert_eq!(
        (status, posted["contacts"].as_array().unwrap().len()),
        (StatusCode::OK, 4)
    );
    assert_eq!(
        without_as_of_seq(posted.clone()),
        without_as_of_seq(staff.get("/conversations?platform=instagram").await.1)
    );
    assert_eq!(
        (
            &posted["limit"],
            &posted["skip"],
            &posted["contacts"][0]["unread"]
        ),
        (&json!(50), &json!(0), &json!(1))
    );

    let meanwhile = async || {
        staff.customer_message(&contacts[6], "again").await;
        let on_top = async || {
            staff.get("/conversations").await.1["contacts"][0]["latestMessage"]["content"]
                == "again"
        };
        eventually("the new message is on top", SOON, || async {
            on_top().await.then_some(())
        })
        .await;
    };
    let seen = pages(&staff, "/conversations?limit=3", "contacts", meanwhile).await;
    let seen: Vec<&str> = seen
        .iter()
        .map(|line| line["contact_id"].as_str().unwrap())
        .collect();
    assert_eq!(seen, contacts.iter().rev().collect::<Vec<_>>());
    assert_eq!(
        staff.get("/conversations?platform=fax").await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        staff
            .get(&format!("/conversations?company_id={}", "a".repeat(24)))
            .await
            .0,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delivery_endpoint_lists_every_attempt() {
    let system = System::shared().await;
    let (staff, other) = (system.new_company().await, system.new_company().await);
    let contact = staff.new_contact().await;
    let (inbound, outbound) = (
        staff.customer_message(&contact, "hello").await,
        staff.operator_message(&contact, "hello too").await,
    );
    let path = format!("/messages/{}/delivery", id_of(&outbound));
    let history = eventually("it is delivered", SOON, || async {
        let (status, history) = staff.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{history}");
        // The attempt is written apart from the message, so it may be visible later.
        (history["delivery"]["state"] == "delivered" && history["attempts"] != json!([]))
            .then_some(history)
    })
    .await;
    let attempts = history["attempts"].as_array().unwrap();
    assert_eq!(
        (
            attempts.len(),
            &attempts[0]["state"],
            &attempts[0]["status"]
        ),
        (1, &json!("delivered"), &json!(200)),
        "{history}"
    );
    assert_eq!(
        staff
            .get(&format!("/messages/{}/delivery", id_of(&inbound)))
            .await
            .1,
        json!({"delivery": null, "attempts": []})
    );
    assert_eq!(other.get(&path).await.0, StatusCode::NOT_FOUND);
    assert_eq!(
        staff
            .get(&format!("/messages/{}/delivery", "a".repeat(24)))
            .await
            .0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        staff.get("/messages/nonsense/delivery").await.1["code"],
        "CAST_ERROR"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_and_deletes_accept_both_id_names_and_deleted_messages_disappear() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let created = staff.customer_message(&contact, "first").await;
    staff.customer_message(&contact, "second").await;
    let id = id_of(&created);
    let patch = async |body: Value| staff.send(Method::PATCH, "/messages", body).await;
    for (name, text) in [("_id", "one"), ("id", "two")] {
        let (status, answer) = patch(json!({name: id, "content": text})).await;
        assert_eq!(
            (status, &answer["messageData"]["content"]),
            (StatusCode::OK, &json!(text)),
            "{answer}"
        );
    }
    let (status, problem) =
        patch(json!({"id": id, "role": "operator", "read": true, "content": "x"})).await;
    let named: Vec<&str> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["field"].as_str().unwrap())
        .collect();
    assert_eq!(
        (status, named),
        (StatusCode::BAD_REQUEST, vec!["role", "read"])
    );
    assert_eq!(
        patch(json!({"_id": id, "id": "a".repeat(24), "content": "x"}))
            .await
            .0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        patch(json!({"content": "x"})).await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(patch(json!({"id": id})).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(
        patch(json!({"id": "nonsense", "content": "x"})).await.1["code"],
        "CAST_ERROR"
    );
    assert_eq!(
        patch(json!({"id": "a".repeat(24), "content": "x"})).await.0,
        StatusCode::NOT_FOUND
    );

    let (status, answer) = staff
        .send(Method::DELETE, "/messages", json!({"id": id}))
        .await;
    assert_eq!(
        (status, &answer["_id"]),
        (StatusCode::OK, &json!(id)),
        "{answer}"
    );
    for path in [
        format!("/messages/{id}"),
        format!("/messages/{id}/delivery"),
    ] {
        assert_eq!(staff.get(&path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    let page = staff
        .get(&format!("/messages?contact_id={contact}"))
        .await
        .1;
    assert_eq!(
        (contents(&page), &page["totalMessages"]),
        (vec!["second".to_owned()], &json!(1))
    );
    assert_eq!(
        staff.get("/conversations").await.1["contacts"][0]["unread"],
        1
    );
    for method in [Method::PATCH, Method::DELETE] {
        assert_eq!(
            staff
                .send(method, "/messages", json!({"_id": id, "content": "x"}))
                .await
                .0,
            StatusCode::NOT_FOUND
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_conversation_is_not_found() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let (known, unknown) = (staff.new_contact().await, "b".repeat(24));
    let read = async |contact: &str, platform: &str| {
        staff
            .send(
                Method::PUT,
                "/messages/mark-read",
                json!({"contact_id": contact, "platform": platform}),
            )
            .await
    };
    // A contact without messages has an empty conversation. Messages without a contact form a
    // conversation too.
    let (status, page) = staff.get(&format!("/messages?contact_id={known}")).await;
    assert_eq!((status, &page["messages"]), (StatusCode::OK, &json!([])));
    assert_eq!(read(&known, "WhatsApp").await.0, StatusCode::OK);
    for (status, problem) in [
        staff.get(&format!("/messages?contact_id={unknown}")).await,
        staff
            .get(&format!("/messages?contact_id={unknown}&skip=1"))
            .await,
        staff
            .post("/messages", json!({"contact_id": unknown}))
            .await,
        read(&unknown, "web").await,
    ] {
        assert_eq!(
            (status, &problem["detail"]),
            (StatusCode::NOT_FOUND, &json!("contact not found")),
            "{problem}"
        );
    }
    let body = json!({"contact_id": unknown, "role": "user", "platform": " Web ", "direction": "inbound", "content": "who am I?"});
    let (status, created) = staff.post("/messages", body).await;
    assert_eq!(
        (status, &created["messageData"]["platform"]),
        (StatusCode::CREATED, &json!("web")),
        "{created}"
    );
    for matched in [1, 0] {
        let (status, answer) = read(&unknown, "WEB").await;
        assert_eq!(
            (status, &answer["matched"], &answer["modified"]),
            (StatusCode::OK, &json!(matched), &json!(matched)),
            "{answer}"
        );
    }
    for page in ["platform=Web", "skip=1"] {
        assert_eq!(
            staff
                .get(&format!("/messages?contact_id={unknown}&{page}"))
                .await
                .0,
            StatusCode::OK,
            "{page}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn internal_services_must_name_the_company() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    staff.customer_message(&contact, "hello").await;
    let key = system.secret("internal_api_key");
    let get = async |path: &str| {
        let request = system
            .http
            .get(format!("{}/api/v1{path}", system.url("gateway")))
            .header("x-api-key", &key);
        request.send().await.unwrap().status()
    };
    for path in [
        "/conversations",
        "/contacts",
        &format!("/contacts/{contact}"),
        &format!("/messages?contact_id={contact}"),
    ] {
        assert_eq!(get(path).await, StatusCode::BAD_REQUEST, "{path}");
        let separator = if path.contains('?') { '&' } else { '?' };
        assert_eq!(
            get(&format!("{path}{separator}company_id={}", staff.company)).await,
            StatusCode::OK,
            "{path}"
        );
    }
    assert_eq!(
        get(&format!("/integrations?company_id={}", staff.company)).await,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documentation_page_loads_nothing_from_other_hosts() {
    let system = System::shared().await;
    let get = async |path: &str| {
        let answer = system
            .http
            .get(format!("{}{path}", system.url("gateway")))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let policy = answer.headers()["content-security-policy"]
            .to_str()
            .unwrap()
            .to_owned();
        (policy, answer.text().await.unwrap())
    };
    let (policy, page) = get("/docs/").await;
    assert!(
        policy.contains("script-src 'self'") && !policy.contains("http"),
        "{policy}"
    );
    let linked = ["src=\"", "href=\""].iter().flat_map(|attribute| {
        page.split(attribute)
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap())
    });
    let mut files = 0;
    for file in linked {
        assert!(!file.contains("//"), "{file} is elsewhere");
        let (_, text) = get(&format!("/docs/{}", file.trim_start_matches("./"))).await;
        assert!(!text.is_empty());
        files += 1;
    }
    assert!(files >= 4, "{page}");
    assert!(
        !page.contains("<script>"),
        "its own policy would stop an inline script"
    );
    assert!(
        get("/docs/swagger-initializer.js")
            .await
            .1
            .contains("/openapi.json")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_of_more_messages_than_one_command_marks_is_read_whole() {
    const BATCHES: usize = 22;
    const EACH: usize = 500;
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let message = json!({"contact_id": contact, "role": "user", "platform": "web", "direction": "inbound", "content": "hello"});
    for _ in 0..BATCHES {
        let body = json!({"messages": vec![message.clone(); EACH]});
        let (status, answer) = staff.post("/messages/batch", body).await;
        assert!(status.is_success(), "{status} {answer}");
    }
    let body = json!({"contact_id": contact});
    let (status, answer) = staff.send(Method::PUT, "/messages/mark-read", body).await;
    assert!(status.is_success(), "{status} {answer}");
    let database = system.database().await;
    let company = ObjectId::parse_str(&staff.company).unwrap();
    eventually("all are read", AFTER_FAULT, || async {
        let read = doc! {"company_id": company, "read": true};
        let messages = database.collection::<Document>("messages");
        let count = messages.count_documents(read).await.ok()?;
        (count == (BATCHES * EACH) as u64).then_some(())
    })
    .await;
}
