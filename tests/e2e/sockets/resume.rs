//! Sockets miss no event: over a reconnect to another node, and over the death of a node and of
//! nats-server. Also presence, typing and the ends of sockets. Slow: one test kills processes under
//! three hundred sockets.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::SinkExt;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::load::Load;
use crate::support::ws_client::{Incoming, Socket, log_of};
use crate::support::{AFTER_FAULT, Folder, SOON, Staff, System, eventually};

/// Posts `count` messages in one request.
async fn messages(staff: &Staff<'_>, contact: &str, count: usize) {
    let message = |n| json!({"contact_id": contact, "role": "user", "platform": "web", "direction": "inbound", "content": format!("{n}")});
    let body = json!({"messages": (0..count).map(message).collect::<Vec<_>>()});
    let (status, answer) = staff.post("/messages/batch", body).await;
    assert!(status.is_success(), "{status} {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_resumes_on_another_node_without_gap_or_repeat() {
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
    // This node has no room of the company yet. The second resume, from the middle, finds a room.
    let mut second = Socket::open(&nodes[1], &staff.token, got.last().copied()).await;
    assert_eq!(
        second.event("ready").await["seq"].as_u64(),
        got.last().copied()
    );
    got.extend(second.seqs(300).await);
    messages(&staff, &contact, 2).await;
    got.extend(second.seqs(2).await);
    assert_eq!(
        got,
        log_of(&system.operator().await, &staff.company, begin).await
    );
    let mut third = Socket::open(&nodes[1], &staff.token, Some(got[100])).await;
    assert_eq!(third.seqs(got.len() - 101).await, got[101..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_too_far_back_gets_a_resync_and_then_live_events() {
    let system = System::start_with(
        Folder::new(),
        &["--replicas", "realtime=2"],
        &[("SOCKET_REPLAY_EVENTS", "20")],
    )
    .await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let nodes = system.services("realtime");
    let begin = Socket::open(&nodes[0], &staff.token, None)
        .await
        .event("ready")
        .await["seq"]
        .as_u64()
        .unwrap();
    messages(&staff, &contact, 21).await;
    let log = log_of(&system.operator().await, &staff.company, begin).await;
    for (cursor, reason) in [(begin, "too_many"), (9_999_999, "unknown")] {
        let mut socket = Socket::open(&nodes[1], &staff.token, Some(cursor)).await;
        let resync = socket.event("resync").await;
        assert_eq!(
            (
                resync["reason"].as_str(),
                resync["seq"].as_u64() >= log.last().copied()
            ),
            (Some(reason), true),
            "{resync}"
        );
        messages(&staff, &contact, 1).await;
        let next = socket.seqs(1).await;
        assert!(next[0] > resync["seq"].as_u64().unwrap());
    }
    // A cursor within the limit gets the events.
    let log = log_of(&system.operator().await, &staff.company, begin).await;
    let mut socket = Socket::open(&nodes[1], &staff.token, Some(log[3])).await;
    assert_eq!(socket.seqs(log.len() - 4).await, log[4..]);
    // A cursor before the log's first event gets a resync.
    let jetstream = system.operator().await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    stream.purge().sequence(log[10]).await.unwrap();
    system.kill_and_await_restart("realtime-2").await;
    system.await_ready().await;
    let mut socket =
        Socket::open(&system.services("realtime")[1], &staff.token, Some(log[5])).await;
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
        eventually("nats-server is restarted", AFTER_FAULT, || async {
            system.pid("nats-server").filter(|pid| *pid != old)
        })
        .await;
    }
    load.more(100).await;
    load.end().await;
    system.await_ready().await;
    let (status, _) = stranger.get("/conversations").await;
    assert_eq!(status, StatusCode::OK);
    stranger
        .customer_message(&stranger.new_contact().await, "end")
        .await;
    let jetstream = system.operator().await;
    // Waits for the last delivery steps.
    eventually("nothing awaits the bot any more", AFTER_FAULT, || async {
        (jetstream
            .get_stream("OUTBOUND")
            .await
            .ok()?
            .cached_info()
            .state
            .messages
            == 0)
            .then_some(())
    })
    .await;
    for (company, begin, mut socket) in sockets {
        let log = log_of(&jetstream, &company, begin).await;
        assert_eq!(socket.seqs(log.len()).await, log);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_attaches_without_a_gap_at_the_as_of_seq_of_a_list() {
    let system = System::shared().await;
    let nodes = system.services("realtime");
    for round in 0..4 {
        let staff = system.new_company().await;
        let contact = staff.new_contact().await;
        let load = Load::start(
            system.url("gateway"),
            staff.token.clone(),
            vec![contact.clone()],
        );
        load.more(20).await;
        let (status, list) = staff
            .get(&format!("/messages?contact_id={contact}&limit=200"))
            .await;
        assert_eq!(
            (status, &list["next_cursor"]),
            (StatusCode::OK, &Value::Null),
            "{list}"
        );
        let (_, conversations) = staff.get("/conversations").await;
        // Any persister may have answered, so the list may be old, but it has all events up to its
        // `as_of_seq`.
        let (as_of, latest) = (
            &conversations["as_of_seq"],
            &conversations["contacts"][0]["latestMessage"]["seq"],
        );
        let created = created_in(system, &staff.company, &contact).await;
        let expected = created
            .into_iter()
            .rfind(|seq| *seq <= as_of.as_u64().unwrap());
        assert!(latest.as_u64() >= expected, "{conversations}");
        let mut known: HashSet<u64> = list["messages"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|m| m["seq"].as_u64())
            .collect();
        let mut socket = Socket::open(
            &nodes[round % nodes.len()],
            &staff.token,
            list["as_of_seq"].as_u64(),
        )
        .await;
        load.more(20).await;
        load.end().await;
        let last = staff.customer_message(&contact, "last").await["seq"]
            .as_u64()
            .unwrap();
        while !known.contains(&last) {
            let of_contact = |data: &Value| data["conversationId"] == contact.as_str();
            known.insert(
                socket.event_where("message:new", of_contact).await["seq"]
                    .as_u64()
                    .unwrap(),
            );
        }
        let mut known: Vec<u64> = known.into_iter().collect();
        known.sort_unstable();
        assert_eq!(
            known,
            created_in(system, &staff.company, &contact).await,
            "round {round}"
        );
    }
}

/// The sequences of a conversation's messages in the log.
async fn created_in(system: &System, company: &str, contact: &str) -> Vec<u64> {
    let stream = system.operator().await.get_stream("EVENTS").await.unwrap();
    let (mut created, mut from) = (Vec::new(), 1);
    while let Ok(message) = stream
        .direct_get_next_for_subject(format!("message.created.{company}.{contact}.>"), Some(from))
        .await
    {
        created.push(message.sequence);
        from = message.sequence + 1;
    }
    created
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_does_not_read_is_closed_without_affecting_others() {
    let system = System::start_with(Folder::new(), &[], &[("SOCKET_QUEUE_BYTES", "1048576")]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let node = system.url("realtime");
    let (mut slow, mut quick) = (
        Socket::open(&node, &staff.token, None).await,
        Socket::open(&node, &staff.token, None).await,
    );
    let begin = quick.event("ready").await["seq"].as_u64().unwrap();
    // Much more than the queue and the kernel's buffers take: each frame is about 15 kB.
    let text = "x".repeat(5_000);
    let body = |n: usize| {
        json!({"contact_id": contact, "role": "user", "platform": "web", "direction": "inbound", "content": format!("{n}{}", &text[8..]),
        "attachments": vec![json!({"type": "image", "url": format!("https://a.example/{}", "y".repeat(1_000))}); 10]})
    };
    let mut got = Vec::new();
    let is_closed = async || {
        let metrics = system
            .http
            .get(format!("{node}/metrics"))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        metrics
            .lines()
            .any(|line| line.starts_with("realtime_closed_total") && line.contains("too slow"))
    };
    for batch in 0.. {
        assert!(
            batch < 100,
            "what waits for one who does not read is not bounded"
        );
        let messages: Vec<Value> = (0..25).map(|n| body(batch * 25 + n)).collect();
        let (status, answer) = staff
            .post("/messages/batch", json!({"messages": messages}))
            .await;
        assert!(status.is_success(), "{answer}");
        got.extend(quick.seqs(25).await);
        if is_closed().await {
            break;
        }
    }
    assert_eq!(
        got,
        log_of(&system.operator().await, &staff.company, begin).await
    );
    assert_eq!(slow.closed().await, Some(4008));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_warned_and_closed_when_its_token_expires() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let token = system.token(&staff.company, &"d".repeat(24), 4);
    let mut socket = Socket::open(&system.url("realtime"), &token, None).await;
    assert!(socket.event("token:expiring").await["expiresAt"].is_string());
    assert_eq!(socket.closed().await, Some(4001));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_closes_the_sockets_of_that_login_on_every_node() {
    let system = System::shared().await;
    let (staff, other) = (system.new_company().await, system.new_company().await);
    let mut sockets = Vec::new();
    for node in system.services("realtime") {
        sockets.push(Socket::open(&node, &staff.token, None).await);
    }
    let mut unaffected = Socket::open(&system.url("realtime"), &other.token, None).await;
    let (status, answer) = staff.post("/auth/logout", json!({})).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
    for mut socket in sockets {
        assert_eq!(socket.closed().await, Some(4003));
    }
    // The access token has not expired, but opens no socket any more.
    let mut again = Socket::open(&system.url("realtime"), &staff.token, None).await;
    assert_eq!(again.closed().await, Some(4003));
    other
        .customer_message(&other.new_contact().await, "here")
        .await;
    unaffected.event("message:new").await;
    // An operator deletes the session's entry, of which no core subscription is told.
    let bucket = system
        .operator()
        .await
        .get_stream("KV_sessions")
        .await
        .unwrap();
    bucket.purge().await.unwrap();
    assert_eq!(unaffected.closed().await, Some(4003));
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_is_shared_by_all_nodes_and_ends_with_a_dead_node() {
    let system = System::start(&["--replicas", "realtime=2"]).await;
    let staff = system.new_company().await;
    let (here, there) = ("b".repeat(24), "c".repeat(24));
    let contact = staff.new_contact().await;
    let nodes = system.services("realtime");
    let token = |user: &str| system.token(&staff.company, user, 600);
    let mut watching = Socket::open(&nodes[0], &token(&here), None).await;
    let is = |user: &str, online: bool, viewing: Value| {
        let user = json!({"userId": user, "online": online, "viewing": viewing});
        move |data: &Value| data["users"].as_array().unwrap().contains(&user)
    };
    watching
        .event_where("presence:update", is(&here, true, json!([])))
        .await;
    let mut other = Socket::open(&nodes[1], &token(&there), None).await;
    watching
        .event_where("presence:update", is(&there, true, json!([])))
        .await;
    other
        .send("conversation:join", json!({"conversationId": contact}))
        .await;
    watching
        .event_where("presence:update", is(&there, true, json!([contact])))
        .await;
    // A new socket on either node gets the whole presence at once.
    for node in &nodes {
        let mut new = Socket::open(node, &token(&here), None).await;
        let all = move |data: &Value| data["users"].as_array().unwrap().len() == 2;
        new.event_where("presence:update", all).await;
    }
    other
        .send("conversation:leave", json!({"conversationId": contact}))
        .await;
    watching
        .event_where("presence:update", is(&there, true, json!([])))
        .await;
    system.kill_and_await_restart("realtime-2").await;
    watching
        .event_where("presence:update", is(&there, false, json!([])))
        .await;
    system.await_ready().await;
    let back = Socket::open(&nodes[1], &token(&there), None).await;
    watching
        .event_where("presence:update", is(&there, true, json!([])))
        .await;
    drop(back);
    watching
        .event_where("presence:update", is(&there, false, json!([])))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typing_reaches_other_nodes_and_stops_by_itself() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let nodes = system.services("realtime");
    let token = |user: &str| system.token(&staff.company, &user.repeat(24), 600);
    let (mut typist, mut reader) = (
        Socket::open(&nodes[0], &token("b"), None).await,
        Socket::open(&nodes[1], &token("c"), None).await,
    );
    let conversation = json!({"conversationId": contact});
    reader.send("conversation:join", conversation.clone()).await;
    // The node has joined the room once others see the presence.
    typist
        .event_where("presence:update", |data| {
            data.to_string().contains(&contact)
        })
        .await;
    let is_typing = |is: bool| move |data: &Value| data["isTyping"] == is;
    typist.send("typing:start", conversation.clone()).await;
    let told = reader
        .event_where("typing:indicator", is_typing(true))
        .await;
    assert_eq!(
        told,
        json!({"conversationId": contact, "userId": "b".repeat(24), "isTyping": true})
    );
    reader
        .event_where("typing:indicator", is_typing(false))
        .await;
    typist.send("typing:start", conversation.clone()).await;
    reader
        .event_where("typing:indicator", is_typing(true))
        .await;
    typist.send("typing:stop", conversation.clone()).await;
    reader
        .event_where("typing:indicator", is_typing(false))
        .await;
    // The typist disconnects without `typing:stop`.
    typist.send("typing:start", conversation).await;
    reader
        .event_where("typing:indicator", is_typing(true))
        .await;
    drop(typist);
    reader
        .event_where("typing:indicator", is_typing(false))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_marked_read_by_a_socket_are_stored_applied_and_announced() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    staff.customer_message(&contact, "unread").await;
    let nodes = system.services("realtime");
    let mut other = Socket::open(&nodes[1], &staff.token, None).await;
    other.event("ready").await;
    let mut reader = Socket::open(&nodes[0], &staff.token, None).await;
    reader
        .0
        .send(Message::text(
            json!({"event": "message:read", "data": {"conversationId": contact}, "id": 1})
                .to_string(),
        ))
        .await
        .unwrap();
    let stored = reader.event("ack").await["seq"].as_u64();
    let told = other
        .event_where("message:status", |data| data["status"] == "read")
        .await;
    assert_eq!(
        (told["conversationId"].as_str(), told["seq"].as_u64()),
        (Some(contact.as_str()), stored)
    );
    eventually("nothing is unread", SOON, || async {
        let (_, list) = staff.get("/conversations").await;
        (list["contacts"][0]["unread"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_node_says_when_to_reconnect_and_sockets_per_user_are_limited() {
    let system = System::start_with(
        Folder::new(),
        &["--replicas", "realtime=2"],
        &[("MAX_SOCKETS_PER_USER", "2")],
    )
    .await;
    let staff = system.new_company().await;
    let node = &system.services("realtime")[0];
    let (mut one, mut two) = (
        Socket::open(node, &staff.token, None).await,
        Socket::open(node, &staff.token, None).await,
    );
    let Err(Error::Http(refused)) = Socket::try_open(node, &staff.token, None).await else {
        panic!("a third socket opened")
    };
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS.as_u16());
    let other = system.token(&staff.company, &"d".repeat(24), 600);
    drop(Socket::open(node, &other, None).await);
    system.signal("-TERM", "realtime");
    for socket in [&mut one, &mut two] {
        let after = socket.event("server:closing").await["reconnect_after_ms"]
            .as_u64()
            .unwrap();
        assert!(after < 5_000, "{after}");
        assert_eq!(socket.closed().await, Some(1001));
    }
}

/// A client that follows its company over closed sockets and killed nodes. Once `last` is known, the
/// client ends when it has received `last` and no event follows.
async fn follower(
    nodes: Vec<String>,
    token: String,
    first: usize,
    last: Arc<AtomicU64>,
) -> (u64, Vec<u64>) {
    let (mut begin, mut got) = (None, Vec::<u64>::new());
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    for turn in first.. {
        pace.tick().await;
        let cursor = got.last().copied().or(begin);
        let Ok(mut socket) = Socket::try_open(&nodes[turn % nodes.len()], &token, cursor).await
        else {
            continue;
        };
        // Some clients close their socket after a while.
        let patience = 40 + 17 * (turn + first) % 200;
        for _ in 0..patience {
            match tokio::time::timeout(Duration::from_millis(500), socket.receive()).await {
                Ok(Incoming::Event(name, data)) if name == "ready" => {
                    begin = begin.or(data["seq"].as_u64())
                }
                Ok(Incoming::Event(name, data)) if name == "resync" => panic!("{data}"),
                Ok(Incoming::Event(_, data)) => got.extend(data["seq"].as_u64()),
                Ok(Incoming::Closed(_)) => break,
                Err(_) => {
                    let last = last.load(Ordering::Relaxed);
                    if last > 0 && got.last().copied().or(begin) >= Some(last) {
                        return (begin.unwrap(), got);
                    }
                }
            }
        }
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_sockets_miss_nothing_while_nodes_and_nats_are_killed() {
    const COMPANIES: usize = 10;
    const SOCKETS: usize = 300;
    const MESSAGES: usize = 2_000;
    let system = System::start(&["--replicas", "realtime=3,gateway=2"]).await;
    let nodes = system.services("realtime");
    let mut companies = Vec::new();
    for _ in 0..COMPANIES {
        let staff = system.new_unconnected_company().await;
        let contact = staff.new_contact().await;
        companies.push((staff, contact, Arc::<AtomicU64>::default()));
    }
    let mut followers = Vec::new();
    for n in 0..SOCKETS {
        let company = n % COMPANIES;
        let (staff, _, last) = &companies[company];
        let follow = follower(
            nodes.clone(),
            staff.token.clone(),
            n / COMPANIES,
            last.clone(),
        );
        followers.push((company, tokio::spawn(follow)));
    }
    let open = || async {
        let mut open = 0;
        for node in &nodes {
            let health: Value = system
                .http
                .get(format!("{node}/health"))
                .send()
                .await
                .ok()?
                .json()
                .await
                .ok()?;
            open += health["checks"]["hub"]["detail"]["sockets"].as_u64()?;
        }
        (open as usize >= SOCKETS * 9 / 10).then_some(())
    };
    eventually("the sockets are open", AFTER_FAULT, open).await;
    let accepted = AtomicUsize::new(0);
    let write = async {
        let (system, accepted) = (&system, &accepted);
        let per_company = companies.iter().map(|(staff, contact, _)| async move {
            for n in 0..MESSAGES / COMPANIES {
                let body =
                    json!({"contact_id": contact, "role": "user", "platform": "web", "direction": "inbound", "content": format!("{n}")});
                let gateway = &system.services("gateway")[n % 2];
                // A refused create is sent again. If the first was stored after all, there is one
                // more message.
                eventually("it is accepted", AFTER_FAULT, || async {
                    let sent = system.http.post(format!("{gateway}/api/v1/messages")).bearer_auth(&staff.token).json(&body).send().await;
                    sent.is_ok_and(|answer| answer.status() == StatusCode::CREATED).then_some(())
                })
                .await;
                accepted.fetch_add(1, Ordering::Relaxed);
            }
        });
        futures_util::future::join_all(per_company).await;
    };
    let faults = async {
        for (n, victim) in [
            "realtime",
            "realtime-2",
            "nats-server",
            "realtime-3",
            "realtime",
            "nats-server",
            "realtime-2",
        ]
        .iter()
        .enumerate()
        {
            let goal = (n + 1) * MESSAGES / 8;
            eventually("messages are accepted", AFTER_FAULT, || async {
                (accepted.load(Ordering::Relaxed) >= goal).then_some(())
            })
            .await;
            system.kill_and_await_restart(victim).await;
        }
    };
    tokio::join!(write, faults);
    system.await_ready().await;
    let jetstream = system.operator().await;
    let mut logs = Vec::new();
    for (staff, _, last) in &companies {
        let log = log_of(&jetstream, &staff.company, 0).await;
        last.store(log.last().copied().unwrap(), Ordering::Relaxed);
        logs.push(log);
    }
    assert!(logs.iter().map(Vec::len).sum::<usize>() >= MESSAGES);
    for (n, (company, follower)) in followers.into_iter().enumerate() {
        let (begin, got) = tokio::time::timeout(AFTER_FAULT, follower)
            .await
            .expect("it ends")
            .unwrap();
        let wanted: Vec<u64> = logs[company]
            .iter()
            .copied()
            .filter(|seq| *seq > begin)
            .collect();
        assert_eq!(got, wanted, "socket {n}");
    }
}
