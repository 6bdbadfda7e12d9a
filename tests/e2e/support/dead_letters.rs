//! Dead letters as a manager sees them by REST, and the effects of a replay: what `OUTBOUND` has and
//! what the bot received.

use std::fmt;
use std::ops::Deref;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{SOON, Staff, System, eventually};

/// A dead letter as the API shows it. Fields that few tests read stay JSON:
/// `dead_letter["subject"]`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    pub seq: u64,
    /// The dead letter whose replay failed again as this one.
    pub replay_of: Option<u64>,
    /// The sequence in the target stream, once the dead letter is replayed.
    pub replayed_to: Option<u64>,
    /// The whole dead letter.
    pub json: Value,
}

impl DeadLetter {
    pub fn of(json: Value) -> DeadLetter {
        DeadLetter {
            seq: json["seq"]
                .as_u64()
                .unwrap_or_else(|| panic!("no seq in {json}")),
            replay_of: json["replay_of"].as_u64(),
            replayed_to: json["fate"]["replayed_to"]["seq"].as_u64(),
            json,
        }
    }

    /// The dead letters of one page.
    pub fn list(page: &Value) -> Vec<DeadLetter> {
        let list = page["dead_letters"].as_array();
        let list = list.unwrap_or_else(|| panic!("no dead letters in {page}"));
        list.iter().cloned().map(DeadLetter::of).collect()
    }
}

impl Deref for DeadLetter {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.json
    }
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.json.fmt(f)
    }
}

/// The company's dead letters that match a query string, as its manager sees them.
pub async fn list_dead_letters(staff: &Staff<'_>, query: &str) -> Vec<DeadLetter> {
    let (status, answer) = staff.get(&format!("/dead-letters?{query}")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    DeadLetter::list(&answer)
}

/// Waits until the company has this many open dead letters.
pub async fn open_dead_letters(staff: &Staff<'_>, many: usize) -> Vec<DeadLetter> {
    eventually(&format!("{many} open dead letters"), SOON, || async {
        let dead_letters = list_dead_letters(staff, "").await;
        (dead_letters.len() == many).then_some(dead_letters)
    })
    .await
}

/// Waits for the company's only open dead letter, which must have this reason.
pub async fn only_dead_letter(staff: &Staff<'_>, reason: &str) -> DeadLetter {
    let dead_letter = open_dead_letters(staff, 1).await.remove(0);
    assert_eq!(dead_letter["reason"], reason, "{dead_letter}");
    dead_letter
}

/// Waits until the replay of `first` has failed again, so that its new dead letter is the only open
/// one.
pub async fn failed_again(staff: &Staff<'_>, first: &DeadLetter) -> DeadLetter {
    eventually("the replay has failed again", SOON, || async {
        let open = list_dead_letters(staff, "").await;
        (open.len() == 1 && open[0].replay_of == Some(first.seq)).then(|| open[0].clone())
    })
    .await
}

/// Replays a dead letter, which must succeed, and returns the dead letter as it is afterwards.
pub async fn replay(staff: &Staff<'_>, seq: u64) -> DeadLetter {
    let (status, answer) = staff
        .post(&format!("/dead-letters/{seq}/replay"), json!({}))
        .await;
    assert_eq!(
        (status, &answer["dead_letter"]["state"]),
        (StatusCode::OK, &json!("replayed")),
        "{answer}"
    );
    DeadLetter::of(answer["dead_letter"].clone())
}

/// Sends an operator's message to a contact and returns the message's id.
pub async fn send_operator_message(staff: &Staff<'_>, contact: &str, text: &str) -> String {
    staff.operator_message(contact, text).await.id
}

/// The sequences of dead letters.
pub fn seqs(dead_letters: &[DeadLetter]) -> Vec<u64> {
    dead_letters
        .iter()
        .map(|dead_letter| dead_letter.seq)
        .collect()
}

/// The last sequence of `OUTBOUND`, and the number of messages that it has now.
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

/// The keys of a contact's messages that the bot accepted, in its order.
pub async fn keys_delivered(system: &System, contact: &str) -> Vec<String> {
    let calls = system.bot_calls().await;
    calls
        .iter()
        .filter(|call| call.succeeded() && call.body["customer_id"] == contact)
        .map(|call| call.key().to_owned())
        .collect()
}
