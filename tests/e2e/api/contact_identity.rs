//! One contact for each id on a platform, however it is entered; and the exact look-up.

use std::collections::{HashMap, HashSet};

use futures_util::StreamExt;
use futures_util::stream;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Staff, System};

fn person(name: &str, on: &str, id: &str) -> Value {
    json!({"fullName": name, "social": {on: id}})
}

fn id_of_contact(answer: &Value) -> String {
    answer["contact"]["_id"].as_str().unwrap().to_owned()
}

async fn find_or_create(staff: &Staff<'_>, gateway: &str, body: &Value) -> (StatusCode, Value) {
    let request = staff
        .system
        .http
        .put(format!("{gateway}/api/v1/contacts"))
        .bearer_auth(&staff.token);
    let answer = request.json(body).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

async fn found(staff: &Staff<'_>, query: &str) -> Vec<String> {
    let (status, page) = staff.get(&format!("/contacts?{query}")).await;
    assert_eq!(status, StatusCode::OK, "{query}: {page}");
    let contacts = page["contacts"].as_array().unwrap();
    let id = |contact: &Value| contact["_id"].as_str().unwrap().to_owned();
    contacts.iter().map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn people_who_come_by_two_gateways_at_once_are_one_contact_each() {
    const PEOPLE: usize = 100;
    const REQUESTS: usize = 1_000;
    const AT_ONCE: usize = 32;
    let system = System::start(&["--replicas", "gateway=2"]).await;
    let staff = &system.new_company().await;
    let gateways = &system.services("gateway");
    let requests = stream::iter(0..REQUESTS).map(|n| async move {
        let who = n % PEOPLE;
        let body = person(&format!("Person {who}"), "telegramId", &format!("t-{who}"));
        // Neighbours of a person go to the other gateway.
        let (status, answer) = find_or_create(staff, &gateways[n / PEOPLE % 2], &body).await;
        assert!(status.is_success(), "{status} {answer}");
        (who, status, id_of_contact(&answer))
    });
    let answers: Vec<_> = requests.buffer_unordered(AT_ONCE).collect().await;
    let mut ids: HashMap<usize, HashSet<String>> = HashMap::new();
    let mut created = 0;
    for (who, status, id) in answers {
        ids.entry(who).or_default().insert(id);
        created += usize::from(status == StatusCode::CREATED);
    }
    assert!(ids.values().all(|ids| ids.len() == 1), "{ids:?}");
    assert_eq!((ids.len(), created), (PEOPLE, PEOPLE));
    let (_, page) = staff.get("/contacts?limit=100&skip=100").await;
    assert_eq!(page["contacts"], json!([]));
    system.assert_audit_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_on_a_platform_belongs_to_one_contact_until_an_edit_gives_it_away() {
    let system = System::shared().await;
    let (staff, other) = (system.new_company().await, system.new_company().await);
    let gateway = system.url("gateway");
    let ada = person("Ada", "facebookId", "77");
    let (status, first) = find_or_create(&staff, &gateway, &ada).await;
    assert_eq!(status, StatusCode::CREATED, "{first}");
    let (status, again) = find_or_create(&staff, &gateway, &person("A.", "facebookId", "77")).await;
    assert_eq!(status, StatusCode::OK, "{again}");
    assert_eq!(again["contact"], first["contact"]);
    // The same id on another platform, or of another company, is somebody else.
    for (whose, body) in [
        (&staff, person("Al", "telegramId", "77")),
        (&other, ada.clone()),
    ] {
        let (status, answer) = find_or_create(whose, &gateway, &body).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }
    let is_taken = |(status, answer): (StatusCode, Value)| {
        assert_eq!(status, StatusCode::CONFLICT, "{answer}");
        assert_eq!(answer["code"], "DUPLICATE_KEY");
        assert_eq!(answer["existing_id"], first["contact"]["_id"]);
    };
    is_taken(staff.post("/contacts", ada.clone()).await);
    let (_, bert) = staff.post("/contacts", json!({"fullName": "Bert"})).await;
    let bert = format!("/contacts/{}", id_of_contact(&bert));
    let take = json!({"social": {"facebookId": "77"}});
    is_taken(staff.send(Method::PATCH, &bert, take.clone()).await);
    // Its owner may be edited, and may give it away.
    let adas = format!("/contacts/{}", id_of_contact(&first));
    for body in [take.clone(), json!({"social": {"facebookId": null}})] {
        let (status, answer) = staff.send(Method::PATCH, &adas, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
    let (status, new) = find_or_create(&staff, &gateway, &ada).await;
    assert_eq!(status, StatusCode::CREATED, "{new}");
    assert_ne!(id_of_contact(&new), id_of_contact(&first));
    let without = find_or_create(&staff, &gateway, &json!({"fullName": "Nobody"})).await;
    assert_eq!(without.0, StatusCode::BAD_REQUEST, "{}", without.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn contacts_are_looked_up_exactly_and_right_after_they_were_entered() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let enter = |name: &'static str, more: Value| {
        let mut body = json!({"fullName": name});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let staff = &staff;
        async move {
            let (status, answer) = staff.post("/contacts", body).await;
            assert_eq!(status, StatusCode::CREATED, "{answer}");
            id_of_contact(&answer)
        }
    };
    let long = enter(
        "J\u{fc}rgen M\u{fc}ller",
        json!({"social": {"facebookId": "17840"}}),
    )
    .await;
    let short = enter(
        "Short",
        json!({"social": {"facebookId": "1784"}, "email": "A.B+c@Example.com"}),
    )
    .await;
    let phone = enter(
        "\u{738b}\u{5c0f}\u{660e}",
        json!({"phone": "+49 (170) 1234567"}),
    )
    .await;
    for (query, expected) in [
        ("facebookId=1784", vec![&short]),
        ("facebookId=17840", vec![&long]),
        ("facebookId=178", vec![]),
        ("instagramId=1784", vec![]),
        ("email=a.b%2Bc%40example.COM", vec![&short]),
        ("email=axb%2Bc%40example.com", vec![]),
        ("phone=%2B49%20170-1234567", vec![&phone]),
        ("phone=491701234", vec![]),
        ("facebookId=1784&email=nobody%40example.com", vec![]),
        ("search=muller", vec![&long]),
        ("search=%E5%B0%8F%E6%98%8E", vec![&phone]),
        ("search=0170%201234567", vec![&phone]),
        ("search=0", vec![]),
        ("search=000", vec![]),
        ("phone=none", vec![]),
    ] {
        let found = found(&staff, query).await;
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{query}");
    }
}
