//! A steady load of creates over REST, for tests that inject a fault meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use tokio::task::JoinSet;

use super::{AFTER_FAULT, client, eventually, id_of};

/// Requests in flight at once.
const WRITERS: usize = 8;

/// A running load. Three in ten messages go to the bot.
pub struct Load {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    tasks: JoinSet<Vec<(String, bool)>>,
    /// Requests that were not accepted.
    pub refused: Arc<AtomicU64>,
}

impl Load {
    pub fn start(gateway: String, token: String, contacts: Vec<String>) -> Load {
        let (stop, accepted, refused) = (
            Arc::<AtomicBool>::default(),
            Arc::<AtomicU64>::default(),
            Arc::<AtomicU64>::default(),
        );
        let mut tasks = JoinSet::new();
        for writer in 0..WRITERS {
            let (stop, accepted, refused) = (stop.clone(), accepted.clone(), refused.clone());
            let (gateway, token, contacts) = (gateway.clone(), token.clone(), contacts.clone());
            tasks.spawn(async move {
                let (http, mut mine) = (client(), Vec::new());
                let mut pace = tokio::time::interval(Duration::from_millis(10));
                for n in 0.. {
                    pace.tick().await;
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let outbound = n % 10 < 3;
                    let (role, direction) = if outbound { ("operator", "outbound") } else { ("user", "inbound") };
                    let body = json!({
                        "contact_id": contacts[n % contacts.len()], "role": role, "direction": direction, "platform": "facebook",
                        "content": format!("{writer}:{n}"), "external_message_id": format!("load-{writer}-{n}"),
                    });
                    match http.post(format!("{gateway}/api/v1/messages")).bearer_auth(&token).json(&body).send().await {
                        Ok(answer) if answer.status() == StatusCode::CREATED => {
                            // The status is the promise: without its body only the id is unknown,
                            // so the message is not checked.
                            let Ok(answer) = answer.json::<serde_json::Value>().await else { continue };
                            mine.push((id_of(&answer).to_owned(), outbound));
                            accepted.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
                            assert!(answer.headers().contains_key("retry-after"));
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(answer) => panic!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()),
                        Err(_) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                    }
                }
                mine
            });
        }
        Load {
            stop,
            accepted,
            tasks,
            refused,
        }
    }

    /// Waits until `count` more messages are accepted.
    pub async fn more(&self, count: u64) {
        let goal = self.accepted.load(Ordering::Relaxed) + count;
        eventually("the load goes on", AFTER_FAULT, || async {
            (self.accepted.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    }

    pub async fn end(mut self) -> Vec<(String, bool)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(mine) = self.tasks.join_next().await {
            all.extend(mine.unwrap());
        }
        all
    }
}
