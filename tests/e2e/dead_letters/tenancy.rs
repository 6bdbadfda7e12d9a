//! Who sees which dead letters, which of their fields, and who may replay them.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::dead_letters::{DeadLetter, list_dead_letters, open_dead_letters, seqs};
use crate::support::{SOON, Staff, System, eventually};

/// A password hash, which no manager may see.
const HASH: &str = "$2b$12$abcdefghijklmnopqrstuv";

async fn receptionist(staff: &Staff<'_>) -> String {
    let email = format!("reception-{}@example.com", staff.company);
    let (status, invited) = staff
        .post(
            "/auth/invitations",
            json!({"email": email, "role": "receptionist"}),
        )
        .await;
    assert_eq!(status, StatusCode::CREATED, "{invited}");
    let body = json!({"invitation": invited["invitation"], "fullName": "Rae Reception", "email": email, "password": "correct horse"});
    let (status, joined) = staff
        .system
        .request(Method::POST, "/auth/register", None, Some(&body))
        .await;
    assert_eq!(status, StatusCode::CREATED, "{joined}");
    joined["accessToken"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn managers_see_only_their_companys_dead_letters_and_no_secrets() {
    let system = System::start(&["--replicas", "gateway=2"]).await;
    let (staff, other) = (system.new_company().await, system.new_company().await);
    let (contact, user) = (staff.new_contact().await, "d".repeat(24));
    let jetstream = system.operator().await;
    let with_hash = json!({"password_hash": HASH}).to_string();
    let subjects = [
        (
            format!(
                "message.created.{}.{contact}.web.inbound.user",
                staff.company
            ),
            "{\"text\":\"own words\"}",
        ),
        (
            format!("user.created.{}.{user}", staff.company),
            with_hash.as_str(),
        ),
        (
            format!("message.delivery.{}.{contact}", staff.company),
            "{}",
        ),
    ];
    for (subject, payload) in &subjects {
        jetstream
            .publish(subject.clone(), payload.to_string().into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let open = open_dead_letters(&staff, subjects.len()).await;
    let dead_letter = |n: usize| {
        open.iter()
            .find(|dead_letter| dead_letter["subject"] == subjects[n].0)
            .unwrap()
    };
    let (own_words, secret, step) = (dead_letter(0), dead_letter(1), dead_letter(2));

    let show = async |dead_letter: &DeadLetter| {
        staff
            .get(&format!("/dead-letters/{}", dead_letter.seq))
            .await
            .1["dead_letter"]
            .clone()
    };
    let shown = show(own_words).await;
    assert_eq!(
        (&shown["payload"]["text"], &shown["payload_hidden"]),
        (&json!("own words"), &json!(false)),
        "{shown}"
    );
    assert_eq!(shown["headers"]["Dead-Reason"], json!(["malformed"]));
    assert!(shown["error"].is_string());
    let hidden = show(secret).await;
    assert_eq!(
        (
            &hidden["payload"],
            &hidden["payload_hidden"],
            &hidden["error"]
        ),
        (&Value::Null, &json!(true), &Value::Null)
    );
    assert!(
        !hidden.to_string().contains(HASH) && hidden["headers"]["Dead-Error"].is_null(),
        "{hidden}"
    );
    assert!(
        open.iter()
            .all(|dead_letter| !dead_letter.to_string().contains(HASH))
    );
    let all = system
        .petbuddy_as_operator(&["dead-letters", "show", &secret.seq.to_string()])
        .output()
        .unwrap();
    assert!(
        String::from_utf8(all.stdout).unwrap().contains(HASH),
        "an operator sees all"
    );

    // Another company's manager, a receptionist, and a service.
    let reception = receptionist(&staff).await;
    let key = system.secret("internal_api_key");
    assert!(list_dead_letters(&other, "state=all").await.is_empty());
    let (_, answer) = other.post("/dead-letters/replay", json!({})).await;
    assert_eq!(
        (&answer["count"], &answer["skipped"]),
        (&json!(0), &json!([])),
        "{answer}"
    );
    let reason = json!({"reason": "not mine"});
    let of_one = format!("/dead-letters/{}", own_words.seq);
    for (method, path, body) in [
        (Method::GET, "/dead-letters".to_owned(), None),
        (
            Method::POST,
            "/dead-letters/replay".to_owned(),
            Some(json!({})),
        ),
        (Method::GET, of_one.clone(), None),
        (Method::POST, format!("{of_one}/replay"), None),
        (Method::POST, format!("{of_one}/discard"), Some(reason)),
    ] {
        if path.starts_with(&of_one) {
            let (status, answer) = system
                .request(method.clone(), &path, Some(&other.token), body.as_ref())
                .await;
            assert_eq!(
                (status, &answer["code"]),
                (StatusCode::NOT_FOUND, &json!("NOT_FOUND")),
                "{method} {path}"
            );
        }
        let (status, _) = system
            .request(method.clone(), &path, Some(&reception), body.as_ref())
            .await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}");
        let mut request = system
            .http
            .request(
                method.clone(),
                format!("{}/api/v1{path}", system.url("gateway")),
            )
            .header("x-api-key", &key);
        if let Some(body) = &body {
            request = request.json(body);
        }
        assert_eq!(
            request.send().await.unwrap().status(),
            StatusCode::FORBIDDEN,
            "{method} {path}"
        );
    }
    assert_eq!(
        open_dead_letters(&staff, subjects.len()).await,
        open,
        "all are still open"
    );

    // Only an operator may replay events that services store. A manager's bulk replay skips them.
    let (status, answer) = staff
        .post(&format!("/dead-letters/{}/replay", step.seq), json!({}))
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
    let (_, answer) = staff
        .post(
            "/dead-letters/replay",
            json!({"contact_id": contact, "dry_run": true}),
        )
        .await;
    assert_eq!(
        (&answer["sequences"], &answer["skipped"][0]["seq"]),
        (&json!([own_words.seq]), &json!(step.seq)),
        "{answer}"
    );
    let args = [
        "dead-letters",
        "replay",
        "--all",
        "--company",
        &staff.company,
        "--json",
    ];
    let output = system.petbuddy_as_operator(&args).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &answer["count"], &answer["skipped"]),
        (Some(0), &json!(3), &json!([])),
        "{answer}"
    );
    let again = eventually("all have failed again", SOON, || async {
        let again = list_dead_letters(&staff, "").await;
        (again.len() == 3
            && again
                .iter()
                .all(|dead_letter| dead_letter.replay_of.is_some()))
        .then_some(again)
    })
    .await;
    assert!(seqs(&again).iter().all(|seq| !seqs(&open).contains(seq)));
}
