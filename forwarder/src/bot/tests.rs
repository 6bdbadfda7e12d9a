//! Calls to the bot, against real HTTP servers on ports of their own.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap as Headers, StatusCode, Uri};
use contract::Timestamp;
use contract::domain::{Content, Direction, Role, Url};
use runtime::net::http_client::MAX_ANSWER_BYTES;
use runtime::net::platform_error::Reply;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::answer::Answer;
use super::*;

const TOKEN: &str = "EAAB-token";
const KEY: &str = "0123456789abcdef0123456789abcdef";

fn bot(base_url: String, timeout: Duration) -> Bot {
    Bot::new(base_url, &KEY.into(), timeout).unwrap()
}

fn message() -> Message {
    let id = |digit: &str| digit.repeat(24).parse().unwrap();
    Message {
        id: id("c"),
        company_id: id("a"),
        contact_id: id("b"),
        role: Role::Operator,
        platform: Platform::Instagram,
        direction: Direction::Outbound,
        content: Content::new("See you at ten.").unwrap(),
        attachments: vec![Attachment {
            kind: ShortText::new("image").unwrap(),
            url: Some(Url::new("https://files.example/a.png").unwrap()),
            file_description: None,
            payload: None,
            extra: serde_json::Map::new(),
        }],
        external_message_id: None,
        sent_elsewhere: false,
        created_at: Timestamp::from_millis(1_760_000_000_000),
        of_channel: serde_json::Map::new(),
        extra: serde_json::Map::new(),
    }
}

fn trace() -> TraceContext {
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        .parse()
        .unwrap()
}

/// An answer with an empty body.
fn answered(status: u16, retry_after: Option<Duration>) -> Ending {
    Ending::Answered(Answer {
        status,
        retry_after,
        reply: Reply::default(),
    })
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

#[tokio::test]
async fn a_call_has_the_message_the_key_and_the_trace() {
    let seen: Arc<Mutex<Option<(Uri, Headers, Value)>>> = Arc::default();
    let into = seen.clone();
    let router =
        Router::new().fallback(move |uri: Uri, headers: Headers, body: Bytes| async move {
            *into.lock().unwrap() = Some((uri, headers, serde_json::from_slice(&body).unwrap()));
            StatusCode::OK
        });
    let bot = bot(serve(router).await, CALL_TIMEOUT);
    let customer = ShortText::new("17841400000000000").unwrap();
    let called = bot
        .deliver(&message(), Some(&customer), &TOKEN.into(), trace())
        .await;
    assert_eq!(called.ending, answered(200, None));
    let (uri, headers, body) = seen.lock().unwrap().take().unwrap();
    assert_eq!(uri.path(), "/chat/manual-instagram");
    assert_eq!(headers["idempotency-key"], "c".repeat(24).as_str());
    assert_eq!(headers["x-api-key"], KEY);
    assert!(
        headers["traceparent"]
            .to_str()
            .unwrap()
            .contains(&trace().trace_id())
    );
    let expected = json!({
        "company_id": "a".repeat(24), "customer_id": "b".repeat(24), "platform": "instagram", "content": "See you at ten.",
        "attachments": [{"type": "image", "url": "https://files.example/a.png"}],
        "external_message_id": null, "access_token": TOKEN, "customer_social_id": "17841400000000000"
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_contact_without_an_id_on_the_platform_is_sent_as_null() {
    let router = Router::new().fallback(|body: Bytes| async move {
        let body: Value = serde_json::from_slice(&body).unwrap();
        if body["customer_social_id"].is_null() {
            StatusCode::ACCEPTED
        } else {
            StatusCode::BAD_REQUEST
        }
    });
    let called = bot(serve(router).await, CALL_TIMEOUT)
        .deliver(&message(), None, &TOKEN.into(), trace())
        .await;
    assert_eq!(called.ending, answered(202, None));
}

#[tokio::test]
async fn retry_after_is_read_and_a_redirect_is_not_followed() {
    let router = Router::new().fallback(|uri: Uri| async move {
        match uri.path() {
            "/busy/chat/manual-instagram" => {
                (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")])
            }
            _ => (
                StatusCode::FOUND,
                [("location", "/busy/chat/manual-instagram")],
            ),
        }
    });
    let url = serve(router).await;
    let busy = bot(format!("{url}/busy"), CALL_TIMEOUT)
        .deliver(&message(), None, &TOKEN.into(), trace())
        .await;
    assert_eq!(busy.ending, answered(429, Some(Duration::from_secs(7))));
    let moved = bot(url, CALL_TIMEOUT)
        .deliver(&message(), None, &TOKEN.into(), trace())
        .await;
    assert_eq!(moved.ending, answered(302, None));
}

#[tokio::test]
async fn an_endless_answer_is_cut_off_and_its_status_counts() {
    let router = Router::new().fallback(|| async { vec![b'x'; 64 * MAX_ANSWER_BYTES] });
    let called = bot(serve(router).await, CALL_TIMEOUT)
        .deliver(&message(), None, &TOKEN.into(), trace())
        .await;
    assert_eq!(called.ending, answered(200, None));
}

#[tokio::test]
async fn no_connection_a_broken_connection_and_silence_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // The system completes connections that nobody accepts, so there is silence.
    let silent = bot(url.clone(), Duration::from_millis(200))
        .deliver(&message(), None, &TOKEN.into(), trace())
        .await;
    assert_eq!(silent.ending, Ending::TimedOut);
    let (broken, _) = tokio::join!(
        async {
            bot(url.clone(), CALL_TIMEOUT)
                .deliver(&message(), None, &TOKEN.into(), trace())
                .await
        },
        async {
            // The first connection is that of the silent call.
            drop(listener.accept().await.unwrap());
            drop(listener.accept().await.unwrap());
        }
    );
    assert_eq!(broken.ending, Ending::Broken);
    drop(listener);
    let refused = bot(url, CALL_TIMEOUT)
        .deliver(&message(), None, &TOKEN.into(), trace())
        .await;
    assert_eq!(refused.ending, Ending::NoConnection);
}

#[tokio::test]
async fn the_platforms_words_are_read_and_the_token_in_them_is_hidden() {
    let router = Router::new().fallback(|| async {
        let error = json!({"message": format!("{TOKEN} has expired"), "code": 190});
        (StatusCode::BAD_REQUEST, axum::Json(json!({"error": error})))
    });
    let called = bot(serve(router).await, CALL_TIMEOUT)
        .deliver(&message(), None, &TOKEN.into(), trace())
        .await;
    let Ending::Answered(answer) = called.ending else {
        panic!("{called:?}")
    };
    let error = answer.reply.graph().unwrap();
    assert_eq!(
        (error.code, error.words.as_deref()),
        (190, Some("[hidden] has expired"))
    );
}
