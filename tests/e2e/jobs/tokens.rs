//! Tokens of Facebook and Instagram that are about to expire: each is exchanged once, a token that
//! is entered meanwhile stays, and staff see failures. Slow: one test runs ticks for a minute and
//! kills a scheduler, which must neither lose nor repeat an exchange.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream;
use contract::Timestamp;
use contract::domain::Provider;
use contract::event::{Envelope, Event};
use reqwest::{Method, StatusCode};
use runtime::seal::Keyring;
use runtime::service::settings::Settings;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::graph::{self, Graph};
use super::{DAY, counts, last_run};
use crate::support::{AFTER_FAULT, Folder, SOON, Staff, System, eventually};

/// Starts two schedulers with the stub of the Graph API and these settings.
async fn start(graph: &Graph, more: &[(&str, &str)]) -> System {
    let address = graph.url();
    let app = [
        ("FACEBOOK_APP_ID", graph::APP_ID),
        ("FACEBOOK_APP_SECRET", graph::APP_SECRET),
        ("FACEBOOK_GRAPH_BASE_URL", &address),
        ("INSTAGRAM_GRAPH_BASE_URL", &address),
    ];
    System::start_with(
        Folder::new(),
        &["--replicas", "scheduler=2"],
        &[&app, more].concat(),
    )
    .await
}

