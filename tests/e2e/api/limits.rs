//! CORS, security headers, rate limits, connection limits and slow clients, on a system of its own
//! with small limits. Each test uses addresses of 127.0.0.0/8 of its own as clients. Slow: a test
//! waits until the gateway disconnects a silent client (up to 45 s).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::OnceCell;

use crate::support::{Folder, SOON, System, eventually};

const SECRET: &str = "a secret of this test, which is long enough";
const SERVICE_KEY: &str = "a key of this test, which is long enough too";
const PAGE: &str = "https://app.example.com";
const PROXY: [u8; 4] = [127, 0, 9, 9];
/// Requests per window: of a user or an address, of the services, of an address without a token.
const MAX: usize = 12;
const SERVICE_MAX: usize = 15;
const AUTH_MAX: usize = 5;
/// Open connections that one address may have.
const CONNECTIONS: usize = 6;
/// Longer than the gateway waits for a head (10 s) or a body (30 s).
const CUT_OFF: Duration = Duration::from_secs(45);

async fn system() -> &'static System {
    static SYSTEM: OnceCell<System> = OnceCell::const_new();
    let start = async {
        let environment = [
            ("JWT_ACCESS_SECRET", SECRET),
            ("INTERNAL_SERVICE_API_KEY", SERVICE_KEY),
            ("CORS_ORIGINS", PAGE),
            ("TRUSTED_PROXIES", &IpAddr::from(PROXY).to_string()),
            ("RATE_LIMIT_WINDOW", "1h"),
            ("RATE_LIMIT_MAX", &MAX.to_string()),
            ("RATE_LIMIT_SERVICE_MAX", &SERVICE_MAX.to_string()),
            ("RATE_LIMIT_AUTH_MAX", &AUTH_MAX.to_string()),
            ("MAX_CONNECTIONS_PER_ADDRESS", &CONNECTIONS.to_string()),
        ];
        System::start_with(Folder::new(), &[], &environment).await
    };
    SYSTEM.get_or_init(|| start).await
}

/// An HTTP client that connects from an address of its own.
struct At {
    http: Client,
    gateway: String,
}

impl At {
    async fn address(address: [u8; 4]) -> At {
        let gateway = system().await.url("gateway");
        crate::support::client(); // installs the crypto provider
        let http = Client::builder()
            .local_address(IpAddr::from(address))
            .pool_max_idle_per_host(0)
            .timeout(SOON)
            .build()
            .unwrap();
        At { http, gateway }
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.gateway))
    }
}

/// A valid access token of any company and user.
fn token(company: char, user: char) -> String {
    let claims = json!({"userId": user.to_string().repeat(24), "companyId": company.to_string().repeat(24), "role": "receptionist",
        "iat": 1_700_000_000, "exp": 4_000_000_000_u64});
    jsonwebtoken::encode(
        &Header::default(),
        &claims,
        &EncodingKey::from_secret(SECRET.as_bytes()),
    )
    .unwrap()
}

async fn answer(request: RequestBuilder) -> (StatusCode, HeaderMap, Value) {
    let answer = request.send().await.unwrap();
    (
        answer.status(),
        answer.headers().clone(),
        answer.json().await.unwrap_or_default(),
    )
}

/// Sends a request repeatedly and returns the statuses.
async fn repeated(times: usize, request: impl Fn() -> RequestBuilder) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..times {
        statuses.push(answer(request()).await.0.as_u16());
    }
    statuses
}

