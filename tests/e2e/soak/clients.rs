//! The clients of a soak, as a careful integrator writes them: a create is repeated with the same key
//! until its outcome is known, and a socket comes back with the last sequence that it has seen.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::checker::{Accepted, Logged, Seen, Transcript, Witnessed, socket_against_log};
use crate::support::ws_client::{Incoming, Socket, is_in_log};
use crate::support::{System, client, id_of};

/// Pause between two requests of a client.
const PACE: Duration = Duration::from_millis(30);
/// Pause before a request whose outcome is open is repeated.
const AGAIN: Duration = Duration::from_millis(300);
/// How long a request is repeated. Longer than any fault.
const GIVE_UP: Duration = Duration::from_secs(90);
/// How long followers may take to see everything. Longer than a node takes to find a gap.
const FOLLOWED: Duration = Duration::from_secs(60);
/// Conversations of a company.
const CONTACTS: usize = 4;

/// What happened when, for the timeline.
#[derive(Clone, Debug)]
pub enum Mark {
    Accepted,
    Refused,
    Fault(String),
}

/// What clients note down.
pub struct Notes {
    begin: Instant,
    accepted: Mutex<Vec<Accepted>>,
    wrong: Mutex<Vec<String>>,
    marks: Mutex<Vec<(Duration, Mark)>>,
}

impl Default for Notes {
    fn default() -> Notes {
        Notes {
            begin: Instant::now(),
            accepted: Mutex::default(),
            wrong: Mutex::default(),
            marks: Mutex::default(),
        }
    }
}

impl Notes {
    pub fn mark(&self, mark: Mark) {
        let at = self.begin.elapsed();
        self.marks.lock().unwrap().push((at, mark));
    }

    pub fn timeline(&self) -> Vec<(Duration, Mark)> {
        self.marks.lock().unwrap().clone()
    }

    /// The answers; the rest is added by the caller.
    pub fn witnessed(&self) -> Witnessed {
        Witnessed {
            accepted: self.accepted.lock().unwrap().clone(),
            wrong_answers: self.wrong.lock().unwrap().clone(),
            ..Witnessed::default()
        }
    }
}

/// A company as its clients know it.
#[derive(Clone)]
pub struct Company {
    id: String,
    /// An access token that outlives the soak.
    token: String,
    contacts: Vec<String>,
    /// What each follower has seen.
    transcripts: Arc<Mutex<Vec<Transcript>>>,
}

impl Company {
    pub async fn register(system: &System) -> Company {
        let staff = system.new_company().await;
        let mut contacts = Vec::new();
        for _ in 0..CONTACTS {
            contacts.push(staff.new_contact().await);
        }
        let user = "a".repeat(24);
        Company {
            token: system.token(&staff.company, &user, 24 * 3_600),
            id: staff.company.clone(),
            contacts,
            transcripts: Arc::default(),
        }
    }

