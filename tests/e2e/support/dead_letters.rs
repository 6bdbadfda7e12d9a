//! Dead letters as a manager sees them by REST, and what was sent to the bot instead.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{SOON, Staff, System, eventually};

/// The company's dead letters that match a query string, as its manager sees them.
pub async fn list_dead_letters(staff: &Staff<'_>, query: &str) -> Vec<Value> {
    let (status, answer) = staff.get(&format!("/dead-letters?{query}")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["dead_letters"].as_array().unwrap().clone()
}

/// The company's open dead letters, once there are so many.
pub async fn open_dead_letters(staff: &Staff<'_>, many: usize) -> Vec<Value> {
    eventually(&format!("{many} open dead letters"), SOON, || async {
        let dead_letters = list_dead_letters(staff, "").await;
        (dead_letters.len() == many).then_some(dead_letters)
    })
    .await
}

/// The one open dead letter there is, once it is for this reason.
pub async fn only_dead_letter(staff: &Staff<'_>, reason: &str) -> Value {
    let dead_letter = open_dead_letters(staff, 1).await.remove(0);
    assert_eq!(dead_letter["reason"], reason, "{dead_letter}");
    dead_letter
}

/// Has a dead letter replayed, which must work; the dead letter as it is then.
pub async fn replay(staff: &Staff<'_>, dead_letter: &Value) -> Value {
    let (status, answer) = staff
        .post(
            &format!("/dead-letters/{}/replay", dead_letter["seq"]),
            json!({}),
        )
        .await;
    assert_eq!(
        (status, &answer["dead_letter"]["state"]),
        (StatusCode::OK, &json!("replayed")),
        "{answer}"
    );
    answer["dead_letter"].clone()
}

/// An operator's message to this contact; its id.
pub async fn send_operator_message(staff: &Staff<'_>, contact: &str, text: &str) -> String {
    staff.operator_message(contact, text).await.id
}

/// The sequences of dead letters.
pub fn seqs(dead_letters: &[Value]) -> Vec<u64> {
    dead_letters
        .iter()
        .map(|dead_letter| dead_letter["seq"].as_u64().unwrap())
        .collect()
}

/// How many messages `OUTBOUND` has ever had, and how many are there now.
pub async fn outbound(system: &System) -> (u64, u64) {
    let state = system
        .operator()
        .await
        .get_stream("OUTBOUND")
        .await
        .unwrap()
        .cached_info()
        .state
        .clone();
    (state.last_sequence, state.messages)
}

/// What the bot has taken of these messages, in its order.
pub async fn keys_delivered(system: &System, contact: &str) -> Vec<String> {
    let of_contact = |d: &Value| d["status"] == 200 && d["body"]["customer_id"] == contact;
    let all = system.deliveries().await;
    all.iter()
        .filter(|d| of_contact(d))
        .map(|d| d["idempotency_key"].as_str().unwrap().to_owned())
        .collect()
}
