//! Sockets of a node whose NATS server misses events, because the route to the log's leader breaks:
//! they get the events, or are told to fetch.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::support::cluster::{ClusteredSystem, LinkState};
use crate::support::ws_client::{Incoming, Socket, is_in_log, log_of};
use crate::support::{AFTER_FAULT, Staff, eventually};

/// How long a socket may take to get what it missed, or to be told.
const SECONDS: Duration = Duration::from_secs(15);

/// The server, other than the log's leader, that a realtime node is connected to, and the URL of that
/// node. Moves the leader until there is one.
async fn node_beside_the_leader(clustered: &ClusteredSystem) -> (usize, usize, String) {
    let jetstream = clustered.system.operator().await;
    let system = &clustered.system;
    eventually("a node is not with the leader", AFTER_FAULT, || async {
        let leader = clustered.leader_of("EVENTS").await;
        for server in (0..3).filter(|server| *server != leader) {
            let clients = clustered.cluster.clients_of(server).await;
            for url in system.services("realtime") {
                let health = system.http.get(format!("{url}/health")).send().await.ok()?;
                let health: Value = health.json().await.ok()?;
                let instance = health["instance"].as_str()?;
                if clients.iter().any(|client| client == instance) {
                    return Some((leader, server, url));
                }
            }
        }
        let stepdown = "$JS.API.STREAM.LEADER.STEPDOWN.EVENTS";
        jetstream.client().request(stepdown, "".into()).await.ok()?;
        None
    })
    .await
}

/// Posts a message to each contact, so that no later event of a conversation shows a gap. Returns how
/// many were accepted; the log may have more of them.
async fn message_each(staff: &Staff<'_>, contacts: &[String]) -> usize {
    let message = |contact: &String| json!({"contact_id": contact, "role": "user", "platform": "web", "direction": "inbound", "content": "hello"});
    let body = json!({"messages": contacts.iter().map(message).collect::<Vec<_>>()});
    let (status, answer) = staff.post("/messages/batch", body).await;
    assert!(status.is_success(), "{status} {answer}");
    answer["created"].as_u64().unwrap() as usize
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_a_broken_route_swallows_are_given_later_or_told_as_a_resync() {
    const CONTACTS: usize = 40;
    let clustered = ClusteredSystem::start().await;
    let staff = clustered.system.new_company().await;
    let mut contacts = Vec::new();
    for _ in 0..CONTACTS {
        contacts.push(staff.new_contact().await);
    }
    let jetstream = clustered.system.operator().await;
    let mut swallowed = false;
    for round in 0..4 {
        let (leader, server, url) = node_beside_the_leader(&clustered).await;
        let mut socket = Socket::open(&url, &staff.token, None).await;
        let begin = socket.event("ready").await["seq"].as_u64().unwrap();
        // What is held arrives later; what is cut off is lost.
        let fault = if round < 2 {
            LinkState::Cut
        } else {
            LinkState::Held
        };
        clustered.cluster.set_link(leader, server, fault);
        let mut accepted = message_each(&staff, &contacts).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        clustered.cluster.set_link(leader, server, LinkState::Open);
        clustered.cluster.await_healthy(server).await;
        // Newer events of other conversations pass over the lost ones, in every second round.
        if round % 2 == 1 {
            let contact = staff.new_contact().await;
            accepted += message_each(&staff, std::slice::from_ref(&contact)).await;
        }
        let expected: BTreeSet<u64> = eventually("the log has all", AFTER_FAULT, || async {
            // Any replica answers, also the one that was cut off.
            let log = log_of(&jetstream, &staff.company, begin).await;
            (log.len() >= accepted).then(|| log.into_iter().collect())
        })
        .await;
        let (mut got, deadline) = (BTreeSet::new(), Instant::now() + SECONDS);
        loop {
            let incoming = timeout_at(deadline, socket.receive()).await;
            let Ok(incoming) = incoming else {
                let missing: Vec<_> = expected.difference(&got).collect();
                panic!(
                    "round {round}: {} events are missing: {missing:?}",
                    missing.len()
                );
            };
            match incoming {
                Incoming::Event(event, _) if event == "resync" => {
                    swallowed = true;
                    break;
                }
                Incoming::Event(event, data) if is_in_log(&event) => {
                    got.extend(data["seq"].as_u64());
                    if got == expected {
                        break;
                    }
                }
                Incoming::Event(..) => {}
                Incoming::Closed(code) => panic!("closed with {code:?}"),
            }
        }
        for node in clustered.system.services("realtime") {
            let metrics = clustered
                .system
                .http
                .get(format!("{node}/metrics"))
                .send()
                .await;
            let metrics = metrics.unwrap().text().await.unwrap();
            swallowed |= metrics.lines().any(|line| {
                line.starts_with("realtime_repaired_total{") && line.contains("reason=\"check\"")
            });
        }
    }
    assert!(
        swallowed,
        "no cut has swallowed an event: this test has tested nothing"
    );
}
