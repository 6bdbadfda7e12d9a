//! Sockets of a node whose NATS server misses events, because the route to the log's leader breaks:
//! they get the events, or are told to fetch.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::support::cluster::{ClusteredSystem, LinkState};
use crate::support::ws_client::{Incoming, Socket, is_in_log, log_of};
use crate::support::{AFTER_FAULT, Staff, eventually};

/// How long a socket may take to get what it missed, or to be told.
const SECONDS: Duration = Duration::from_secs(15);

/// Where a route can be cut so that a realtime node misses what a gateway stores meanwhile.
struct Place {
    leader: usize,
    /// A server that the realtime node is connected to and the gateway is not.
    server: usize,
    /// The URL of the realtime node.
    realtime: String,
    /// The number of the gateway.
    gateway: usize,
}

/// The numbers of a service's replicas that are connected to a server.
async fn replicas_at(clustered: &ClusteredSystem, service: &str, server: usize) -> Vec<usize> {
    let clients = clustered.cluster.clients_of(server).await;
    let mut found = Vec::new();
    for (n, url) in clustered.system.services(service).iter().enumerate() {
        let health = format!("{url}/health");
        let Ok(health) = clustered.system.http.get(health).send().await else {
            continue;
        };
        let health: Value = health.json().await.unwrap_or_default();
        if clients
            .iter()
            .any(|client| health["instance"] == client.as_str())
        {
            found.push(n);
        }
    }
    found
}

/// Looks for such a place, and moves the leader until there is one.
async fn place(clustered: &ClusteredSystem) -> Place {
    let jetstream = clustered.system.operator().await;
    eventually("a place for a cut", AFTER_FAULT, || async {
        let leader = clustered.leader_of("EVENTS").await;
        for server in (0..3).filter(|server| *server != leader) {
            let realtime = replicas_at(clustered, "realtime", server).await;
            let gateways = replicas_at(clustered, "gateway", server).await;
            let gateway = (0..2).find(|gateway| !gateways.contains(gateway));
            if let (Some(realtime), Some(gateway)) = (realtime.first(), gateway) {
                return Some(Place {
                    leader,
                    server,
                    realtime: clustered.system.services("realtime")[*realtime].clone(),
                    gateway,
                });
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
async fn message_each(staff: &Staff<'_>, gateway: usize, contacts: &[String]) -> usize {
    let message = |contact: &String| json!({"contact_id": contact, "role": "user", "platform": "web", "direction": "inbound", "content": "hello"});
    let body = json!({"messages": contacts.iter().map(message).collect::<Vec<_>>()});
    let answer = staff.post_to(gateway, "/messages/batch", &[], &body).await;
    let (status, answer) = (answer.status, answer.body);
    // While the fault lasts the log may be away for this gateway.
    let is_known = status.is_success() || status == StatusCode::SERVICE_UNAVAILABLE;
    assert!(is_known, "{status} {answer}");
    answer["created"].as_u64().unwrap_or(0) as usize
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_a_broken_route_swallows_are_given_later_or_told_as_a_resync() {
    const CONTACTS: usize = 40;
    // Two cuts and two holds, and again while no cut has met an event.
    const ROUNDS: usize = 8;
    let clustered = ClusteredSystem::start().await;
    let staff = clustered.system.new_company().await;
    let (mut contacts, mut contacts_after) = (Vec::new(), Vec::new());
    for _ in 0..CONTACTS {
        contacts.push(staff.new_contact().await);
    }
    for _ in 0..ROUNDS {
        contacts_after.push(staff.new_contact().await);
    }
    let jetstream = clustered.system.operator().await;
    let mut swallowed = false;
    for round in 0..ROUNDS {
        let Place {
            leader,
            server,
            realtime,
            gateway,
        } = place(&clustered).await;
        let mut socket = Socket::open(&realtime, &staff.token, None).await;
        let begin = socket.event("ready").await["seq"].as_u64().unwrap();
        // What is held arrives later; what is cut off is lost.
        let fault = match round % 4 {
            0 | 1 => LinkState::Cut,
            _ => LinkState::Held,
        };
        clustered.cluster.set_link(leader, server, fault);
        let mut accepted = message_each(&staff, gateway, &contacts).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        clustered.cluster.set_link(leader, server, LinkState::Open);
        clustered.cluster.await_healthy(server).await;
        // Newer events of other conversations pass over the lost ones, in every second round.
        if round % 2 == 1 {
            accepted += message_each(&staff, gateway, &contacts_after[round..=round]).await;
        }
        let expected: BTreeSet<u64> = eventually("the log has all", AFTER_FAULT, || async {
            // Any replica answers, also the one that was cut off.
            let log = log_of(&jetstream, &staff.company, begin).await;
            (log.len() >= accepted).then(|| log.into_iter().collect())
        })
        .await;
        let (mut got, deadline) = (BTreeSet::new(), Instant::now() + SECONDS);
        while !got.is_superset(&expected) {
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
        if swallowed && round >= 3 {
            break;
        }
    }
    assert!(
        swallowed,
        "no cut has swallowed an event: this test has tested nothing"
    );
}
