//! Authentication on two gateways that share nothing but NATS: kinds of tokens, refresh and reuse,
//! logout, cookies. Invitations and lockout are tested in files of their own.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::header::{COOKIE, SET_COOKIE};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{SOON, System, eventually};

pub const PASSWORD: &str = "correct horse";

/// A shared system with two gateways, for tests without faults.
pub async fn two_gateways() -> &'static System {
    static SHARED: tokio::sync::OnceCell<System> = tokio::sync::OnceCell::const_new();
    SHARED
        .get_or_init(|| System::start(&["--replicas", "gateway=2"]))
        .await
}

/// A request to the n-th gateway.
pub fn ask(system: &System, gateway: usize, method: Method, path: &str) -> reqwest::RequestBuilder {
    let gateways = system.services("gateway");
    system.http.request(
        method,
        format!("{}/api/v1/auth{path}", gateways[gateway % gateways.len()]),
    )
}

pub async fn post(
    system: &System,
    gateway: usize,
    path: &str,
    token: Option<&str>,
    body: &Value,
) -> (StatusCode, Value) {
    let request = ask(system, gateway, Method::POST, path).json(body);
    let answer = token
        .into_iter()
        .fold(request, reqwest::RequestBuilder::bearer_auth)
        .send()
        .await
        .unwrap();
    (answer.status(), answer.json().await.unwrap_or_default())
}

pub async fn me(system: &System, gateway: usize, token: &str) -> (StatusCode, Value) {
    let answer = ask(system, gateway, Method::GET, "/me")
        .bearer_auth(token)
        .send()
        .await
        .unwrap();
    (answer.status(), answer.json().await.unwrap_or_default())
}

/// An email that nobody has.
pub fn fresh_email() -> String {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    format!(
        "auth{}-{}@example.com",
        COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        std::process::id()
    )
}

/// A new company; what registering answers, and the email.
pub async fn register(system: &System) -> (String, Value) {
    let email = fresh_email();
    let body = json!({"company_name": "Auth Clinic", "fullName": "Ann Auth", "email": email, "password": PASSWORD});
    let (status, answer) = post(system, 0, "/register", None, &body).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    (email, answer)
}

pub async fn login(
    system: &System,
    gateway: usize,
    email: &str,
    password: &str,
) -> (StatusCode, Value) {
    post(
        system,
        gateway,
        "/login",
        None,
        &json!({"email": email, "password": password}),
    )
    .await
}

pub async fn refresh(system: &System, gateway: usize, token: &Value) -> (StatusCode, Value) {
    post(
        system,
        gateway,
        "/refresh",
        None,
        &json!({"refreshToken": token}),
    )
    .await
}

pub fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {answer}"))
}

pub fn assert_refused((status, answer): (StatusCode, Value), wanted: StatusCode, code: &str) {
    assert_eq!(
        (status, &answer["code"]),
        (wanted, &json!(code)),
        "{answer}"
    );
}

/// The runner's secrets, as the gateways have them.
pub fn secret(system: &System, name: &str) -> String {
    let secrets: Value =
        serde_json::from_slice(&std::fs::read(system.folder.0.join("secrets.json")).unwrap())
            .unwrap();
    text(&secrets, name).to_owned()
}

pub fn seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

pub fn sign(secret: &str, algorithm: Algorithm, claims: &Value) -> String {
    encode(
        &Header::new(algorithm),
        claims,
        &EncodingKey::from_secret(secret.as_bytes()),
    )
    .unwrap()
}

/// The claims of a token, unchecked.
pub fn claims(token: &str) -> Value {
    jsonwebtoken::dangerous::insecure_decode::<Value>(token)
        .unwrap()
        .claims
}

