//! Sockets leave no gap: over a reconnect to another node, over the death of a node and of nats-server.

use reqwest::StatusCode;
use serde_json::json;

use crate::faults::Load;
use crate::harness::{AFTER_FAULT, Folder, Staff, System, eventually};
use crate::socket::{Socket, log_of};

/// So many messages in one request.
async fn messages(staff: &Staff<'_>, contact: &str, count: usize) {
    let message = |n| json!({"contact_id": contact, "role": "user", "platform": "web", "direction": "inbound", "content": format!("{n}")});
    let body = json!({"messages": (0..count).map(message).collect::<Vec<_>>()});
    let (status, answer) = staff.post("/messages/batch", body).await;
    assert!(status.is_success(), "{status} {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_comes_back_on_another_node_gets_what_it_missed_once_and_in_order() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let nodes = system.services("realtime");
    let mut first = Socket::open(&nodes[0], &staff.token, None).await;
    let begin = first.event("ready").await["seq"].as_u64().unwrap();
    messages(&staff, &contact, 3).await;
    let mut got = first.seqs(3).await;
    drop(first);
    messages(&staff, &contact, 300).await;
    // This node has not had the company before; the next one asks it again, from the middle, while it has.
    let mut second = Socket::open(&nodes[1], &staff.token, got.last().copied()).await;
    assert_eq!(second.event("ready").await["seq"].as_u64(), got.last().copied());
    got.extend(second.seqs(300).await);
    messages(&staff, &contact, 2).await;
    got.extend(second.seqs(2).await);
    assert_eq!(got, log_of(&system.operator().await, &staff.company, begin).await);
    let mut third = Socket::open(&nodes[1], &staff.token, Some(got[100])).await;
    assert_eq!(third.seqs(got.len() - 101).await, got[101..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_too_far_back_is_told_to_fetch_and_is_live_from_there() {
    let system = System::start_with(Folder::new(), &["--replicas", "realtime=2"], &[("SOCKET_REPLAY_EVENTS", "20")]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let nodes = system.services("realtime");
    let begin = Socket::open(&nodes[0], &staff.token, None).await.event("ready").await["seq"].as_u64().unwrap();
    messages(&staff, &contact, 21).await;
    let log = log_of(&system.operator().await, &staff.company, begin).await;
    for (cursor, reason) in [(begin, "too_many"), (9_999_999, "unknown")] {
        let mut socket = Socket::open(&nodes[1], &staff.token, Some(cursor)).await;
        let resync = socket.event("resync").await;
        assert_eq!((resync["reason"].as_str(), resync["seq"].as_u64() >= log.last().copied()), (Some(reason), true), "{resync}");
        messages(&staff, &contact, 1).await;
        let next = socket.seqs(1).await;
        assert!(next[0] > resync["seq"].as_u64().unwrap());
    }
    // One within the limit gets them.
    let log = log_of(&system.operator().await, &staff.company, begin).await;
    let mut socket = Socket::open(&nodes[1], &staff.token, Some(log[3])).await;
    assert_eq!(socket.seqs(log.len() - 4).await, log[4..]);
    // What the log has dropped cannot be given.
    let jetstream = system.operator().await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    stream.purge().sequence(log[10]).await.unwrap();
    system.kill_and_await_restart("realtime-2").await;
    system.await_ready().await;
    let mut socket = Socket::open(&system.services("realtime")[1], &staff.token, Some(log[5])).await;
    assert_eq!(socket.event("resync").await["reason"], "too_old");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_nats_server_under_load_leaves_no_gap_and_closes_no_socket() {
    let system = System::start(&["--replicas", "realtime=2"]).await;
    let (staff, stranger) = (system.new_company().await, system.new_company().await);
    let contact = staff.new_contact().await;
    let mut sockets = Vec::new();
    for node in system.services("realtime") {
        for who in [&staff, &stranger] {
            let mut socket = Socket::open(&node, &who.token, None).await;
            let begin = socket.event("ready").await["seq"].as_u64().unwrap();
            sockets.push((who.company.clone(), begin, socket));
        }
    }
    let load = Load::start(system.url("gateway"), staff.token.clone(), vec![contact]);
    for signal in ["-KILL", "-TERM"] {
        load.more(100).await;
        let old = system.signal(signal, "nats-server");
        eventually("nats-server is restarted", AFTER_FAULT, || async { system.pid("nats-server").filter(|pid| *pid != old) }).await;
    }
    load.more(100).await;
    load.end().await;
    system.await_ready().await;
    let (status, _) = stranger.get("/conversations").await;
    assert_eq!(status, StatusCode::OK);
    stranger.message(&stranger.new_contact().await, "user", "end").await;
    let jetstream = system.operator().await;
    // The last steps of delivery are taken.
    eventually("nothing awaits the bot any more", AFTER_FAULT, || async {
        (jetstream.get_stream("OUTBOUND").await.ok()?.cached_info().state.messages == 0).then_some(())
    })
    .await;
    for (company, begin, mut socket) in sockets {
        let log = log_of(&jetstream, &company, begin).await;
        assert_eq!(socket.seqs(log.len()).await, log);
    }
}