    /// Creates, edits, deletes, reads and marks until the stop, one request after another.
    pub async fn write(
        self,
        gateway: String,
        seed: u64,
        notes: Arc<Notes>,
        stop: CancellationToken,
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let client = WriteClient {
            http: client(),
            api: format!("{gateway}/api/v1"),
            token: self.token.clone(),
            notes,
        };
        let mut own: Vec<String> = Vec::new();
        for n in 0.. {
            let contact = &self.contacts[rng.random_range(0..self.contacts.len())];
            let pick = rng.random_range(0..100);
            let some = |own: &[String], rng: &mut StdRng| {
                (!own.is_empty()).then(|| own[rng.random_range(0..own.len())].clone())
            };
            match pick {
                0..70 => {
                    let is_for_bot = pick < 25;
                    let (role, direction) = match is_for_bot {
                        true => ("operator", "outbound"),
                        false => ("user", "inbound"),
                    };
                    let body = json!({"contact_id": contact, "role": role, "direction": direction, "platform": "facebook", "content": format!("{n}")});
                    own.extend(client.create(&body, &format!("{gateway}-{n}")).await);
                }
                70..80 => {
                    let path = format!("/messages?contact_id={contact}&limit=20");
                    client.send(Method::GET, &path, None).await;
                }
                80..88 => {
                    if let Some(id) = some(&own, &mut rng) {
                        let body = json!({"_id": id, "content": format!("edited {n}")});
                        client.send(Method::PATCH, "/messages", Some(&body)).await;
                    }
                }
                88..92 => {
                    if let Some(id) = some(&own, &mut rng) {
                        own.retain(|other| *other != id);
                        let body = json!({"_id": id});
                        client.send(Method::DELETE, "/messages", Some(&body)).await;
                    }
                }
                _ => {
                    let body = json!({"contact_id": contact});
                    client
                        .send(Method::PUT, "/messages/mark-read", Some(&body))
                        .await;
                }
            }
            if stop
                .run_until_cancelled(tokio::time::sleep(PACE))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    /// Follows the company's events until the stop, over any number of connections.
    pub async fn follow(self, node: String, stop: CancellationToken) {
        let mine = {
            let mut transcripts = self.transcripts.lock().unwrap();
            transcripts.push(Transcript {
                company: self.id.clone(),
                begin: 0,
                seen: Vec::new(),
            });
            transcripts.len() - 1
        };
        let mut position: Option<u64> = None;
        let _ = stop
            .run_until_cancelled(async {
                loop {
                    if let Ok(mut socket) = Socket::try_open(&node, &self.token, position).await {
                        while let Incoming::Event(event, data) = socket.receive().await {
                            let seq = data["seq"].as_u64();
                            let transcript = &mut self.transcripts.lock().unwrap()[mine];
                            match (event.as_str(), seq) {
                                ("ready", Some(seq)) if position.is_none() => {
                                    (transcript.begin, position) = (seq, Some(seq));
                                }
                                ("resync", Some(seq)) => {
                                    transcript.seen.push(Seen::Resync(seq));
                                    position = position.max(Some(seq));
                                }
                                (event, Some(seq)) if is_in_log(event) && event != "ack" => {
                                    transcript.seen.push(Seen::Event(seq));
                                    position = position.max(Some(seq));
                                }
                                _ => {}
                            }
                        }
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            })
            .await;
    }

    /// Waits until every follower has seen everything, or was told to fetch. What is missing after
    /// [`FOLLOWED`] is in the transcripts.
    pub async fn transcripts(&self, log: &[Logged]) -> Vec<Transcript> {
        let begun = Instant::now();
        loop {
            let transcripts = self.transcripts.lock().unwrap().clone();
            let mut objections = BTreeSet::new();
            for transcript in &transcripts {
                socket_against_log(transcript, log, &mut objections);
            }
            if objections.is_empty() || begun.elapsed() > FOLLOWED {
                return transcripts;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

struct WriteClient {
    http: Client,
    api: String,
    token: String,
    notes: Arc<Notes>,
}

impl WriteClient {
    /// Creates a message, with the same key again until the outcome is known. Returns its id.
    async fn create(&self, body: &Value, key: &str) -> Option<String> {
        let begun = Instant::now();
        loop {
            let answer = self
                .http
                .post(format!("{}/messages", self.api))
                .bearer_auth(&self.token)
                .header("Idempotency-Key", key)
                .json(body)
                .send()
                .await;
            match answer {
                Ok(answer) if answer.status() == StatusCode::CREATED => {
                    // Without its body the answer is not known. It is asked for again.
                    if let Ok(body) = answer.json::<Value>().await {
                        self.notes.mark(Mark::Accepted);
                        let (id, seq) = (id_of(&body).to_owned(), body["seq"].as_u64());
                        self.notes.accepted.lock().unwrap().push(Accepted {
                            id: id.clone(),
                            seq: seq.unwrap_or_default(),
                        });
                        return Some(id);
                    }
                }
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
                    self.notes.mark(Mark::Refused);
                }
                Ok(answer) => {
                    self.wrong("POST", answer).await;
                    return None;
                }
                Err(_) => self.notes.mark(Mark::Refused),
            }
            if begun.elapsed() > GIVE_UP {
                let why = format!("no answer to POST within {GIVE_UP:?}");
                self.notes.wrong.lock().unwrap().push(why);
                return None;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Sends another request once. What it was answered must be a success, a conflict, an unknown
    /// message or 503; 202 says that a change is stored and not applied yet.
    async fn send(&self, method: Method, path: &str, body: Option<&Value>) {
        let mut request = self
            .http
            .request(method.clone(), format!("{}{path}", self.api))
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let Ok(answer) = request.send().await else {
            return;
        };
        let is_fine = answer.status().is_success()
            || [
                StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::NOT_FOUND,
                StatusCode::CONFLICT,
            ]
            .contains(&answer.status());
        if !is_fine {
            self.wrong(method.as_str(), answer).await;
        }
    }

    async fn wrong(&self, what: &str, answer: reqwest::Response) {
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        let wrong = format!("{what}: {status} {text}");
        self.notes.wrong.lock().unwrap().push(wrong);
    }
}