#[tokio::test(flavor = "multi_thread")]
async fn only_correctly_signed_access_tokens_are_accepted() {
    let system = two_gateways().await;
    let (email, registered) = register(system).await;
    let user = &registered["user"];
    let (access, refresh_key) = (secret(system, "jwt_access"), secret(system, "jwt_refresh"));
    let now = seconds();
    let good = json!({"userId": user["_id"], "companyId": user["company_id"], "role": "manager", "iat": now, "exp": now + 60});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };

    // A token that is signed with the secret is valid, whoever signed it.
    for token in [
        sign(&access, Algorithm::HS256, &good),
        text(&registered, "accessToken").to_owned(),
    ] {
        let (status, answer) = me(system, 1, &token).await;
        assert_eq!(
            (status, &answer["user"]["email"]),
            (StatusCode::OK, &json!(email)),
            "{answer}"
        );
        assert_eq!(
            (&answer["user"]["role"], &answer["user"]["company_id"]),
            (&json!("manager"), &user["company_id"])
        );
        assert!(answer["user"].get("password_hash").is_none(), "{answer}");
    }

    let expired = sign(&access, Algorithm::HS256, &with("exp", json!(now - 1)));
    assert_refused(
        me(system, 0, &expired).await,
        StatusCode::UNAUTHORIZED,
        "TOKEN_EXPIRED",
    );

    let signed = sign(&access, Algorithm::HS256, &good);
    let (head, rest) = signed.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let other_company = sign(
        "another secret of at least thirty-two",
        Algorithm::HS256,
        &with("companyId", json!("c".repeat(24))),
    );
    let bad = [
        (
            "another key",
            sign(
                "another secret of at least thirty-two",
                Algorithm::HS256,
                &good,
            ),
        ),
        (
            "the refresh key",
            sign(&refresh_key, Algorithm::HS256, &good),
        ),
        ("another algorithm", sign(&access, Algorithm::HS512, &good)),
        // {"alg":"none","typ":"JWT"} and {"alg":"None"}
        (
            "alg: none",
            format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}."),
        ),
        ("alg: None", format!("eyJhbGciOiJOb25lIn0.{body}.")),
        (
            "alg: none with a signature",
            format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.{signature}"),
        ),
        ("no signature", format!("{head}.{body}.")),
        (
            "another's claims under this signature",
            format!(
                "{head}.{}.{signature}",
                other_company.split('.').nth(1).unwrap()
            ),
        ),
        (
            "no role",
            sign(&access, Algorithm::HS256, &with("role", Value::Null)),
        ),
        (
            "an unknown role",
            sign(&access, Algorithm::HS256, &with("role", json!("admin"))),
        ),
        (
            "a user who is no id",
            sign(
                &access,
                Algorithm::HS256,
                &with("userId", json!({"$gt": ""})),
            ),
        ),
        ("nothing", String::new()),
    ];
    for (what, token) in bad {
        let (status, answer) = me(system, 0, &token).await;
        assert_eq!(
            (status, &answer["code"]),
            (StatusCode::UNAUTHORIZED, &json!("INVALID_TOKEN")),
            "{what}: {answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_kind_of_token_is_accepted_as_another_kind() {
    let system = two_gateways().await;
    let (_, registered) = register(system).await;
    let (access, refresh_token) = (
        text(&registered, "accessToken"),
        text(&registered, "refreshToken"),
    );
    let email = fresh_email();
    let (status, answer) = post(
        system,
        0,
        "/invitations",
        Some(access),
        &json!({"email": email, "role": "receptionist"}),
    )
    .await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let invitation = text(&answer, "invitation");

    for token in [refresh_token, invitation] {
        assert_refused(
            me(system, 0, token).await,
            StatusCode::UNAUTHORIZED,
            "INVALID_TOKEN",
        );
    }
    for token in [access, invitation] {
        assert_refused(
            refresh(system, 0, &json!(token)).await,
            StatusCode::UNAUTHORIZED,
            "INVALID_TOKEN",
        );
    }
    for token in [access, refresh_token] {
        let body =
            json!({"invitation": token, "fullName": "Eve", "email": email, "password": PASSWORD});
        assert_refused(
            post(system, 0, "/register", None, &body).await,
            StatusCode::FORBIDDEN,
            "FORBIDDEN",
        );
    }
    // Each kind, with all claims of both, signed with the other kind's key.
    let mut all = claims(refresh_token);
    for (name, value) in claims(access)
        .as_object()
        .unwrap()
        .iter()
        .chain(claims(invitation).as_object().unwrap())
    {
        all[name] = value.clone();
    }
    all["aud"] = json!("refresh");
    let forged = sign(&secret(system, "jwt_access"), Algorithm::HS256, &all);
    assert_refused(
        refresh(system, 0, &json!(forged)).await,
        StatusCode::UNAUTHORIZED,
        "INVALID_TOKEN",
    );
    for aud in ["invitation", "access"] {
        all["aud"] = json!(aud);
        let forged = sign(&secret(system, "jwt_refresh"), Algorithm::HS256, &all);
        assert_refused(
            refresh(system, 0, &json!(forged)).await,
            StatusCode::UNAUTHORIZED,
            "INVALID_TOKEN",
        );
        assert_refused(
            me(system, 0, &forged).await,
            StatusCode::UNAUTHORIZED,
            "INVALID_TOKEN",
        );
    }
    // The session is unchanged.
    assert_eq!(
        refresh(system, 0, &json!(refresh_token)).await.0,
        StatusCode::OK
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_works_once_and_its_reuse_ends_the_session() {
    let system = two_gateways().await;
    let (email, first) = register(system).await;
    assert_eq!(first["refreshExpiresIn"], 7 * 86_400);
    let (_, other) = login(system, 1, &email, PASSWORD).await;

    // Each refresh, on either gateway, gives a new token.
    let mut answer = first.clone();
    for gateway in 0..4 {
        let (status, next) = refresh(system, gateway, &answer["refreshToken"]).await;
        assert_eq!(status, StatusCode::OK, "{next}");
        assert_ne!(next["refreshToken"], answer["refreshToken"]);
        assert_eq!(
            claims(text(&next, "accessToken"))["sid"],
            claims(text(&first, "accessToken"))["sid"]
        );
        assert_eq!(
            me(system, gateway, text(&next, "accessToken")).await.0,
            StatusCode::OK
        );
        answer = next;
    }
    // Reuse of the first token on the other gateway also invalidates the current token.
    assert_refused(
        refresh(system, 0, &first["refreshToken"]).await,
        StatusCode::UNAUTHORIZED,
        "INVALID_TOKEN",
    );
    for gateway in 0..2 {
        assert_refused(
            refresh(system, gateway, &answer["refreshToken"]).await,
            StatusCode::UNAUTHORIZED,
            "INVALID_TOKEN",
        );
    }
    // The user's other session is unaffected.
    assert_eq!(
        refresh(system, 0, &other["refreshToken"]).await.0,
        StatusCode::OK
    );
    let reused = async |url: &String| {
        let metrics = system
            .http
            .get(format!("{url}/metrics"))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        metrics
            .lines()
            .any(|line| line.starts_with("refresh_token_reused_total") && !line.ends_with(" 0"))
    };
    assert!(
        reused(&system.services("gateway")[0]).await,
        "no counter of reuse"
    );

    assert_refused(
        post(system, 0, "/refresh", None, &json!({})).await,
        StatusCode::BAD_REQUEST,
        "VALIDATION_ERROR",
    );
    let mut old = claims(text(&other, "refreshToken"));
    old["exp"] = json!(seconds() - 1);
    let old = sign(&secret(system, "jwt_refresh"), Algorithm::HS256, &old);
    assert_refused(
        refresh(system, 0, &json!(old)).await,
        StatusCode::UNAUTHORIZED,
        "TOKEN_EXPIRED",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_concurrent_refreshes_one_succeeds_and_the_session_ends() {
    let system = two_gateways().await;
    let (_, registered) = register(system).await;
    let uses = (0..10).map(|gateway| refresh(system, gateway, &registered["refreshToken"]));
    let answers = futures_util::future::join_all(uses).await;
    let won: Vec<_> = answers
        .iter()
        .filter(|(status, _)| *status == StatusCode::OK)
        .collect();
    assert!(won.len() <= 1, "{answers:?}");
    for (status, answer) in answers
        .iter()
        .filter(|(status, _)| *status != StatusCode::OK)
    {
        assert_eq!(
            (*status, &answer["code"]),
            (StatusCode::UNAUTHORIZED, &json!("INVALID_TOKEN"))
        );
    }
    for (_, answer) in won {
        assert_refused(
            refresh(system, 0, &answer["refreshToken"]).await,
            StatusCode::UNAUTHORIZED,
            "INVALID_TOKEN",
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logout_ends_the_session_on_every_gateway_and_may_be_repeated() {
    let system = two_gateways().await;
    let (email, session) = register(system).await;
    let (_, other) = login(system, 0, &email, PASSWORD).await;
    let (_, stranger) = register(system).await;
    let access = text(&session, "accessToken");
    for gateway in [0, 1, 0] {
        let answer = ask(system, gateway, Method::POST, "/logout")
            .bearer_auth(access)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    }
    assert_refused(
        refresh(system, 1, &session["refreshToken"]).await,
        StatusCode::UNAUTHORIZED,
        "INVALID_TOKEN",
    );
    // A refresh token in the body ends its session too, if it is of the same user.
    let with = |answer: &Value| json!({"refreshToken": answer["refreshToken"]});
    assert_refused(
        post(system, 0, "/logout", Some(access), &with(&stranger)).await,
        StatusCode::FORBIDDEN,
        "FORBIDDEN",
    );
    assert_eq!(
        refresh(system, 0, &stranger["refreshToken"]).await.0,
        StatusCode::OK
    );
    assert_eq!(
        post(system, 0, "/logout", Some(access), &with(&other))
            .await
            .0,
        StatusCode::NO_CONTENT
    );
    assert_refused(
        refresh(system, 0, &other["refreshToken"]).await,
        StatusCode::UNAUTHORIZED,
        "INVALID_TOKEN",
    );
    assert_refused(
        post(system, 0, "/logout", None, &json!({})).await,
        StatusCode::UNAUTHORIZED,
        "INVALID_TOKEN",
    );
    // With an expired access token the refresh token is enough to log out.
    let (_, idle) = login(system, 0, &email, PASSWORD).await;
    let mut expired = claims(text(&idle, "accessToken"));
    (expired["iat"], expired["exp"]) = (json!(seconds() - 3_600), json!(seconds() - 1_800));
    let expired = sign(&secret(system, "jwt_access"), Algorithm::HS256, &expired);
    assert_refused(
        post(system, 0, "/logout", Some(&expired), &json!({})).await,
        StatusCode::UNAUTHORIZED,
        "TOKEN_EXPIRED",
    );
    assert_eq!(
        post(system, 1, "/logout", Some(&expired), &with(&idle))
            .await
            .0,
        StatusCode::NO_CONTENT
    );
    assert_refused(
        refresh(system, 0, &idle["refreshToken"]).await,
        StatusCode::UNAUTHORIZED,
        "INVALID_TOKEN",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_beyond_the_session_limit_ends_the_least_recently_used_session() {
    /// The gateway's limit.
    const MAX_SESSIONS: usize = 16;
    let system = two_gateways().await;
    let (email, first) = register(system).await;
    let (_, second) = login(system, 0, &email, PASSWORD).await;
    let (status, first) = refresh(system, 1, &first["refreshToken"]).await;
    assert_eq!(status, StatusCode::OK, "{first}");
    let mut others = Vec::new();
    for n in 2..=MAX_SESSIONS {
        let (status, answer) = login(system, n % 2, &email, PASSWORD).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        others.push(answer);
    }
    assert_refused(
        refresh(system, 0, &second["refreshToken"]).await,
        StatusCode::UNAUTHORIZED,
        "INVALID_TOKEN",
    );
    for session in [first].iter().chain(&others) {
        let (status, answer) = refresh(system, 0, &session["refreshToken"]).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
}

/// The cookies that an answer sets, with their attributes.
fn cookies(answer: &Response) -> BTreeMap<String, (String, String)> {
    let split = |line: &str| {
        let (pair, attributes) = line.split_once("; ")?;
        let (name, value) = pair.split_once('=')?;
        Some((name.to_owned(), (value.to_owned(), attributes.to_owned())))
    };
    answer
        .headers()
        .get_all(SET_COOKIE)
        .iter()
        .filter_map(|line| split(line.to_str().ok()?))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_cookie_mode_scripts_cannot_read_the_refresh_token_and_other_sites_cannot_use_it() {
    let environment = [
        ("REFRESH_TOKEN_COOKIE", "true"),
        ("REFRESH_TOKEN_TTL", "1h"),
        ("FRONTEND_URL", "https://app.example.com/"),
    ];
    let system = System::start_with(crate::support::Folder::new(), &[], &environment).await;
    let (email, registered) = register(&system).await;
    assert!(registered.get("refreshToken").is_none(), "{registered}");
    let request = ask(&system, 0, Method::POST, "/login")
        .json(&json!({"email": email, "password": PASSWORD}));
    let answer = request.send().await.unwrap();
    let set = cookies(&answer);
    let ((token, attributes), (csrf, readable)) =
        (set["refreshToken"].clone(), set["csrfToken"].clone());
    // In development the cookie has no `Secure`, because there is no HTTPS.
    assert_eq!(
        attributes,
        "HttpOnly; SameSite=Strict; Path=/api/v1/auth; Max-Age=3600"
    );
    assert_eq!(readable, "SameSite=Strict; Path=/; Max-Age=3600");
    let body: Value = answer.json().await.unwrap();
    assert_eq!(
        (body.get("refreshToken"), &body["csrfToken"]),
        (None, &json!(csrf))
    );

    let send = |path: &str, cookie: String, header: Option<&str>, bearer: Option<&str>| {
        let request = ask(&system, 0, Method::POST, path).header(COOKIE, cookie);
        let request = header
            .into_iter()
            .fold(request, |r, h| r.header("x-csrf-token", h));
        bearer
            .into_iter()
            .fold(request, reqwest::RequestBuilder::bearer_auth)
            .send()
    };
    let both = |token: &str, csrf: &str| format!("refreshToken={token}; csrfToken={csrf}");
    let wrong = "0".repeat(csrf.len());
    for header in [None, Some(""), Some(wrong.as_str())] {
        let answer = send("/refresh", both(&token, &csrf), header, None)
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{header:?}");
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], "CSRF");
    }
    // Refused without the cookie, and with the token in the body.
    assert_refused(
        refresh(&system, 0, &json!(token)).await,
        StatusCode::UNAUTHORIZED,
        "INVALID_TOKEN",
    );
    let answer = send("/refresh", both(&token, &csrf), Some(&csrf), None)
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let set = cookies(&answer);
    let (next, next_csrf) = (set["refreshToken"].0.clone(), set["csrfToken"].0.clone());
    assert!(next != token && next_csrf != csrf);
    let access = answer.json::<Value>().await.unwrap();

    let access = text(&access, "accessToken");
    let answer = send("/logout", both(&next, &next_csrf), None, Some(access))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let answer = send(
        "/logout",
        both(&next, &next_csrf),
        Some(&next_csrf),
        Some(access),
    )
    .await
    .unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    assert!(
        cookies(&answer)
            .values()
            .all(|(value, attributes)| value.is_empty() && attributes.ends_with("Max-Age=0"))
    );
    let answer = send("/refresh", both(&next, &next_csrf), Some(&next_csrf), None)
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);

    let (_, answer) = post(
        &system,
        0,
        "/invitations",
        Some(access),
        &json!({"email": fresh_email(), "role": "manager"}),
    )
    .await;
    assert_eq!(
        text(&answer, "url"),
        format!(
            "https://app.example.com/register?invitation={}",
            text(&answer, "invitation")
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn session_entries_expire_by_themselves() {
    let environment = [("ACCESS_TOKEN_TTL", "1s"), ("REFRESH_TOKEN_TTL", "2s")];
    let system = System::start_with(crate::support::Folder::new(), &[], &environment).await;
    let (_, registered) = register(&system).await;
    let (_, refreshed) = refresh(&system, 0, &registered["refreshToken"]).await;
    let (user, session) = (
        text(&registered["user"], "_id"),
        claims(text(&refreshed, "accessToken")),
    );
    let key = format!("$KV.sessions.{user}.{}", text(&session, "sid"));
    let stream = system
        .operator()
        .await
        .get_stream("KV_sessions")
        .await
        .unwrap();
    // The renewed entry expires as the first one does.
    eventually("the session is gone", SOON, || async {
        let last = stream.get_last_raw_message_by_subject(&key).await;
        last.ok()
            .is_none_or(|message| message.payload.is_empty())
            .then_some(())
    })
    .await;
    // Tokens expire in whole seconds. Until then the answer is that there is no session.
    eventually("the refresh token has expired", SOON, || async {
        let (status, answer) = refresh(&system, 0, &refreshed["refreshToken"]).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
        (answer["code"] == "TOKEN_EXPIRED").then_some(())
    })
    .await;
    assert_refused(
        me(&system, 0, text(&refreshed, "accessToken")).await,
        StatusCode::UNAUTHORIZED,
        "TOKEN_EXPIRED",
    );
}