/// Connects a platform with a token that expires after `expires_in`.
async fn connect(staff: &Staff<'_>, platform: &str, token: &str, expires_in: Duration) {
    let body = json!({"access_token": token, "account_name": "Clinic", "token_expires_at": Timestamp::now().plus(expires_in)});
    let (status, answer) = staff
        .send(Method::PUT, &format!("/integrations/{platform}"), body)
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

/// A company's integration, as the API shows it to staff.
pub async fn get_integration(staff: &Staff<'_>, platform: &str) -> Value {
    let (status, answer) = staff.get("/integrations").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["integrations"]
        .as_array()
        .unwrap()
        .iter()
        .find(|i| i["platform"] == platform)
        .cloned()
        .unwrap_or_default()
}

/// When the integration's token expires.
pub fn expires_at(integration: &Value) -> Option<Timestamp> {
    integration["token_expires_at"].as_str()?.parse().ok()
}

/// The events of a company's integration, in order.
pub async fn integration_events(log: &jetstream::Context, subject: &str) -> Vec<Envelope> {
    let stream = log.get_stream("EVENTS").await.unwrap();
    let mut found = Vec::new();
    let mut from = 1;
    while let Ok(message) = stream
        .raw_message_builder()
        .sequence(from)
        .next_by_subject(subject)
        .send()
        .await
    {
        from = message.sequence + 1;
        found.push(Envelope::from_message(&message.subject, &message.payload).unwrap());
    }
    found
}

/// Whether the consumer has no pending and no unacknowledged message.
pub async fn all_work_settled(log: &jetstream::Context, consumer: &str) -> Option<()> {
    let consumer: jetstream::consumer::PullConsumer =
        log.get_consumer_from_stream(consumer, "JOBS").await.ok()?;
    let info = consumer.cached_info();
    (info.num_pending == 0 && info.num_ack_pending == 0).then_some(())
}

/// The token that the bot gets with a company's next message to Facebook.
async fn token_in_use(staff: &Staff<'_>) -> Value {
    let sent = staff
        .operator_message(&staff.new_contact().await, "with which token")
        .await;
    let id = sent.id;
    let delivered = eventually("the bot has it", SOON, || async {
        staff
            .system
            .bot_calls()
            .await
            .into_iter()
            .find(|call| call.key() == id && call.succeeded())
    })
    .await;
    delivered.body["access_token"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn due_tokens_are_exchanged_once_and_failures_reported_to_staff_once() {
    let graph = Graph::listen().await;
    let system = start(
        &graph,
        &[
            ("TOKEN_REFRESH_INTERVAL", "2s"),
            ("TOKEN_REFRESH_DEADLINE", "10s"),
        ],
    )
    .await;
    let log = system.operator().await;
    let company = || system.new_unconnected_company();
    let (due, far, dead, down, late) = (
        company().await,
        company().await,
        company().await,
        company().await,
        company().await,
    );
    connect(&due, "facebook", "good-1", 3 * DAY).await;
    connect(&due, "instagram", "busy-1", 6 * DAY).await;
    connect(&due, "telegram", "good-telegram", DAY).await;
    connect(&far, "facebook", "good-far", 8 * DAY).await;
    connect(&dead, "instagram", "dead-1", DAY).await;
    connect(&down, "facebook", "down-1", DAY).await;
    let past = json!({"access_token": "good-late", "token_expires_at": Timestamp::from_millis(Timestamp::now().millis() - 60_000)});
    assert_eq!(
        late.send(Method::PUT, "/integrations/facebook", past)
            .await
            .0,
        StatusCode::OK
    );

    // Renewed: staff see the new date, everything else stays, and the bot gets the new token.
    for platform in ["facebook", "instagram"] {
        let shown = eventually(
            &format!("the token of {platform} is renewed"),
            AFTER_FAULT,
            || async {
                let shown = get_integration(&due, platform).await;
                (expires_at(&shown)? > Timestamp::now().plus(50 * DAY)).then_some(shown)
            },
        )
        .await;
        assert_eq!(
            (&shown["account_name"], &shown["refresh_error"]),
            (&json!("Clinic"), &Value::Null),
            "{shown}"
        );
    }
    assert_eq!(token_in_use(&due).await, "good-1-renewed");
    // Not renewed: staff see why. The first is refused, the second given up after retries, the third
    // expired before its exchange.
    for (staff, platform, why) in [
        (
            &dead,
            "instagram",
            "HTTP 400, Graph code 190: the token is invalid: [hidden] is invalid",
        ),
        (&down, "facebook", "HTTP 503: not an answer of the platform"),
        (&late, "facebook", "the token has expired"),
    ] {
        let shown = eventually(&format!("staff see: {why}"), AFTER_FAULT, || async {
            Some(get_integration(staff, platform).await)
                .filter(|shown| !shown["refresh_error"].is_null())
        })
        .await;
        assert_eq!(shown["refresh_error"]["error"], why, "{shown}");
    }
    eventually("nothing is in work", AFTER_FAULT, || {
        all_work_settled(&log, "scheduler-work")
    })
    .await;
    let calls = |token: &str| graph.calls(token);
    assert_eq!(
        (calls("good-1"), calls("busy-1"), calls("dead-1")),
        (1, 3, 1),
        "Retry-After twice, then good"
    );
    assert_eq!(
        (
            calls("good-far"),
            calls("good-late"),
            calls("good-telegram")
        ),
        (0, 0, 0)
    );
    assert!(calls("down-1") > 1, "given up at once");

    // Enqueued again, as by the next day's run: exchanged again, without a second report.
    let again = |staff: &Staff<'_>, platform: &str| {
        format!("jobs.work.token-refresh.{}.{platform}", staff.company)
    };
    let work = log.get_stream("JOBS").await.unwrap();
    for (staff, platform) in [(&dead, "instagram"), (&due, "facebook")] {
        let subject = again(staff, platform);
        let payload = work
            .get_last_raw_message_by_subject(&subject)
            .await
            .unwrap()
            .payload;
        log.publish(subject, payload).await.unwrap().await.unwrap();
    }
    eventually("it is tried again", SOON, || async {
        (graph.calls("dead-1") == 2).then_some(())
    })
    .await;
    eventually("nothing is in work", AFTER_FAULT, || {
        all_work_settled(&log, "scheduler-work")
    })
    .await;
    assert_eq!(calls("good-1"), 1, "the token was another one by then");
    let failed: BTreeSet<(String, usize)> = counts(&log, "EVENTS", "integration.refresh_failed.>")
        .await
        .into_iter()
        .collect();
    let event = |staff: &Staff<'_>, platform: &str| {
        (
            format!("integration.refresh_failed.{}.{platform}", staff.company),
            1,
        )
    };
    assert_eq!(
        failed,
        BTreeSet::from([
            event(&dead, "instagram"),
            event(&down, "facebook"),
            event(&late, "facebook")
        ])
    );
    // The failure is a dead letter of the company, and no payload contains a token.
    let dead_letters = eventually("dead letters are there", SOON, || async {
        let counted = counts(&log, "DEAD", "dead.scheduler.>").await;
        (counted.values().sum::<usize>() == 3).then_some(counted)
    })
    .await;
    assert!(
        dead_letters.contains_key(&format!("dead.scheduler.{}", again(&down, "facebook"))),
        "{dead_letters:?}"
    );

    // Connected again, the integration has no error and its token is renewed when due.
    connect(&dead, "instagram", "good-2", 60 * DAY).await;
    assert_eq!(
        get_integration(&dead, "instagram").await["refresh_error"],
        Value::Null
    );

    let logs = std::fs::read_to_string(system.folder.0.join("logs/combined.log")).unwrap();
    assert!(
        logs.contains("token refresh"),
        "the schedulers write elsewhere"
    );
    for secret in ["good-", "busy-", "dead-1", "down-1", graph::APP_SECRET] {
        let line = logs
            .lines()
            .find(|line| line.contains(secret) && line.contains("\"scheduler\""));
        assert_eq!(line, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_instagram_login_is_renewed_at_instagram_past_a_proxys_pages() {
    let graph = Graph::listen().await;
    let system = start(&graph, &[("TOKEN_REFRESH_INTERVAL", "2s")]).await;
    let staff = system.new_unconnected_company().await;
    connect(&staff, "instagram", "IGAA-page-1", 3 * DAY).await;
    let shown = eventually("the token is renewed", AFTER_FAULT, || async {
        let shown = get_integration(&staff, "instagram").await;
        (expires_at(&shown)? > Timestamp::now().plus(50 * DAY)).then_some(shown)
    })
    .await;
    assert_eq!(shown["refresh_error"], Value::Null, "{shown}");
    assert_eq!(
        graph.calls("IGAA-page-1"),
        3,
        "twice a page, then the token"
    );
    let log = system.operator().await;
    assert!(counts(&log, "DEAD", "dead.scheduler.>").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_not_exchanged_before_its_last_change_is_replayed() {
    let graph = Graph::listen().await;
    let system = start(&graph, &[("TOKEN_REFRESH_INTERVAL", "2s")]).await;
    let log = system.operator().await;
    let (replayed, unread) = (
        system.new_unconnected_company().await,
        system.new_unconnected_company().await,
    );
    for (staff, token) in [(&replayed, "busy-replayed"), (&unread, "down-unread")] {
        connect(staff, "facebook", token, DAY).await;
        eventually("it is tried", AFTER_FAULT, || async {
            (graph.calls(token) > 0).then_some(())
        })
        .await;
        let subject = format!("integration.updated.{}.facebook", staff.company);
        let entered = log
            .get_stream("EVENTS")
            .await
            .unwrap()
            .get_last_raw_message_by_subject(&subject)
            .await
            .unwrap();
        let mut payload: Value = serde_json::from_slice(&entered.payload).unwrap();
        let mut headers = async_nats::HeaderMap::new();
        if token == "busy-replayed" {
            headers.insert("Event-Seq", entered.sequence.to_string());
        } else {
            payload["version"] = json!(99);
        }
        log.publish_with_headers(subject, headers, payload.to_string().into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    eventually("the one is renewed", AFTER_FAULT, || async {
        (expires_at(&get_integration(&replayed, "facebook").await)?
            > Timestamp::now().plus(50 * DAY))
        .then_some(())
    })
    .await;
    assert_eq!(graph.calls("busy-replayed"), 3, "twice in vain, and once");
    let shown = eventually("staff see why the other is not", AFTER_FAULT, || async {
        Some(get_integration(&unread, "facebook").await)
            .filter(|shown| !shown["refresh_error"].is_null())
    })
    .await;
    assert_eq!(
        shown["refresh_error"]["error"], "a later change of it could not be applied",
        "{shown}"
    );
    let dead_letter = format!(
        "dead.scheduler.jobs.work.token-refresh.{}.facebook",
        unread.company
    );
    eventually("operators have it", SOON, || async {
        (counts(&log, "DEAD", "dead.scheduler.>").await == [(dead_letter.clone(), 1)].into())
            .then_some(())
    })
    .await;
    eventually("nothing is in work", AFTER_FAULT, || {
        all_work_settled(&log, "scheduler-work")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_replaced_or_removed_during_its_exchange_stays_so() {
    let graph = Graph::listen().await;
    let system = start(
        &graph,
        &[
            ("TOKEN_REFRESH_INTERVAL", "1s"),
            ("TOKEN_REFRESH_FIRST_DELAY", "1s"),
        ],
    )
    .await;
    let log = system.operator().await;
    let (replaced, removed, refused) = (
        system.new_unconnected_company().await,
        system.new_unconnected_company().await,
        system.new_unconnected_company().await,
    );
    for (staff, token) in [
        (&replaced, "slow-1"),
        (&removed, "slow-2"),
        (&refused, "slowly-dead-3"),
    ] {
        connect(staff, "facebook", token, DAY).await;
        eventually("its exchange is under way", AFTER_FAULT, || async {
            (graph.calls(token) == 1).then_some(())
        })
        .await;
    }
    connect(&replaced, "facebook", "good-own", 60 * DAY).await;
    assert_eq!(
        removed
            .send(Method::DELETE, "/integrations/facebook", json!({}))
            .await
            .0,
        StatusCode::OK
    );
    connect(&refused, "facebook", "good-own-3", 60 * DAY).await;
    graph.go_on();
    eventually("nothing is in work", AFTER_FAULT, || {
        all_work_settled(&log, "scheduler-work")
    })
    .await;
    assert_eq!(token_in_use(&replaced).await, "good-own");
    assert_eq!(
        removed.get("/integrations/facebook").await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        get_integration(&refused, "facebook").await["refresh_error"],
        Value::Null,
        "that was about the old token"
    );
    // The log does not have the exchanged tokens either.
    for (staff, entered) in [(&replaced, 2), (&removed, 1), (&refused, 2)] {
        let all = counts(
            &log,
            "EVENTS",
            &format!("integration.updated.{}.*", staff.company),
        )
        .await;
        assert_eq!(all.values().sum::<usize>(), entered);
    }
    assert_eq!(
        counts(&log, "EVENTS", "integration.refresh_failed.>")
            .await
            .len(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_scheduler_neither_loses_nor_repeats_token_work() {
    const TICKS: usize = 60;
    const COMPANIES: usize = 3;
    let graph = Graph::listen().await;
    let system = start(
        &graph,
        &[
            ("TOKEN_REFRESH_INTERVAL", "1s"),
            ("TOKEN_REFRESH_FIRST_DELAY", "1s"),
        ],
    )
    .await;
    let log = system.operator().await;
    let mut companies = Vec::new();
    for n in 0..COMPANIES {
        let staff = system.new_unconnected_company().await;
        // Each exchange gives the next token of the chain, which is due at once.
        connect(&staff, "facebook", &format!("chain-{n}-0"), DAY).await;
        companies.push(staff);
    }
    let ticks = || async {
        counts(&log, "JOBS", "jobs.tick.token-refresh")
            .await
            .values()
            .sum::<usize>()
    };
    eventually("a third of the minute is over", AFTER_FAULT, || async {
        (ticks().await > TICKS / 3).then_some(())
    })
    .await;
    // A scheduler is killed during exchanges.
    graph.hold();
    eventually("exchanges are under way", AFTER_FAULT, || async {
        (graph.held() == COMPANIES).then_some(())
    })
    .await;
    let under_way: BTreeSet<String> = graph.last_calls(COMPANIES).into_iter().collect();
    let killed = system.signal("-KILL", "scheduler");
    graph.go_on();
    eventually("it is started again", AFTER_FAULT, || async {
        system.pid("scheduler").filter(|pid| *pid != killed)
    })
    .await;
    eventually("the minute is over", 2 * AFTER_FAULT, || async {
        (ticks().await > TICKS).then_some(())
    })
    .await;
    let mut before = Vec::new();
    for n in 0..COMPANIES {
        before.push(graph.generations(n).len());
    }
    eventually("every chain has gone on after it", AFTER_FAULT, || async {
        (0..COMPANIES)
            .all(|n| graph.generations(n).len() > before[n])
            .then_some(())
    })
    .await;
    // From now on tokens are long-lived, so none is due any more.
    graph.end_chains();
    eventually(
        "a run has found nothing that is due",
        AFTER_FAULT,
        || async {
            let run = last_run(&log, "token-refresh").await?;
            (run["outcome"] == "ok" && run["detail"]["due"] == 0).then_some(())
        },
    )
    .await;
    eventually("no work is left", AFTER_FAULT, || {
        all_work_settled(&log, "scheduler-work")
    })
    .await;

    let keys = [(
        "ENCRYPTION_KEYS".to_owned(),
        system.secret("encryption_keys"),
    )];
    let keyring = Keyring::read(&mut Settings::of(keys));
    for (n, staff) in companies.iter().enumerate() {
        // Enqueued, exchanged and stored tokens are the same chain: none lost, none twice.
        let subject = format!("integration.updated.{}.facebook", staff.company);
        let stored: Vec<String> = integration_events(&log, &subject)
            .await
            .into_iter()
            .map(|envelope| {
                let Event::IntegrationUpdated(integration) = envelope.event else {
                    panic!("{:?}", envelope.event)
                };
                let token = integration.access_token.unwrap();
                keyring
                    .open(&token, integration.company_id, Provider::Facebook)
                    .unwrap()
                    .expose_secret()
                    .to_owned()
            })
            .collect();
        let exchanged = graph.generations(n);
        let chain = |length: usize| {
            (0..length)
                .map(|generation| format!("chain-{n}-{generation}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            stored,
            chain(exchanged.len() + 1),
            "each token was exchanged for one"
        );
        assert_eq!(
            exchanged.keys().cloned().collect::<BTreeSet<_>>(),
            (0..exchanged.len()).collect()
        );
        let handed_out = counts(
            &log,
            "JOBS",
            &format!("jobs.work.token-refresh.{}.facebook", staff.company),
        )
        .await;
        assert_eq!(
            handed_out.values().sum::<usize>(),
            exchanged.len(),
            "handed out and exchanged"
        );
        assert!(exchanged.len() >= 5, "it has hardly run: {exchanged:?}");
        for (generation, calls) in exchanged {
            // The killed scheduler's exchange is repeated with the same token, which gives the same
            // answer.
            let most = if under_way.contains(&format!("chain-{n}-{generation}")) {
                2
            } else {
                1
            };
            assert!(
                (1..=most).contains(&calls),
                "generation {generation} of company {n}: {calls} calls"
            );
        }
    }
}
