//! The transport `/socket.io/` packet by packet, for behaviour that real clients do not trigger or
//! do not show. Real clients are in `real_clients`.

use std::time::Duration;

use futures_util::SinkExt;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::support::socketio_client::{OPEN, Poll, Web, ask, auth, code, find};
use crate::support::{AFTER_FAULT, Folder, SOON, Staff, System, eventually};

/// Posts `count` messages of `characters` characters each.
async fn fill(staff: &Staff<'_>, contact: &str, count: usize, characters: usize) {
    let message = |n| {
        json!({"contact_id": contact, "role": "user", "platform": "web", "direction": "inbound",
        "content": format!("{n} {}", "x".repeat(characters))})
    };
    let (status, answer) = staff
        .post(
            "/messages/batch",
            json!({"messages": (0..count).map(message).collect::<Vec<_>>()}),
        )
        .await;
    assert_eq!(
        (status, &answer["failed"]),
        (StatusCode::OK, &json!(0)),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_refused_as_by_the_original_socket_io_server() {
    let system = System::shared().await;
    let url = system.url("realtime");
    let sid = "0".repeat(32);
    for (method, query, wanted) in [
        (Method::GET, "EIO=4", 0),
        (Method::GET, "EIO=4&transport=carrier-pigeon", 0),
        (Method::GET, "transport=polling", 5),
        (Method::GET, "EIO=3&transport=polling", 5),
        (Method::POST, "EIO=4&transport=polling", 2),
        (Method::GET, "EIO=4&transport=websocket", 3),
        (
            Method::GET,
            &format!("EIO=4&transport=polling&sid={sid}"),
            1,
        ),
        (Method::GET, "EIO=4&transport=polling&sid=x", 1),
        (Method::GET, "EIO=4&EIO=4&transport=polling", 3),
    ] {
        let (status, body) = ask(
            system,
            method.clone(),
            &format!("{url}/socket.io/?{query}"),
            "",
        )
        .await;
        assert_eq!(
            (status, code(&body)),
            (StatusCode::BAD_REQUEST, wanted),
            "{method} {query}: {body}"
        );
    }
    // The CORS headers that a page on another origin needs.
    let origin = "https://app.example.com";
    let asked = system
        .http
        .request(Method::OPTIONS, format!("{url}{OPEN}"))
        .header("origin", origin);
    let answer = asked
        .header("access-control-request-headers", "x-more")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    assert_eq!(answer.headers()["access-control-allow-origin"], origin);
    assert_eq!(answer.headers()["access-control-allow-headers"], "x-more");
    let answer = system
        .http
        .get(format!("{url}{OPEN}"))
        .header("origin", origin)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_is_held_until_there_is_data_and_only_one_at_a_time() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let poll = Poll::join(&staff, &system.url("realtime")).await;
    let (message, _) = tokio::join!(
        poll.packet("message:new", |p| find(p, "message:new")),
        staff.customer_message(&contact, "hello")
    );
    assert_eq!(message["message"]["content"], "hello");
    // Each of several packets in one body is answered. A body that is too large is refused.
    let (status, _) = poll
        .say(&format!(
            "421[\"conversation:join\",\"{contact}\"]\u{1e}422[\"no:such\"]"
        ))
        .await;
    assert_eq!(status, StatusCode::OK);
    let mut answers = String::new();
    while answers.matches("43").count() < 2 {
        answers += &(poll.next().await.1 + "\n");
    }
    assert!(
        answers.contains("431[{\"ok\":true}]")
            && answers.contains("432[{\"ok\":false,\"code\":\"UNKNOWN_EVENT\""),
        "{answers}"
    );
    assert_eq!(
        poll.say(&"x".repeat(70_000)).await.0,
        StatusCode::PAYLOAD_TOO_LARGE
    );

    // Two concurrent polls end the session.
    let (one, two) = tokio::join!(poll.next(), poll.next());
    let said = format!("{one:?} {two:?}");
    assert!(said.contains("closing") && said.contains("1002"), "{said}");
    let (status, body) = poll.next().await;
    assert_eq!(
        (status, code(&body)),
        (StatusCode::BAD_REQUEST, 1),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_upgrades_to_a_websocket_without_loss() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let poll = Poll::join(&staff, &system.url("realtime")).await;
    let address = poll
        .url
        .replacen("http", "ws", 1)
        .replace("transport=polling", "transport=websocket");
    let mut web = Web::upgrade(&address).await;
    let held = async {
        // The open poll is released once the probe is answered.
        poll.packet("6", |packet| (packet == "6").then_some(()))
            .await;
    };
    let probe = async {
        web.say("2probe").await;
        web.next().await
    };
    let ((), probed) = tokio::join!(held, probe);
    assert_eq!(probed.as_deref(), Some("3probe"));
    fill(&staff, &contact, 5, 10).await;
    web.say("5").await;
    for n in 0..5 {
        let message = web.event("message:new").await;
        assert!(
            message["message"]["content"]
                .as_str()
                .unwrap()
                .starts_with(&format!("{n} ")),
            "{message}"
        );
    }
    assert_eq!(poll.next().await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_break_the_handshake_are_disconnected() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let url = system.url("realtime");
    // An event before the connect packet, and bytes that are not a packet.
    for packet in ["42[\"conversation:join\",{}]", "x", "0{}"] {
        let mut web = Web::connect(&url).await;
        web.say(packet).await;
        assert_eq!(web.rest().await, (vec![], Some(1002)), "{packet}");
    }
    // A client may connect again with another token in the same session.
    let mut web = Web::connect(&url).await;
    web.say("40{\"token\":\"bad\"}").await;
    let refused = web.next().await.unwrap();
    assert!(
        refused.starts_with("44{\"message\":")
            && refused.contains("\"data\":{\"code\":\"INVALID_TOKEN\""),
        "{refused}"
    );
    web.say(&auth(&staff)).await;
    assert!(web.next().await.unwrap().starts_with("40{\"sid\":"));
    web.event("ready").await;

    // A client that is closed for violations does not reconnect by itself.
    let mut flood = Web::join(&url, &staff).await;
    let mut polite = Web::join(&url, &staff).await;
    for _ in 0..500 {
        if flood
            .socket
            .send(Frame::text("42[\"conversation:join\"]"))
            .await
            .is_err()
        {
            break;
        }
    }
    let (packets, code) = flood.rest().await;
    let last = find(&packets[packets.len() - 2], "closing");
    assert_eq!(
        (last, code),
        (
            Some(json!({"code": 4009, "reason": "too many bad frames", "reconnect": false})),
            Some(4009)
        )
    );
    assert_eq!(packets.last().map(String::as_str), Some("41"));
    let contact = staff.new_contact().await;
    staff.customer_message(&contact, "still there").await;
    assert_eq!(
        polite.event("message:new").await["message"]["content"],
        "still there"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_silent_clients_are_closed_and_a_stopping_node_says_when_to_reconnect() {
    let bounds = [
        ("SOCKET_QUEUE_BYTES", "1048576"),
        ("SOCKET_HANDSHAKE_TIMEOUT", "2s"),
        ("MAX_SOCKETS_PER_USER", "4"),
        ("CORS_ORIGINS", "https://app.example.com"),
    ];
    let system = System::start_with(Folder::new(), &[], &bounds).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let url = system.url("realtime");

    // A page of an origin that is not allowed, and clients that never authenticate.
    let refused = system
        .http
        .get(format!("{url}{OPEN}"))
        .header("origin", "https://evil.example")
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let mut silent = Web::connect(&url).await;
    // Without a close frame, because the client may come back (see docs/sockets.md).
    assert_eq!(silent.rest().await, (vec![], None));
    let silent = Poll::open(&staff, &url).await;
    assert_eq!(silent.rest().await, ["1"]);

    // A user with too many sockets gets no `connect_error`, after which socket.io-client would not
    // come back: some of the sockets may be gone and not missed yet.
    let other = system.new_company().await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(Web::join(&url, &other).await);
    }
    let mut refused = Web::connect(&url).await;
    refused.say(&auth(&other)).await;
    assert_eq!(refused.rest().await, (vec![], None));

    // One client stops polling; another reads everything.
    let slow = Poll::join(&staff, &url).await;
    let mut quick = Web::join(&url, &staff).await;
    fill(&staff, &contact, 300, 4_900).await;
    for n in 0..300 {
        let message = quick.event("message:new").await;
        assert!(
            message["message"]["content"]
                .as_str()
                .unwrap()
                .starts_with(&format!("{n} ")),
            "{n}"
        );
    }
    let packets = slow.rest().await;
    assert_eq!(
        find(&packets[packets.len() - 2], "closing")
            .map(|d| (d["code"].clone(), d["reconnect"].clone())),
        Some((json!(4008), json!(true)))
    );
    assert_eq!(packets.last().map(String::as_str), Some("1"));
    assert!(packets.len() < 300, "{}", packets.len());

    // The node stops: both clients are told and may reconnect.
    let poll = Poll::join(&staff, &url).await;
    let held = poll.rest();
    let stop = async {
        eventually("the poll is held", SOON, || async {
            let metrics = system
                .http
                .get(format!("{url}/metrics"))
                .send()
                .await
                .ok()?
                .text()
                .await
                .ok()?;
            metrics
                .lines()
                .any(|line| line.starts_with("realtime_polls_held") && line.ends_with(" 1"))
                .then_some(())
        })
        .await;
        let pid = system.signal("-TERM", "realtime");
        eventually("realtime is restarted", AFTER_FAULT, || async {
            system.pid("realtime").filter(|now| *now != pid)
        })
        .await;
    };
    let told = async { quick.rest().await };
    let (polled, told, ()) = tokio::join!(timeout(Duration::from_secs(60), held), told, stop);
    let is_told = |packets: &[String]| {
        packets
            .iter()
            .filter_map(|p| find(p, "closing"))
            .any(|d| d["code"] == 1001 && d["reconnect"] == true)
    };
    assert!(
        is_told(&told.0) && told.1.is_none() && !told.0.iter().any(|p| p == "41"),
        "{told:?}"
    );
    let polled = polled.unwrap();
    assert!(
        is_told(&polled) && polled.last().is_some_and(|p| p == "1"),
        "{polled:?}"
    );
    system.await_ready().await;
    Web::join(&url, &staff).await;
}
