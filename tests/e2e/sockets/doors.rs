//! The ways in which clients give token, cursor and platform at both transports.

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;

use crate::support::socketio_client::{OPEN, Web, ask, auth, find};
use crate::support::ws_client::Socket;
use crate::support::{Staff, System};
use reqwest::Method;

/// A handshake with one more header, where one is named.
fn request(address: &str, header: Option<(&'static str, String)>) -> Request {
    let mut request = address.into_client_request().unwrap();
    if let Some((name, value)) = header {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

/// The answer of Socket.IO to the first packet, over a WebSocket that was opened like this.
async fn answer_to(
    url: &str,
    query: &str,
    header: Option<(&'static str, String)>,
    packet: &str,
) -> String {
    let url = url.replacen("http", "ws", 1);
    let address = format!("{url}/socket.io/?EIO=4&transport=websocket{query}");
    let mut web = Web::of(connect_async(request(&address, header)).await.unwrap().0);
    assert!(web.next().await.unwrap().starts_with('0'));
    web.say(packet).await;
    web.next().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_io_takes_the_token_from_auth_query_header_or_subprotocol() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let (url, token) = (system.url("realtime"), &staff.token);
    let (query, bearer) = (format!("&token={token}"), format!("Bearer {token}"));
    let header = |value: &str| Some(("authorization", value.to_owned()));
    let packet = |auth: Value| format!("40{auth}");
    for (query, header, packet) in [
        ("", None, packet(json!({"token": token}))),
        ("", None, packet(json!({"token": bearer}))),
        (
            "",
            None,
            packet(json!({"token": format!("bearer {token}")})),
        ),
        (&query, None, "40".to_owned()),
        (&query, None, packet(json!({"token": ""}))),
        (&query, None, packet(json!({"token": null}))),
        ("", header(&bearer), "40".to_owned()),
        ("", header(&format!("bearer {token}")), packet(json!({}))),
        (
            "",
            Some(("sec-websocket-protocol", format!("bearer, {token}"))),
            "40".to_owned(),
        ),
        // What `auth` says is newer than what a page keeps in its address.
        ("&token=bad", None, packet(json!({"token": token}))),
    ] {
        let answer = answer_to(&url, query, header, &packet).await;
        assert!(
            answer.starts_with("40{\"sid\":"),
            "{query} {packet}: {answer}"
        );
    }
    // By polling, too.
    let opened = ask(system, Method::GET, &format!("{url}{OPEN}{query}"), "").await;
    let open: Value = serde_json::from_str(&opened.1[1..]).unwrap();
    let session = format!("{url}{OPEN}&sid={}", open["sid"].as_str().unwrap());
    assert_eq!(
        ask(system, Method::POST, &session, "40").await.0,
        StatusCode::OK
    );
    let (_, packets) = ask(system, Method::GET, &session, "").await;
    assert!(packets.starts_with("40{\"sid\":"), "{packets}");

    // A refusal names the places of this transport.
    for packet in ["40", "40{}", "40{\"accessToken\":\"x\"}"] {
        let answer = answer_to(&url, "", None, packet).await;
        assert!(
            answer.starts_with("44") && answer.contains("auth: {token}"),
            "{answer}"
        );
    }
    let answer = answer_to(&url, &query, None, "40{\"token\":\"bad\"}").await;
    assert!(answer.contains("INVALID_TOKEN"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn subprotocols_are_answered_and_may_hold_the_token() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let url = system.url("realtime").replacen("http", "ws", 1);
    let token = &staff.token;
    let io = "/socket.io/?EIO=4&transport=websocket";
    for (path, offered, answered) in [
        ("/ws", format!("bearer, {token}"), "bearer"),
        ("/ws/", format!("Bearer,{token}"), "Bearer"),
        ("/ws", format!("chat, bearer, {token}"), "bearer"),
        (&format!("/ws?token={token}"), "chat, v2".to_owned(), "chat"),
        (io, "x".to_owned(), "x"),
    ] {
        let offer = Some(("sec-websocket-protocol", offered.clone()));
        let (_, answer) = connect_async(request(&format!("{url}{path}"), offer))
            .await
            .unwrap();
        assert_eq!(
            answer.headers()["sec-websocket-protocol"],
            answered,
            "{path} {offered}"
        );
    }
    let (_, answer) = connect_async(format!("{url}/ws?token={token}"))
        .await
        .unwrap();
    assert!(!answer.headers().contains_key("sec-websocket-protocol"));
    for (offered, says) in [("bearer", "subprotocols"), ("bearer, bad", "not valid")] {
        let offer = Some(("sec-websocket-protocol", offered.to_owned()));
        let Err(Error::Http(refused)) = connect_async(request(&format!("{url}/ws"), offer)).await
        else {
            panic!("{offered}");
        };
        let body = String::from_utf8(refused.body().clone().unwrap_or_default()).unwrap();
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert!(body.contains(says), "{body}");
    }
}

/// The first events of a client that comes back: what it missed, or the reason of a `resync`.
async fn resumed(url: &str, staff: &Staff<'_>, last_seq: Value) -> Vec<Value> {
    let mut web = Web::connect(url).await;
    web.say(&format!(
        "40{}",
        json!({"token": staff.token, "last_seq": last_seq})
    ))
    .await;
    let connected = web.next().await.unwrap();
    assert!(
        connected.starts_with("40{\"sid\":"),
        "{last_seq}: {connected}"
    );
    let mut events = Vec::new();
    loop {
        let packet = web.next().await.unwrap();
        if let Some(data) = find(&packet, "resync") {
            return vec![data["reason"].clone()];
        }
        if let Some(data) = find(&packet, "message:new") {
            events.push(data["message"]["content"].clone());
            if events.len() == 2 {
                return events;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_taken_as_text_and_one_that_is_none_leads_to_resync() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let url = system.url("realtime");
    let mut first = Web::connect(&url).await;
    first.say(&auth(&staff)).await;
    let seq = first.event("ready").await["seq"].as_u64().unwrap();
    for content in ["one", "two"] {
        staff.customer_message(&contact, content).await;
        first.event("message:new").await;
    }
    for cursor in [
        json!(seq),
        json!(seq.to_string()),
        json!(seq as f64),
        json!(format!(" {seq}.0")),
    ] {
        assert_eq!(
            resumed(&url, &staff, cursor.clone()).await,
            ["one", "two"],
            "{cursor}"
        );
    }
    for cursor in [
        json!(""),
        json!("undefined"),
        json!("null"),
        json!(-1),
        json!(1.5),
        json!([]),
        json!(true),
    ] {
        assert_eq!(
            resumed(&url, &staff, cursor.clone()).await,
            ["unknown"],
            "{cursor}"
        );
    }
    // At `/ws` the cursor is text anyway.
    let ws = url.replacen("http", "ws", 1);
    for cursor in ["", "undefined", "null", "NaN", "-1"] {
        let address = format!("{ws}/ws?token={}&last_seq={cursor}", staff.token);
        let mut socket = Socket(connect_async(address).await.unwrap().0);
        assert_eq!(
            socket.event("resync").await["reason"],
            "unknown",
            "{cursor:?}"
        );
        // What comes from now on, comes.
        staff.customer_message(&contact, "three").await;
        socket.event("message:new").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_are_known_in_any_case() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let mut web = Web::join(&system.url("realtime"), &staff).await;
    for platform in ["facebook", "Facebook", "FACEBOOK", " WhatsApp"] {
        let data = json!({"conversationId": contact, "platform": platform});
        web.say(&format!("425{}", json!(["message:read", data])))
            .await;
        let answer = loop {
            let packet = web.next().await.unwrap();
            if packet.starts_with("435") {
                break packet;
            }
        };
        assert!(answer.contains("\"ok\":true"), "{platform}: {answer}");
    }
}