fn all_then_429(first: u16, times: usize) -> Vec<u16> {
    [vec![first; times], vec![429; 2]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_security_headers_and_errors_name_the_request() {
    let at = At::address([127, 0, 1, 1]).await;
    for (path, token, status) in [
        ("/health", None, 200),
        ("/api/v1/contacts", Some(token('a', '1')), 200),
        ("/api/v1/auth/me", None, 401),
        ("/api/v1/nowhere", None, 404),
        ("/api/v1/messages/%ff", None, 400),
        ("/api/v1/messages?a=1&a=2", None, 400),
    ] {
        let request = at.ask(Method::GET, path).header("x-request-id", "my-own");
        let (found, headers, body) = answer(if let Some(token) = token {
            request.bearer_auth(token)
        } else {
            request
        })
        .await;
        assert_eq!(found.as_u16(), status, "{path} {body}");
        assert_eq!(
            headers["content-security-policy"], "default-src 'none'; frame-ancestors 'none'",
            "{path}"
        );
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(headers[name], value, "{path}");
        }
        assert!(
            !headers.contains_key("server") && !headers.contains_key("x-powered-by"),
            "{path}"
        );
        if status >= 400 {
            assert_eq!(
                (&headers["content-type"], &body["request_id"]),
                (
                    &HeaderValue::from_static("application/problem+json"),
                    &json!("my-own")
                )
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cors_admits_listed_origins_only() {
    let at = At::address([127, 0, 1, 2]).await;
    let preflight = |origin: &'static str| {
        let request = at
            .ask(Method::OPTIONS, "/api/v1/messages")
            .header("origin", origin);
        request
            .header("access-control-request-method", "PATCH")
            .header(
                "access-control-request-headers",
                "authorization,idempotency-key",
            )
    };
    let (status, headers, _) = answer(preflight(PAGE)).await;
    assert!(status.is_success());
    assert_eq!(
        (
            &headers["access-control-allow-origin"],
            &headers["access-control-allow-credentials"]
        ),
        (&PAGE.parse().unwrap(), &"true".parse().unwrap())
    );
    let allowed = |headers: &HeaderMap, of: &str| {
        headers[format!("access-control-allow-{of}")]
            .to_str()
            .unwrap()
            .to_ascii_lowercase()
    };
    assert!(
        allowed(&headers, "methods").contains("patch")
            && allowed(&headers, "headers").contains("idempotency-key")
    );
    let (_, headers, _) = answer(preflight("https://app.example.com.evil.example")).await;
    assert!(!headers.contains_key("access-control-allow-origin"));
    let (status, headers, _) = answer(
        at.ask(Method::GET, "/api/v1/auth/me")
            .header("origin", PAGE),
    )
    .await;
    assert_eq!(
        (status, &headers["access-control-allow-origin"]),
        (StatusCode::UNAUTHORIZED, &PAGE.parse().unwrap())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_internal_services_have_separate_rate_limits() {
    let at = At::address([127, 0, 1, 3]).await;
    let list = |body: Value| {
        at.ask(Method::POST, "/api/v1/messages/instagram")
            .json(&body)
    };
    let as_user = |user: char| list(json!({})).bearer_auth(token('b', user));
    let (status, headers, _) = answer(as_user('5')).await;
    let described = |headers: &HeaderMap| {
        ["limit", "remaining"].map(|n| {
            headers[format!("ratelimit-{n}")]
                .to_str()
                .unwrap()
                .parse::<usize>()
                .unwrap()
        })
    };
    assert_eq!(
        (status, described(&headers)),
        (StatusCode::OK, [MAX, MAX - 1])
    );
    assert_eq!(
        repeated(MAX + 1, || as_user('5')).await,
        all_then_429(200, MAX - 1)
    );
    let (status, headers, body) = answer(as_user('5')).await;
    assert_eq!(
        (status, described(&headers), &body["code"]),
        (
            StatusCode::TOO_MANY_REQUESTS,
            [MAX, 0],
            &json!("RATE_LIMITED")
        )
    );
    // One request is allowed again after a twelfth of the hour, all of them after an hour.
    let seconds = |name: &str| headers[name].to_str().unwrap().parse::<usize>().unwrap();
    assert!(
        (1..=3_600 / MAX).contains(&seconds("retry-after")),
        "{headers:?}"
    );
    assert_eq!(seconds("ratelimit-reset"), 3_600);

    // Every route counts except login and logout. A colleague at the same address has a limit of
    // their own.
    assert_eq!(answer(as_user('6')).await.0, StatusCode::OK);
    let elsewhere = async |path: &str| {
        answer(at.ask(Method::GET, path).bearer_auth(token('b', '5')))
            .await
            .0
    };
    assert_eq!(
        elsewhere("/api/v1/contacts").await,
        StatusCode::TOO_MANY_REQUESTS
    );
    assert_eq!(
        elsewhere("/api/v1/auth/me").await,
        StatusCode::TOO_MANY_REQUESTS
    );
    let logout = at
        .ask(Method::POST, "/api/v1/auth/logout")
        .bearer_auth(token('b', '5'));
    assert_eq!(
        logout.send().await.unwrap().status(),
        StatusCode::NO_CONTENT
    );
    // Internal services share one limit of their own over all companies.
    let as_service = |company: &str| {
        list(json!({"company_id": company.repeat(24)})).header("x-api-key", SERVICE_KEY)
    };
    assert_eq!(
        repeated(SERVICE_MAX - 1, || as_service("a")).await,
        vec![200; SERVICE_MAX - 1]
    );
    assert_eq!(repeated(3, || as_service("b")).await, all_then_429(200, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_a_token_are_limited_by_address_which_only_trusted_proxies_may_set() {
    let (stranger, proxy) = (At::address([127, 0, 1, 4]).await, At::address(PROXY).await);
    let from = |at: &At, client: &str| {
        at.ask(Method::GET, "/api/v1/messages")
            .header("x-forwarded-for", client)
    };
    // A client that claims another address in each request still counts as one.
    let mut statuses = Vec::new();
    for n in 0..MAX + 2 {
        statuses.push(
            answer(from(&stranger, &format!("192.0.2.{n}")))
                .await
                .0
                .as_u16(),
        );
    }
    assert_eq!(statuses, all_then_429(401, MAX));
    // A request with an invalid token counts by address too.
    assert_eq!(
        answer(from(&stranger, "192.0.2.99").bearer_auth("x.y.z"))
            .await
            .0,
        StatusCode::TOO_MANY_REQUESTS
    );

    // Behind the trusted proxy each client has its own limit, and addresses that a client has
    // prepended are ignored.
    assert_eq!(
        repeated(MAX + 2, || from(&proxy, "8.8.8.8, 198.51.100.1")).await,
        all_then_429(401, MAX)
    );
    assert_eq!(repeated(1, || from(&proxy, "198.51.100.1")).await, [429]);
    assert_eq!(repeated(1, || from(&proxy, "198.51.100.2")).await, [401]);
    // All addresses of one IPv6 network share a limit.
    assert_eq!(
        repeated(MAX + 2, || from(&proxy, "2001:db8:0:1::1")).await,
        all_then_429(401, MAX)
    );
    assert_eq!(repeated(1, || from(&proxy, "2001:db8:0:1::2")).await, [429]);
    assert_eq!(repeated(1, || from(&proxy, "2001:db8:0:2::1")).await, [401]);
}

#[tokio::test(flavor = "multi_thread")]
async fn password_guesses_are_limited_by_address() {
    let (guesser, other) = (
        At::address([127, 0, 1, 5]).await,
        At::address([127, 0, 1, 6]).await,
    );
    // A new email in each guess, because repeated failures would lock one email.
    let count = std::cell::Cell::new(0);
    let login = |at: &At| {
        let email = format!("nobody{}@example.com", count.replace(count.get() + 1));
        at.ask(Method::POST, "/api/v1/auth/login")
            .json(&json!({"email": email, "password": "guess"}))
    };
    // A valid token does not raise the limit.
    assert_eq!(
        repeated(AUTH_MAX + 2, || login(&guesser)
            .bearer_auth(token('a', '1')))
        .await,
        all_then_429(401, AUTH_MAX)
    );
    assert_eq!(
        answer(
            guesser
                .ask(Method::POST, "/api/v1/auth/register")
                .json(&json!({}))
        )
        .await
        .0,
        StatusCode::TOO_MANY_REQUESTS
    );
    assert_eq!(answer(login(&other)).await.0, StatusCode::UNAUTHORIZED);
}

/// Connects from an address and sends nothing.
async fn connect(address: [u8; 4]) -> TcpStream {
    let gateway = system().await.url("gateway");
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((address, 0))).unwrap();
    socket
        .connect(gateway.strip_prefix("http://").unwrap().parse().unwrap())
        .await
        .unwrap()
}

/// Reads until the gateway closes the connection, at most [`CUT_OFF`].
async fn until_closed(connection: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let read = tokio::time::timeout(CUT_OFF, connection.read_to_end(&mut said)).await;
    let _ = read.expect("the gateway ends it"); // a reset is an end too
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_senders_are_disconnected() {
    let address = [127, 0, 1, 8];
    let (mut silent, mut head, mut body) = (
        connect(address).await,
        connect(address).await,
        connect(address).await,
    );
    head.write_all(b"GET /api/v1/auth/me HTTP/1.1\r\nHost: gateway\r\nX-Slow: ")
        .await
        .unwrap();
    let bearer = token('a', '8');
    let begun = format!(
        "POST /api/v1/messages HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {bearer}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    );
    body.write_all(begun.as_bytes()).await.unwrap();
    let (silent, head, body) = tokio::join!(
        until_closed(&mut silent),
        until_closed(&mut head),
        until_closed(&mut body)
    );
    assert_eq!((silent.as_str(), head.as_str()), ("", ""));
    assert!(
        body.starts_with("HTTP/1.1 408 ") && body.contains(r#""code":"TIMEOUT""#),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_limited_per_address() {
    const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: gateway\r\n\r\n";
    let address = [127, 0, 1, 10];
    let served = async |connection: &mut TcpStream| {
        let _ = connection.write_all(HEALTH).await;
        let mut first = [0; 12];
        matches!(tokio::time::timeout(SOON, connection.read_exact(&mut first)).await, Ok(Ok(_)) if &first == b"HTTP/1.1 200")
    };
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = connect(address).await;
        assert!(served(&mut connection).await);
        open.push(connection);
    }
    assert_eq!(until_closed(&mut connect(address).await).await, "");
    assert!(
        served(&mut connect([127, 0, 1, 11]).await).await,
        "another address"
    );
    let proxied = futures_util::future::join_all((0..=CONNECTIONS).map(|_| connect(PROXY))).await;
    for mut connection in proxied {
        assert!(
            served(&mut connection).await,
            "a proxy brings everybody's connections"
        );
    }
    open.pop();
    eventually("there is room again", SOON, || async {
        served(&mut connect(address).await).await.then_some(())
    })
    .await;
}
