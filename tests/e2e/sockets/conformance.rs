//! What the public conformance suites of Engine.IO and Socket.IO check, with the times, limits and
//! events of this service. What the suites ask of an echo server, of other namespaces and of binary
//! events is left out: this service has none.

use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::{Error, Message as Frame};

use crate::support::System;
use crate::support::socketio_client::{OPEN, Poll, Web, ask, auth, code, find};

/// Less than any limit by which the server would end a session anyway.
const AT_ONCE: std::time::Duration = std::time::Duration::from_secs(5);

/// The remaining packets and the close code of a client that is closed without its doing anything
/// more.
async fn closed(web: &mut Web) -> (Vec<String>, Option<u16>) {
    timeout(AT_ONCE, web.rest()).await.expect("closed at once")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_handshake_needs_version_and_transport() {
    let url = System::shared().await.url("realtime");
    let address = url.replacen("http", "ws", 1);
    for query in [
        "transport=websocket",
        "EIO=abc&transport=websocket",
        "EIO=4",
        "EIO=4&transport=abc",
    ] {
        match connect_async(format!("{address}/socket.io/?{query}")).await {
            Err(Error::Http(answer)) => assert_eq!(answer.status(), StatusCode::BAD_REQUEST),
            other => panic!("{query}: {other:?}"),
        }
    }
    Web::connect(&url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_io_close_packets_and_bad_packets_end_a_session_at_once() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let url = system.url("realtime");
    for is_admitted in [false, true] {
        // `1` is answered by a close frame without a code, a bad packet by 1002.
        for (packet, close_code) in [
            ("1", None),
            ("abc", Some(1002)),
            ("", Some(1002)),
            ("0{}", Some(1002)),
        ] {
            let mut web = match is_admitted {
                true => Web::join(&url, &staff).await,
                false => Web::connect(&url).await,
            };
            web.say(packet).await;
            let (packets, code) = closed(&mut web).await;
            assert_eq!(code, close_code, "{packet:?} {packets:?}");
            assert!(web.has_close_frame(), "{packet:?}");
        }

        // The session is gone after a close packet, and after a body that is none.
        for (packet, status) in [
            ("1", StatusCode::OK),
            ("abc", StatusCode::BAD_REQUEST),
            ("", StatusCode::BAD_REQUEST),
        ] {
            let poll = match is_admitted {
                true => Poll::join(&staff, &url).await,
                false => Poll::open(&staff, &url).await,
            };
            let said = timeout(AT_ONCE, poll.say(packet))
                .await
                .expect("answered at once");
            assert_eq!(said.0, status, "{packet:?}: {said:?}");
            let next = timeout(AT_ONCE, poll.next())
                .await
                .expect("answered at once");
            assert_eq!(
                (next.0, code(&next.1)),
                (StatusCode::BAD_REQUEST, 1),
                "{packet:?}"
            );
        }
    }

    // A held poll is answered when the session closes.
    let poll = Poll::open(&staff, &url).await;
    let (held, said) = tokio::join!(poll.next(), poll.say("1"));
    assert_eq!(said, (StatusCode::OK, "ok".to_owned()));
    // The POST may come first; then the session is gone already.
    assert!(
        held == (StatusCode::OK, "6".to_owned()) || held.0 == StatusCode::BAD_REQUEST,
        "{held:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_frame_is_answered_and_tcp_ends_on_both_transports() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let url = system.url("realtime");
    let address = url.strip_prefix("http://").unwrap();
    for path in [
        format!("/ws?token={}", staff.token),
        format!("/ws/?token={}", staff.token),
        "/socket.io/?EIO=4&transport=websocket".to_owned(),
    ] {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let key = "AAAAAAAAAAAAAAAAAAAAAA==";
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        );
        tcp.write_all(request.as_bytes()).await.unwrap();
        // A masked close frame with code 1000. This client does nothing more, and never closes TCP.
        tcp.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8])
            .await
            .unwrap();
        let mut read = Vec::new();
        timeout(AT_ONCE, tcp.read_to_end(&mut read))
            .await
            .expect("the end of TCP")
            .unwrap();
        assert!(read.starts_with(b"HTTP/1.1 101"), "{path}");
        assert!(read.ends_with(&[0x88, 2, 0x03, 0xe8]), "{path}: {read:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_disconnect_packet_the_session_goes_on() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let url = system.url("realtime");

    // The client is out of the room, and can connect again.
    let mut web = Web::join(&url, &staff).await;
    let mut other = Web::join(&url, &staff).await;
    web.say("41").await;
    web.say("41").await;
    // The answer to a connect for another namespace shows that `41` has been read.
    web.say("40/custom,").await;
    while !web.next().await.unwrap().starts_with("44/custom,") {}
    staff.customer_message(&contact, "meanwhile").await;
    other.event("message:new").await;
    web.say(&auth(&staff)).await;
    let connected = web.next().await.unwrap();
    assert!(connected.starts_with("40{\"sid\":"), "{connected}");
    staff.customer_message(&contact, "afterwards").await;
    let message = web.event("message:new").await;
    assert_eq!(message["message"]["content"], "afterwards");
    // An event of a client that is not connected is an error.
    web.say("41").await;
    web.say("42[\"typing:start\"]").await;
    assert_eq!(closed(&mut web).await.1, Some(1002));

    // Clients that poll say `41` and then `1`, each in a body of its own or both in one.
    let poll = Poll::join(&staff, &url).await;
    let ok = (StatusCode::OK, "ok".to_owned());
    assert_eq!(
        (poll.say("41").await, poll.say("1").await),
        (ok.clone(), ok.clone())
    );
    assert_eq!(poll.next().await.0, StatusCode::BAD_REQUEST);
    let poll = Poll::join(&staff, &url).await;
    assert_eq!(poll.say("41\u{1e}1").await, ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_that_is_not_socket_io_ends_the_session_at_once() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let url = system.url("realtime");
    // As the first packet, and from a client that is connected.
    for packet in [
        "4abc",
        "4",
        "42{}",
        "42abc[\"a\"]",
        "42[]",
        "42[{}]",
        "45[\"a\"]",
        "451-",
        "47",
    ] {
        let mut web = Web::connect(&url).await;
        web.say(packet).await;
        assert_eq!(closed(&mut web).await, (vec![], Some(1002)), "{packet}");
        let mut web = Web::join(&url, &staff).await;
        web.say(packet).await;
        let (packets, close_code) = closed(&mut web).await;
        let closing = packets.iter().find_map(|packet| find(packet, "closing"));
        assert_eq!(closing.unwrap()["code"], 1002, "{packet}");
        assert_eq!(close_code, Some(1002), "{packet}");
    }
    // Before the token, nothing else is taken.
    for packet in [
        "42[\"a\"]",
        "42/custom,[\"a\"]",
        "451-[\"a\",{\"_placeholder\":true,\"num\":0}]",
    ] {
        let mut web = Web::connect(&url).await;
        web.say(packet).await;
        assert_eq!(closed(&mut web).await, (vec![], Some(1002)), "{packet}");
    }
}

fn bytes() -> Frame {
    Frame::binary(vec![1, 2, 3])
}

#[tokio::test(flavor = "multi_thread")]
async fn events_with_bytes_are_answered_once_and_their_attachments_are_swallowed() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let url = system.url("realtime");
    let placeholder = json!({"_placeholder": true, "num": 0});
    for (event, wanted) in [
        ("conversation:join", "MALFORMED_FRAME"),
        ("message:read", "MALFORMED_FRAME"),
        ("avatar:upload", "UNKNOWN_EVENT"),
    ] {
        let mut web = Web::join(&url, &staff).await;
        web.say(&format!(
            "452-7{}",
            json!([event, placeholder, placeholder])
        ))
        .await;
        web.socket.send(bytes()).await.unwrap();
        web.socket.send(bytes()).await.unwrap();
        web.say("428[\"conversation:leave\",\"000000000000000000000000\"]")
            .await;
        let mut answers = Vec::new();
        while answers
            .last()
            .is_none_or(|last: &String| !last.starts_with("438"))
        {
            answers.push(web.next().await.unwrap());
            answers.retain(|packet| packet.starts_with("43") || find(packet, "error").is_some());
        }
        assert_eq!(answers.len(), 2, "{event}: {answers:?}");
        let answer: Value = serde_json::from_str(answers[0].strip_prefix("437").unwrap()).unwrap();
        assert_eq!(
            (&answer[0]["ok"], &answer[0]["code"]),
            (&json!(false), &json!(wanted))
        );
    }
    // Text where an attachment has to come.
    let mut web = Web::join(&url, &staff).await;
    web.say(&format!("451-{}", json!(["a", placeholder]))).await;
    web.say("42[\"b\"]").await;
    assert_eq!(closed(&mut web).await.1, Some(1002));
    // An answer that nobody asked for, with bytes.
    let mut web = Web::join(&url, &staff).await;
    web.say("461-3[]").await;
    web.socket.send(bytes()).await.unwrap();
    web.say("429[\"conversation:leave\",\"000000000000000000000000\"]")
        .await;
    while !web.next().await.unwrap().starts_with("439[{\"ok\":true") {}
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_events_are_answered_however_many_there_are() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let mut web = Web::join(&system.url("realtime"), &staff).await;
    // More than the violations after which a client is closed.
    for n in 0..300 {
        let name = if n % 2 == 0 {
            json!("user:heartbeat")
        } else {
            json!(n)
        };
        web.say(&format!("42{}", json!([name, {}]))).await;
    }
    web.say("421[\"user:heartbeat\"]").await;
    let mut errors = 0;
    let answer = loop {
        let packet = web.next().await.unwrap();
        match find(&packet, "error") {
            Some(error) => {
                assert_eq!(error["code"], "UNKNOWN_EVENT");
                errors += 1;
            }
            None if packet.starts_with("431") => break packet,
            None => {}
        }
    };
    assert_eq!(errors, 300);
    assert!(
        answer.contains("\"ok\":false,\"code\":\"UNKNOWN_EVENT\""),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_websocket_has_the_session_no_other_request_gets_it() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let poll = Poll::join(&staff, &system.url("realtime")).await;
    let address = poll
        .url
        .replacen("http", "ws", 1)
        .replace("=polling", "=websocket");
    let mut web = Web::upgrade(&address).await;
    web.say("2probe").await;
    assert_eq!(web.next().await.as_deref(), Some("3probe"));
    web.say("5").await;
    web.say("421[\"conversation:leave\",\"000000000000000000000000\"]")
        .await;
    while !web.next().await.unwrap().starts_with("431") {}
    assert_eq!(poll.next().await.0, StatusCode::BAD_REQUEST);
    assert_eq!(poll.say("3").await.0, StatusCode::BAD_REQUEST);
    let second = connect_async(address).await;
    assert!(
        second.is_err()
            || second
                .unwrap()
                .0
                .next()
                .await
                .is_none_or(|frame| frame.is_err())
    );
    let (status, body) = ask(system, Method::PUT, &poll.url, "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    let url = system.url("realtime");
    let (status, body) = ask(system, Method::DELETE, &format!("{url}{OPEN}"), "").await;
    assert_eq!(
        (status, code(&body)),
        (StatusCode::BAD_REQUEST, 2),
        "{body}"
    );
}
