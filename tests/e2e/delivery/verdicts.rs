//! What answers of the bot, of the platform behind it and of the road before it become: retried,
//! held, or a dead letter with the platform's own words. Every row of the table is in the unit tests
//! of the forwarder.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::dead_letters::{list_dead_letters, only_dead_letter};
use crate::support::delivery::{bot_calls_for, delivery};
use crate::support::{Staff, System};

const PAGE: &str = "<html><body>nginx</body></html>";
const WORDS: &str = "(#100) Length of param message[text] must be less than or equal to 2000";

/// The last attempt, as `GET /messages/{id}/delivery` shows it.
async fn last_attempt(staff: &Staff<'_>, id: &str) -> Value {
    let (status, answer) = staff.get(&format!("/messages/{id}/delivery")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let attempts = answer["attempts"].as_array();
    attempts
        .and_then(|all| all.last())
        .cloned()
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_retried_and_what_is_refused_ends_with_the_platforms_words() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let not_the_bots = ": not an answer of the bot";
    for (mode, error) in [
        (
            json!({"status": 404, "body": PAGE}),
            format!("HTTP 404{not_the_bots}"),
        ),
        (
            json!({"status": 403, "body": PAGE}),
            format!("HTTP 403{not_the_bots}"),
        ),
        (
            json!({"status": 413, "body": PAGE}),
            format!("HTTP 413{not_the_bots}"),
        ),
        (
            json!({"status": 200, "body": PAGE}),
            format!("HTTP 200{not_the_bots}"),
        ),
        (
            json!({"status": 405, "body": ""}),
            format!("HTTP 405{not_the_bots}"),
        ),
        (
            json!({"status": 400, "graph_code": 613}),
            "HTTP 400, Graph code 613: the stub bot was told to fail".into(),
        ),
        (
            json!({"status": 403, "graph_code": 4}),
            "HTTP 403, Graph code 4: the stub bot was told to fail".into(),
        ),
        (
            json!({"status": 200, "body": {"error": {"code": 2, "message": "try later"}}}),
            "HTTP 200, Graph code 2: try later".into(),
        ),
    ] {
        system.bot_mode(mode.clone()).await;
        let id = staff.operator_message(&contact, "passes").await.id;
        let retrying = delivery(&staff, &id, "retrying").await;
        assert_eq!(retrying.get_str("last_error").unwrap(), error, "{mode}");
        system.bot_mode(json!({})).await;
        delivery(&staff, &id, "delivered").await;
    }
    assert_eq!(list_dead_letters(&staff, "").await, []);

    let text = json!({"success": false, "error": {
        "message": WORDS, "code": 100, "error_subcode": 2_018_109,
    }});
    for (mode, error) in [
        (
            json!({"status": 400, "body": text}),
            format!("HTTP 400, Graph code 100, subcode 2018109: {WORDS}"),
        ),
        (
            json!({"status": 200, "body": text}),
            format!("HTTP 200, Graph code 100, subcode 2018109: {WORDS}"),
        ),
        (
            json!({"status": 403, "graph_code": 10, "graph_subcode": 2_018_278}),
            "HTTP 403, Graph code 10, subcode 2018278: the stub bot was told to fail".into(),
        ),
        (
            json!({"status": 422, "body": {"message": "no such sticker"}}),
            "HTTP 422: no such sticker".into(),
        ),
    ] {
        system.bot_mode(mode.clone()).await;
        let id = staff.operator_message(&contact, "refused").await.id;
        let failed = delivery(&staff, &id, "failed").await;
        assert_eq!(failed.get_str("last_error").unwrap(), error, "{mode}");
        assert_eq!(
            last_attempt(&staff, &id).await["error"],
            json!(error),
            "{mode}"
        );
        assert_eq!(bot_calls_for(&system, &id).await.len(), 1, "{mode}");
        let dead_letter = only_dead_letter(&staff, "refused").await;
        assert_eq!(dead_letter["error"], json!(error), "{dead_letter}");
        let path = format!("/dead-letters/{}/discard", dead_letter.seq);
        let (status, answer) = staff.post(&path, json!({"reason": "seen"})).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
    system.assert_audit_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_holds_the_company_only_after_two_conversations_were_refused() {
    let system = System::start(&[]).await;
    let (staff, other) = (system.new_company().await, system.new_company().await);
    for refusal in [
        json!({"status": 403}),
        json!({"status": 401}),
        json!({"status": 403, "graph_code": 230}),
    ] {
        let (one, two) = (staff.new_contact().await, staff.new_contact().await);
        let mut mode = refusal.clone();
        mode["only"] = json!([one]);
        system.bot_mode(mode).await;
        let odd = staff.operator_message(&one, "DROP TABLE x").await.id;
        delivery(&staff, &odd, "retrying").await;
        // The other conversation goes on. Because it does, the refusal is about the first one alone.
        let fine = staff.operator_message(&two, "come at five").await.id;
        delivery(&staff, &fine, "delivered").await;
        delivery(&staff, &odd, "failed").await;
        assert!(bot_calls_for(&system, &odd).await.len() >= 3, "{refusal}");
    }

    // Everything of the company is refused: it is held, until the token is replaced.
    system
        .bot_mode(json!({"status": 403, "only": [other.token_for("facebook")]}))
        .await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let contact = other.new_contact().await;
        ids.push(other.operator_message(&contact, "held").await.id);
    }
    for id in &ids {
        delivery(&other, id, "held").await;
    }
    let body = json!({"access_token": "EAAB-another"});
    let (status, answer) = other
        .send(Method::PUT, "/integrations/facebook", body)
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    for id in &ids {
        delivery(&other, id, "delivered").await;
    }
    system.assert_audit_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_outlives_a_wrong_road_and_throttling() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let mut contacts = Vec::new();
    for _ in 0..10 {
        contacts.push(staff.new_contact().await);
    }
    for mode in [
        json!({"status": 404, "body": PAGE}),
        json!({"status": 400, "graph_code": 613}),
    ] {
        system.bot_mode(mode).await;
        let mut ids = Vec::new();
        for n in 0..4 {
            for contact in &contacts {
                ids.push(staff.operator_message(contact, &format!("{n}")).await.id);
            }
        }
        for id in &ids[..contacts.len()] {
            delivery(&staff, id, "retrying").await;
        }
        system.bot_mode(json!({})).await;
        for id in &ids {
            delivery(&staff, id, "delivered").await;
        }
    }
    assert_eq!(list_dead_letters(&staff, "").await, []);
    system.assert_audit_clean();
}
