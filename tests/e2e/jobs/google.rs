//! Google's tokens: the first access token is fetched, a token about to expire is renewed once, a
//! replaced refresh token is stored, and a refusal is reported to staff. No token is stored or
//! logged in the clear.

use std::time::Duration;

use contract::Timestamp;
use contract::domain::{Integration, Provider};
use contract::event::Event;
use reqwest::{Method, StatusCode};
use runtime::seal::Keyring;
use runtime::service::settings::Settings;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::oauth::{self, OAuth};
use super::tokens::{all_work_settled, expires_at, get_integration, integration_events};
use super::{counts, good_run_since};
use crate::support::stored_text::all_stored_text;
use crate::support::{AFTER_FAULT, Folder, SOON, Staff, System, eventually};

const MINUTE: Duration = Duration::from_secs(60);

async fn connect(staff: &Staff<'_>, refresh_token: &str, access: Option<Duration>) {
    let mut body = json!({"refresh_token": refresh_token, "account_name": "clinic@example.com"});
    if let Some(expires_in) = access {
        body["access_token"] = json!("ya29.entered");
        body["token_expires_at"] = json!(Timestamp::now().plus(expires_in));
    }
    let (status, answer) = staff.send(Method::PUT, "/integrations/Google", body).await;
    assert_eq!(
        (status, &answer["integration"]["platform"]),
        (StatusCode::OK, &json!("google")),
        "{answer}"
    );
    assert!(
        !answer.to_string().contains("refresh_token") && !answer.to_string().contains("ya29"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn google_tokens_are_renewed_once_and_refusals_reported_to_staff_once() {
    let oauth = OAuth::listen().await;
    let address = oauth.url();
    let environment = [
        ("GOOGLE_CLIENT_ID", oauth::CLIENT_ID),
        ("GOOGLE_CLIENT_SECRET", oauth::CLIENT_SECRET),
        ("GOOGLE_TOKEN_URL", &address),
        ("GOOGLE_REFRESH_INTERVAL", "1s"),
        ("LOG_LEVEL", "debug"),
    ];
    let system =
        System::start_with(Folder::new(), &["--replicas", "scheduler=2"], &environment).await;
    let log = system.operator().await;
    let company = || system.new_unconnected_company();
    let (new, due, far, busy, turn, dead) = (
        company().await,
        company().await,
        company().await,
        company().await,
        company().await,
        company().await,
    );
    connect(&new, "1//good-new", None).await;
    connect(&due, "1//good-due", Some(10 * MINUTE)).await;
    connect(&far, "1//good-far", Some(30 * MINUTE)).await;
    connect(&busy, "1//busy-1", None).await;
    connect(&turn, "1//turn-0", None).await;
    connect(&dead, "1//dead-1", None).await;

    // Renewed: staff see the new expiry, and all other fields stay.
    for staff in [&new, &due, &busy, &turn] {
        let shown = eventually("the token is renewed", AFTER_FAULT, || async {
            let shown = get_integration(staff, "google").await;
            (expires_at(&shown)? > Timestamp::now().plus(50 * MINUTE)).then_some(shown)
        })
        .await;
        assert_eq!(
            (&shown["account_name"], &shown["refresh_error"]),
            (&json!("clinic@example.com"), &Value::Null),
            "{shown}"
        );
    }
    let shown = eventually("staff see that it is refused", AFTER_FAULT, || async {
        Some(get_integration(&dead, "google").await)
            .filter(|shown| !shown["refresh_error"].is_null())
    })
    .await;
    assert_eq!(
        shown["refresh_error"]["error"], "HTTP 400, invalid_grant: the token is invalid: [hidden]",
        "{shown}"
    );
    // More runs find no token to renew.
    for _ in 0..3 {
        good_run_since(&log, "google-token-refresh", Timestamp::now()).await;
    }
    eventually("nothing is in work", AFTER_FAULT, || {
        all_work_settled(&log, "scheduler-work")
    })
    .await;
    let calls = |token: &str| oauth.calls(token);
    assert_eq!(
        (
            calls("1//good-new"),
            calls("1//good-due"),
            calls("1//good-far")
        ),
        (1, 1, 0)
    );
    assert_eq!(
        (calls("1//busy-1"), calls("1//turn-0"), calls("1//turn-1")),
        (3, 1, 1),
        "Retry-After twice, then good; each turn once"
    );
    assert!(
        (1..=2).contains(&calls("1//dead-1")),
        "again once an hour, not with each run"
    );
    let failed = counts(&log, "EVENTS", "integration.refresh_failed.>").await;
    assert_eq!(
        failed,
        [(
            format!("integration.refresh_failed.{}.google", dead.company),
            1
        )]
        .into()
    );
    let dead_letter = format!(
        "dead.scheduler.jobs.work.google-token-refresh.{}.google",
        dead.company
    );
    eventually("operators have it as a dead letter", SOON, || async {
        (counts(&log, "DEAD", "dead.scheduler.>").await == [(dead_letter.clone(), 1)].into())
            .then_some(())
    })
    .await;

    // The log has the access token and the refresh token sealed, also the replaced refresh token.
    let keys = [(
        "ENCRYPTION_KEYS".to_owned(),
        system.secret("encryption_keys"),
    )];
    let keyring = Keyring::read(&mut Settings::of(keys));
    for (staff, updates, access, refresh) in [
        (&new, 2, "ya29.good-new", "1//good-new"),
        (&due, 2, "ya29.good-due", "1//good-due"),
        (&far, 1, "ya29.entered", "1//good-far"),
        (&busy, 2, "ya29.busy-1", "1//busy-1"),
        (&turn, 3, "ya29.turn-1", "1//turn-1"),
    ] {
        let mut stored = integration_events(
            &log,
            &format!("integration.updated.{}.google", staff.company),
        )
        .await;
        assert_eq!(stored.len(), updates, "{access}");
        let Some(Event::IntegrationUpdated(Integration {
            company_id,
            access_token,
            refresh_token,
            ..
        })) = stored.pop().map(|e| e.event)
        else {
            panic!("{access}")
        };
        let opened = [access_token, refresh_token].map(|token| {
            keyring
                .open(&token.unwrap(), company_id, Provider::Google)
                .unwrap()
        });
        assert_eq!(
            [opened[0].expose_secret(), opened[1].expose_secret()],
            [access, refresh]
        );
    }
    let everything = all_stored_text(&system).await;
    assert!(
        everything
            .iter()
            .any(|(_, text)| text.contains("google-token-refresh")),
        "it looks elsewhere"
    );
    for (place, text) in &everything {
        for secret in [
            "ya29.",
            "1//good",
            "1//busy",
            "1//turn",
            "1//dead",
            oauth::CLIENT_SECRET,
        ] {
            assert!(
                !text.contains(secret),
                "{secret} is in the clear in {place}"
            );
        }
    }

    // Connected again, the integration has no error.
    connect(&dead, "1//good-again", None).await;
    eventually("it is well again", AFTER_FAULT, || async {
        let shown = get_integration(&dead, "google").await;
        (shown["refresh_error"].is_null() && expires_at(&shown).is_some()).then_some(())
    })
    .await;
    assert_eq!(
        dead.send(Method::DELETE, "/integrations/google", json!({}))
            .await
            .0,
        StatusCode::OK
    );
    assert_eq!(
        dead.get("/integrations/google").await.0,
        StatusCode::NOT_FOUND
    );
}
