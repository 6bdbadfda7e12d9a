//! The contact endpoints: create, search, page and edit.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{SOON, Staff, System, eventually};

async fn enter(staff: &Staff<'_>, body: Value) -> Value {
    let (status, answer) = staff.post("/contacts", body).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    answer["contact"].clone()
}

async fn names(staff: &Staff<'_>, query: &str) -> Vec<String> {
    let (status, page) = staff.get(&format!("/contacts?{query}")).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    page["contacts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["fullName"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn contacts_are_found_by_word_prefixes_and_paged_by_cursor() {
    let system = System::shared().await;
    let (staff, other) = (system.new_company().await, system.new_company().await);
    enter(
        &staff,
        json!({"fullName": "Ada Lovelace", "email": "ada@example.com", "phone": "+44 20 7946"}),
    )
    .await;
    enter(
        &staff,
        json!({"fullName": "Adam Smith", "social": {"telegramId": "tg-77"}}),
    )
    .await;
    enter(
        &staff,
        json!({"fullName": "Grace Hopper", "socialNetworkName": "amazing.grace"}),
    )
    .await;
    enter(&other, json!({"fullName": "Ada of another company"})).await;
    eventually("all are listed", SOON, || async {
        (names(&staff, "").await.len() == 3).then_some(())
    })
    .await;
    assert_eq!(
        names(&staff, "").await,
        ["Grace Hopper", "Adam Smith", "Ada Lovelace"]
    );
    for (search, expected) in [
        ("ada", &["Adam Smith", "Ada Lovelace"][..]),
        ("ADA%20lov", &["Ada Lovelace"]),
        ("ada%40example", &["Ada Lovelace"]),
        ("7946", &["Ada Lovelace"]),
        ("tg-77", &["Adam Smith"]),
        ("amazing", &["Grace Hopper"]),
        ("lace", &[]),
        (".*", &[]),
        ("%24gt", &[]),
    ] {
        assert_eq!(
            names(&staff, &format!("search={search}")).await,
            expected,
            "{search}"
        );
    }
    assert_eq!(names(&staff, "search=").await.len(), 3);
    assert_eq!(names(&staff, "limit=1&skip=1").await, ["Adam Smith"]);
    let (_, first) = staff.get("/contacts?limit=2").await;
    enter(&staff, json!({"fullName": "Too late for this list"})).await;
    let rest = names(
        &staff,
        &format!("limit=2&cursor={}", first["next_cursor"].as_str().unwrap()),
    )
    .await;
    assert_eq!(rest, ["Ada Lovelace"]);
    let long = "x".repeat(101);
    for wrong in [
        format!("search={long}"),
        "limit=0".into(),
        "cursor=x".into(),
    ] {
        assert_eq!(
            staff.get(&format!("/contacts?{wrong}")).await.0,
            StatusCode::BAD_REQUEST,
            "{wrong}"
        );
    }
    assert_eq!(
        staff
            .get(&format!("/contacts?company_id={}", other.company))
            .await
            .0,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_idempotency_key_creates_one_contact() {
    let system = System::shared().await;
    let (staff, other) = (system.new_company().await, system.new_company().await);
    let key = [("Idempotency-Key", "entered-1")];
    let body = json!({"fullName": "Once Only", "phone": "1"});
    let mut answers = Vec::new();
    for replayed in [false, true] {
        let answer = staff.post_to(0, "/contacts", &key, &body).await;
        assert_eq!(
            (
                answer.status,
                answer.headers.contains_key("idempotency-replayed")
            ),
            (StatusCode::CREATED, replayed),
            "{answer:?}"
        );
        answers.push(answer.body);
    }
    assert_eq!(answers[0], answers[1]);
    let reused = staff
        .post_to(0, "/contacts", &key, &json!({"fullName": "Another"}))
        .await;
    assert_eq!(
        (reused.status, &reused.body["code"]),
        (
            StatusCode::UNPROCESSABLE_ENTITY,
            &json!("IDEMPOTENCY_KEY_REUSED")
        )
    );
    let others = other.post_to(0, "/contacts", &key, &body).await;
    assert_eq!(
        (
            others.status,
            others.headers.contains_key("idempotency-replayed")
        ),
        (StatusCode::CREATED, false),
        "{others:?}"
    );
    eventually("it is there", SOON, || async {
        (names(&staff, "").await == ["Once Only"]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contact_edit_changes_the_given_fields_and_null_removes_them() {
    let system = System::shared().await;
    let (staff, other) = (system.new_company().await, system.new_company().await);
    let social = json!({"facebookId": "1", "instagramId": "2"});
    let before = enter(
        &staff,
        json!({"fullName": "Ada", "email": "ada@example.com", "phone": "1", "social": social, "profile": {"name": "A", "pets": ["Rex"]}}),
    )
    .await;
    let path = format!("/contacts/{}", before["_id"].as_str().unwrap());
    let patch = async |body: Value| staff.send(Method::PATCH, &path, body).await;
    let until = "2026-12-01T08:00:00.000Z";
    let (status, answer) = patch(json!({
        "fullName": "Ada King", "email": null, "leadStage": "won", "social": {"facebookId": null, "whatsappId": "3"},
        "botSuspended": true, "botSuspendUntil": "2026-12-01T09:00:00+01:00",
    }))
    .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let after = &answer["contact"];
    let mut expected = before.clone();
    expected.as_object_mut().unwrap().remove("email");
    expected["fullName"] = json!("Ada King");
    expected["leadStage"] = json!("won");
    expected["social"] = json!({"instagramId": "2", "whatsappId": "3"});
    expected["botSuspended"] = json!(true);
    expected["botSuspendUntil"] = json!(until);
    assert_eq!(after, &expected);
    assert!(answer["seq"].as_u64().unwrap() > 0);
    assert_eq!(staff.get(&path).await.1["contact"], expected);

    let (status, answer) = patch(json!({"botSuspended": false, "botSuspendUntil": null, "profile": {"name": "B"}, "social": null})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        (
            &answer["contact"]["botSuspendUntil"],
            &answer["contact"]["social"]
        ),
        (&Value::Null, &json!({}))
    );
    assert_eq!(answer["contact"]["profile"], json!({"name": "B"}));

    for (body, field) in [
        (json!({}), "fullName"),
        (json!({"unknown": 1}), "fullName"),
        (json!({"fullName": null}), "fullName"),
        (json!({"fullName": "  "}), "fullName"),
        (json!({"botSuspendUntil": "tomorrow"}), "botSuspendUntil"),
        (json!({"botSuspended": "perhaps"}), "botSuspended"),
        (json!({"email": {"$ne": null}}), "email"),
        (json!({"social": {"facebookId": [5]}}), "social.facebookId"),
        (json!({"phone": "1", "created_at": until}), "created_at"),
        (json!({"phone": "1", "_id": before["_id"]}), "_id"),
    ] {
        let (status, problem) = patch(body.clone()).await;
        assert_eq!(
            (status, &problem["errors"][0]["field"]),
            (StatusCode::BAD_REQUEST, &json!(field)),
            "{body}: {problem}"
        );
    }
    assert_eq!(
        other
            .send(Method::PATCH, &path, json!({"phone": "2"}))
            .await
            .0,
        StatusCode::NOT_FOUND
    );
    let of_another = json!({"phone": "2", "company_id": other.company});
    assert_eq!(patch(of_another).await.0, StatusCode::FORBIDDEN);
    assert_eq!(
        staff
            .send(
                Method::PATCH,
                &format!("/contacts/{}", "a".repeat(24)),
                json!({"phone": "2"})
            )
            .await
            .0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        staff
            .send(Method::PATCH, "/contacts/nonsense", json!({"phone": "2"}))
            .await
            .1["code"],
        "CAST_ERROR"
    );
    assert_eq!(
        staff.post("/contacts", json!({"leadStage": "new"})).await.1["errors"][0]["field"],
        "fullName"
    );
}
