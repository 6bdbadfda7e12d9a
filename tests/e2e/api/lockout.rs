//! Failed logins: how many lock an email, on every gateway, and which states never count as a
//! failure. The login times are reported, not asserted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use contract::Timestamp;
use reqwest::header::RETRY_AFTER;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::auth::{
    PASSWORD, ask, assert_refused, fresh_email, login, me, post, refresh, register, text,
    two_gateways,
};
use crate::support::{SOON, System, eventually};

/// Makes 40 concurrent guesses on both gateways. Returns the count of each status, and one answer
/// of each status.
async fn guess(system: &System, email: &str) -> (BTreeMap<u16, usize>, BTreeMap<u16, Value>) {
    let guesses = (0..40).map(|n| login(system, n, email, "wrong horse"));
    let (mut counts, mut answers) = (BTreeMap::new(), BTreeMap::new());
    for (status, answer) in futures_util::future::join_all(guesses).await {
        *counts.entry(status.as_u16()).or_default() += 1;
        answers.insert(status.as_u16(), answer);
    }
    (counts, answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn five_failures_lock_an_email_on_every_gateway_whether_it_has_a_user_or_not() {
    let system = two_gateways().await;
    let (email, _) = register(system).await;
    let nobody = fresh_email();
    let mut answers = Vec::new();
    for email in [&email, &nobody] {
        let (counts, mut answers_of) = guess(system, email).await;
        // Guesses that waited too long for a password check are refused without one.
        assert_eq!(counts.get(&401), Some(&5), "{counts:?}");
        assert!(
            counts.keys().all(|status| [401, 423, 503].contains(status)),
            "{counts:?}"
        );
        // The lock holds on both gateways, and for the right password too.
        for gateway in 0..2 {
            let login = json!({"email": email.to_uppercase(), "password": PASSWORD});
            let answer = ask(system, gateway, Method::POST, "/login")
                .json(&login)
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), StatusCode::LOCKED);
            let wait: u64 = answer.headers()[RETRY_AFTER]
                .to_str()
                .unwrap()
                .parse()
                .unwrap();
            assert!((840..=901).contains(&wait), "{wait}");
            answers_of.insert(423, answer.json().await.unwrap());
        }
        assert_eq!(answers_of[&423]["code"], "ACCOUNT_LOCKED");
        answers_of.remove(&503);
        for answer in answers_of.values_mut() {
            answer.as_object_mut().unwrap().remove("request_id");
        }
        answers.push(answers_of);
    }
    assert_eq!(
        answers[0], answers[1],
        "the answers tell who has an account"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_email_that_lower_casing_makes_too_long_is_refused() {
    let system = two_gateways().await;
    let (status, answer) = login(system, 0, &format!("{}@a.b", "İ".repeat(150)), PASSWORD).await;
    assert_eq!(
        (status, &answer["errors"][0]["field"]),
        (StatusCode::BAD_REQUEST, &json!("email")),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successful_login_resets_the_failure_count() {
    let system = two_gateways().await;
    let (email, _) = register(system).await;
    for round in 0..3 {
        for n in 0..4 {
            assert_refused(
                login(system, round + n, &email, "wrong horse").await,
                StatusCode::UNAUTHORIZED,
                "INVALID_CREDENTIALS",
            );
        }
        let (status, answer) = login(system, round, &email, PASSWORD).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_are_refused_while_the_lockout_record_is_unavailable() {
    let system = System::start(&[]).await;
    let (email, registered) = register(&system).await;
    let jetstream = system.operator().await;
    jetstream.delete_stream("KV_lockouts").await.unwrap();
    assert_refused(
        login(&system, 0, &email, PASSWORD).await,
        StatusCode::SERVICE_UNAVAILABLE,
        "UNAVAILABLE",
    );
    jetstream.delete_stream("KV_sessions").await.unwrap();
    assert_refused(
        refresh(&system, 0, &registered["refreshToken"]).await,
        StatusCode::SERVICE_UNAVAILABLE,
        "UNAVAILABLE",
    );
    // A valid access token needs no lockout record.
    assert_eq!(
        me(&system, 0, text(&registered, "accessToken")).await.0,
        StatusCode::OK
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_while_the_view_is_behind_is_not_reported_as_a_wrong_password() {
    let system = System::start(&[]).await;
    let jetstream = system.operator().await;
    let pause = async |request: Value| {
        jetstream
            .request::<_, _, Value>("CONSUMER.PAUSE.EVENTS.persister", &request)
            .await
            .unwrap()
    };
    let an_hour = Timestamp::from_millis(Timestamp::now().millis() + 3_600_000);
    let paused = pause(json!({"pause_until": an_hour})).await;
    assert!(format!("{paused:?}").contains("true"), "{paused:?}");
    let email = fresh_email();
    let body = json!({"company_name": "New", "fullName": "Nora New", "email": email, "password": PASSWORD});
    let (status, answer) = post(&system, 0, "/register", None, &body).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    // More attempts than the lockout allows.
    for _ in 0..6 {
        assert_refused(
            login(&system, 0, &email, PASSWORD).await,
            StatusCode::SERVICE_UNAVAILABLE,
            "UNAVAILABLE",
        );
    }
    pause(json!({})).await;
    eventually("the login works", SOON, || async {
        (login(&system, 0, &email, PASSWORD).await.0 == StatusCode::OK).then_some(())
    })
    .await;
}

/// Prints the median login times of an unknown email and of a wrong password, measured alternately.
/// Asserts nothing about them.
#[tokio::test(flavor = "multi_thread")]
async fn report_login_times_of_unknown_users_and_wrong_passwords() {
    const ROUNDS: usize = 8;
    let system = two_gateways().await;
    let (email, _) = register(system).await;
    let timed = async |email: &str| {
        let started = Instant::now();
        assert_refused(
            login(system, 0, email, "wrong horse").await,
            StatusCode::UNAUTHORIZED,
            "INVALID_CREDENTIALS",
        );
        started.elapsed()
    };
    let (mut unknown, mut wrong) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for _ in 0..4 {
            wrong.push(timed(&email).await);
            unknown.push(timed(&fresh_email()).await);
        }
        assert_eq!(login(system, 0, &email, PASSWORD).await.0, StatusCode::OK);
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let spread = |times: &[Duration]| times[times.len() * 3 / 4] - times[times.len() / 4];
    let (unknown_median, wrong_median) = (median(&mut unknown), median(&mut wrong));
    println!(
        "unknown user {unknown_median:?} (quartiles {:?} apart), wrong password {wrong_median:?} ({:?}), medians of {}",
        spread(&unknown),
        spread(&wrong),
        unknown.len()
    );
}
