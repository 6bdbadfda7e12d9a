//! The jobs of the schedulers, two of them: tokens are renewed once each and never lost, the bot is probed and let speak again,
//! dead letters are counted, and `petbuddy jobs` shows it.

mod graph;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;
use std::time::Duration;

use async_nats::jetstream;
use futures_util::StreamExt;
use nats::Timestamp;
use nats::domain::Platform;
use nats::event::{Actor, ContactBotResumed, Envelope, Event};
use nats::runtime::seal::Keyring;
use nats::runtime::settings::Settings;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::harness::{AFTER_FAULT, Folder, SOON, Staff, System, eventually, petbuddy};
use graph::Graph;

const DAY: Duration = Duration::from_secs(86_400);

/// Two schedulers with a Graph API of ours and with these settings.
async fn start(graph: &Graph, more: &[(&str, &str)]) -> System {
    let address = graph.url();
    let app = [("FACEBOOK_APP_ID", graph::APP_ID), ("FACEBOOK_APP_SECRET", graph::APP_SECRET), ("FACEBOOK_GRAPH_BASE_URL", &address)];
    System::start_with(Folder::new(), &["--replicas", "scheduler=2"], &[&app, more].concat()).await
}

/// Enters a token that expires in a while.
async fn connect(staff: &Staff<'_>, platform: &str, token: &str, expires_in: Duration) {
    let body = json!({"access_token": token, "account_name": "Clinic", "token_expires_at": Timestamp::now().plus(expires_in)});
    let (status, answer) = staff.send(Method::PUT, &format!("/integrations/{platform}"), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

/// A company's integration, as its staff see it.
async fn seen(staff: &Staff<'_>, platform: &str) -> Value {
    let (status, answer) = staff.get("/integrations").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["integrations"].as_array().unwrap().iter().find(|i| i["platform"] == platform).cloned().unwrap_or_default()
}

/// When the platform stops taking it.
fn expires_at(integration: &Value) -> Option<Timestamp> {
    integration["token_expires_at"].as_str()?.parse().ok()
}

/// Messages of a stream by subject.
async fn counts(log: &jetstream::Context, stream: &str, filter: &str) -> BTreeMap<String, usize> {
    let info = log.get_stream(stream).await.unwrap().info_with_subjects(filter).await.unwrap();
    info.filter_map(|s| async { s.ok() }).collect().await
}

/// The events about a company's integration, in their order.
async fn events(log: &jetstream::Context, subject: &str) -> Vec<Envelope> {
    let stream = log.get_stream("EVENTS").await.unwrap();
    let mut found = Vec::new();
    let mut from = 1;
    while let Ok(message) = stream.raw_message_builder().sequence(from).next_by_subject(subject).send().await {
        from = message.sequence + 1;
        found.push(Envelope::from_message(&message.subject, &message.payload).unwrap());
    }
    found
}

/// Whether schedulers have nothing in hand and nothing before them, of ticks or of work.
async fn settled(log: &jetstream::Context, consumer: &str) -> Option<()> {
    let consumer: jetstream::consumer::PullConsumer = log.get_consumer_from_stream(consumer, "JOBS").await.ok()?;
    let info = consumer.cached_info();
    (info.num_pending == 0 && info.num_ack_pending == 0).then_some(())
}

/// The last run of a job.
async fn last_run(log: &jetstream::Context, job: &str) -> Option<Value> {
    let runs = log.get_key_value("job-runs").await.ok()?;
    serde_json::from_slice(&runs.get(job).await.ok()??).ok()
}

/// The same, once it has ended well and began after a moment.
async fn good_run_since(log: &jetstream::Context, job: &str, since: Timestamp) -> Value {
    eventually(&format!("{job} has run"), AFTER_FAULT, || async {
        let run = last_run(log, job).await?;
        let started: Timestamp = run["started_at"].as_str()?.parse().ok()?;
        (started > since && run["outcome"] == "ok").then_some(run)
    })
    .await
}

/// A gauge of every scheduler: the one with these labels at the end, in their order.
async fn gauges(system: &System, name: &str, labels: &str) -> Option<Vec<f64>> {
    let (mut found, labels) = (Vec::new(), format!("{labels}}} "));
    for url in system.services("scheduler") {
        let metrics = system.http.get(format!("{url}/metrics")).send().await.ok()?.text().await.ok()?;
        found.push(metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once(&labels)?.1.parse().ok())?);
    }
    Some(found)
}

/// A subcommand of `petbuddy` on this system.
fn run(system: &System, args: &[&str]) -> Output {
    petbuddy().args(args).arg("--dir").arg(&system.folder.0).output().unwrap()
}

/// What `petbuddy jobs --json` says, by job, and its exit code.
fn jobs(system: &System) -> (Option<i32>, BTreeMap<String, Value>) {
    let output = run(system, &["jobs", "--json"]);
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let rows = rows["jobs"].as_array().unwrap().iter();
    (output.status.code(), rows.map(|row| (row["job"].as_str().unwrap().to_owned(), row.clone())).collect())
}

/// The token that the bot gets with a company's next message to Facebook.
async fn token_in_use(staff: &Staff<'_>) -> Value {
    let sent = staff.message(&staff.new_contact().await, "operator", "with which token").await;
    let id = sent["messageData"]["_id"].clone();
    let delivered = eventually("the bot has it", SOON, || async {
        staff.system.deliveries().await.into_iter().find(|d| d["idempotency_key"] == id && d["status"] == 200)
    })
    .await;
    delivered["body"]["access_token"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_due_token_is_exchanged_once_and_what_cannot_be_renewed_is_told_to_staff_once() {
    let graph = Graph::listen().await;
    let system = start(&graph, &[("TOKEN_REFRESH_INTERVAL", "2s"), ("TOKEN_REFRESH_DEADLINE", "10s")]).await;
    let log = system.operator().await;
    let company = || system.new_unconnected_company();
    let (due, far, dead, down, late) = (company().await, company().await, company().await, company().await, company().await);
    connect(&due, "facebook", "good-1", 3 * DAY).await;
    connect(&due, "instagram", "busy-1", 6 * DAY).await;
    connect(&due, "telegram", "good-telegram", DAY).await;
    connect(&far, "facebook", "good-far", 8 * DAY).await;
    connect(&dead, "instagram", "dead-1", DAY).await;
    connect(&down, "facebook", "down-1", DAY).await;
    let past = json!({"access_token": "good-late", "token_expires_at": Timestamp::from_millis(Timestamp::now().millis() - 60_000)});
    assert_eq!(late.send(Method::PUT, "/integrations/facebook", past).await.0, StatusCode::OK);

    // Renewed: staff see the new date, everything else stays, and the bot gets the new token.
    for platform in ["facebook", "instagram"] {
        let shown = eventually(&format!("the token of {platform} is renewed"), AFTER_FAULT, || async {
            let shown = seen(&due, platform).await;
            (expires_at(&shown)? > Timestamp::now().plus(50 * DAY)).then_some(shown)
        })
        .await;
        assert_eq!((&shown["account_name"], &shown["refresh_error"]), (&json!("Clinic"), &Value::Null), "{shown}");
    }
    assert_eq!(token_in_use(&due).await, "good-1-renewed");
    // Not renewed: they see why. The one is refused, the second given up, the third is too late and not even asked for.
    for (staff, platform, why) in [
        (&dead, "instagram", "HTTP 400, Graph code 190: the token is invalid"),
        (&down, "facebook", "HTTP 503"),
        (&late, "facebook", "the token has expired"),
    ] {
        let shown = eventually(&format!("staff see: {why}"), AFTER_FAULT, || async {
            Some(seen(staff, platform).await).filter(|shown| !shown["refresh_error"].is_null())
        })
        .await;
        assert_eq!(shown["refresh_error"]["error"], why, "{shown}");
    }
    eventually("nothing is in work", AFTER_FAULT, || settled(&log, "scheduler-work")).await;
    let calls = |token: &str| graph.calls(token);
    assert_eq!((calls("good-1"), calls("busy-1"), calls("dead-1")), (1, 3, 1), "Retry-After twice, then good");
    assert_eq!((calls("good-far"), calls("good-late"), calls("good-telegram")), (0, 0, 0));
    assert!(calls("down-1") > 1, "given up at once");

    // Handed out again, as the next day's run does: it is tried again, and nobody is told again.
    let again = |staff: &Staff<'_>, platform: &str| format!("jobs.work.token-refresh.{}.{platform}", staff.company);
    let work = log.get_stream("JOBS").await.unwrap();
    for (staff, platform) in [(&dead, "instagram"), (&due, "facebook")] {
        let subject = again(staff, platform);
        let payload = work.get_last_raw_message_by_subject(&subject).await.unwrap().payload;
        log.publish(subject, payload).await.unwrap().await.unwrap();
    }
    eventually("it is tried again", SOON, || async { (graph.calls("dead-1") == 2).then_some(()) }).await;
    eventually("nothing is in work", AFTER_FAULT, || settled(&log, "scheduler-work")).await;
    assert_eq!(calls("good-1"), 1, "the token was another one by then");
    let failed: BTreeSet<(String, usize)> = counts(&log, "EVENTS", "integration.refresh_failed.>").await.into_iter().collect();
    let event = |staff: &Staff<'_>, platform: &str| (format!("integration.refresh_failed.{}.{platform}", staff.company), 1);
    assert_eq!(failed, BTreeSet::from([event(&dead, "instagram"), event(&down, "facebook"), event(&late, "facebook")]));
    // Operators have it as a dead letter, a company's own for its managers, and no payload says a token.
    let letters = eventually("dead letters are there", SOON, || async {
        let counted = counts(&log, "DEAD", "dead.scheduler.>").await;
        (counted.values().sum::<usize>() == 3).then_some(counted)
    })
    .await;
    assert!(letters.contains_key(&format!("dead.scheduler.{}", again(&down, "facebook"))), "{letters:?}");

    // Connected again: it is well, and as good as any other.
    connect(&dead, "instagram", "good-2", 60 * DAY).await;
    assert_eq!(seen(&dead, "instagram").await["refresh_error"], Value::Null);

    let logs = std::fs::read_to_string(system.folder.0.join("logs/combined.log")).unwrap();
    assert!(logs.contains("token refresh"), "the schedulers write elsewhere");
    for secret in ["good-", "busy-", "dead-1", "down-1", graph::APP_SECRET] {
        let line = logs.lines().find(|line| line.contains(secret) && line.contains("\"scheduler\""));
        assert_eq!(line, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_replaced_or_removed_meanwhile_stays_so() {
    let graph = Graph::listen().await;
    let system = start(&graph, &[("TOKEN_REFRESH_INTERVAL", "1s"), ("TOKEN_REFRESH_FIRST_DELAY", "1s")]).await;
    let log = system.operator().await;
    let (replaced, removed, refused) =
        (system.new_unconnected_company().await, system.new_unconnected_company().await, system.new_unconnected_company().await);
    for (staff, token) in [(&replaced, "slow-1"), (&removed, "slow-2"), (&refused, "slowly-dead-3")] {
        connect(staff, "facebook", token, DAY).await;
        eventually("its exchange is under way", AFTER_FAULT, || async { (graph.calls(token) == 1).then_some(()) }).await;
    }
    connect(&replaced, "facebook", "good-own", 60 * DAY).await;
    assert_eq!(removed.send(Method::DELETE, "/integrations/facebook", json!({})).await.0, StatusCode::OK);
    connect(&refused, "facebook", "good-own-3", 60 * DAY).await;
    graph.go_on();
    eventually("nothing is in work", AFTER_FAULT, || settled(&log, "scheduler-work")).await;
    assert_eq!(token_in_use(&replaced).await, "good-own");
    assert_eq!(removed.get("/integrations/facebook").await.0, StatusCode::NOT_FOUND);
    assert_eq!(seen(&refused, "facebook").await["refresh_error"], Value::Null, "that was about the old token");
    // In the log too: what the schedulers got is nowhere.
    for (staff, entered) in [(&replaced, 2), (&removed, 1), (&refused, 2)] {
        let all = counts(&log, "EVENTS", &format!("integration.updated.{}.*", staff.company)).await;
        assert_eq!(all.values().sum::<usize>(), entered);
    }
    assert_eq!(counts(&log, "EVENTS", "integration.refresh_failed.>").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ticks_every_second_for_a_minute_and_a_killed_scheduler_and_no_work_is_lost_or_done_twice() {
    const TICKS: usize = 60;
    const COMPANIES: usize = 3;
    let graph = Graph::listen().await;
    let system = start(&graph, &[("TOKEN_REFRESH_INTERVAL", "1s"), ("TOKEN_REFRESH_FIRST_DELAY", "1s")]).await;
    let log = system.operator().await;
    let mut companies = Vec::new();
    for n in 0..COMPANIES {
        let staff = system.new_unconnected_company().await;
        // Each token is exchanged for the next one of its chain, which is due again.
        connect(&staff, "facebook", &format!("chain-{n}-0"), DAY).await;
        companies.push(staff);
    }
    let ticks = || async { counts(&log, "JOBS", "jobs.tick.token-refresh").await.values().sum::<usize>() };
    eventually("a third of the minute is over", AFTER_FAULT, || async { (ticks().await > TICKS / 3).then_some(()) }).await;
    // Killed in the midst of exchanges.
    graph.hold();
    eventually("exchanges are under way", AFTER_FAULT, || async { (graph.held() == COMPANIES).then_some(()) }).await;
    let under_way: BTreeSet<String> = graph.last_calls(COMPANIES).into_iter().collect();
    let killed = system.signal("-KILL", "scheduler");
    graph.go_on();
    eventually("it is started again", AFTER_FAULT, || async { system.pid("scheduler").filter(|pid| *pid != killed) }).await;
    eventually("the minute is over", 2 * AFTER_FAULT, || async { (ticks().await > TICKS).then_some(()) }).await;
    let mut before = Vec::new();
    for n in 0..COMPANIES {
        before.push(graph.generations(n).len());
    }
    eventually("every chain has gone on after it", AFTER_FAULT, || async {
        (0..COMPANIES).all(|n| graph.generations(n).len() > before[n]).then_some(())
    })
    .await;
    // From now on tokens last: nothing is due any more.
    graph.end_chains();
    eventually("a run has found nothing that is due", AFTER_FAULT, || async {
        let run = last_run(&log, "token-refresh").await?;
        (run["outcome"] == "ok" && run["detail"]["due"] == 0).then_some(())
    })
    .await;
    eventually("no work is left", AFTER_FAULT, || settled(&log, "scheduler-work")).await;

    let keys = [("ENCRYPTION_KEYS".to_owned(), system.secret("encryption_keys"))];
    let keyring = Keyring::read(&mut Settings::of(keys));
    for (n, staff) in companies.iter().enumerate() {
        // What was handed out, what was exchanged and what was stored are the same chain: nothing lost, nothing twice.
        let subject = format!("integration.updated.{}.facebook", staff.company);
        let stored: Vec<String> = events(&log, &subject)
            .await
            .into_iter()
            .map(|envelope| {
                let Event::IntegrationUpdated(integration) = envelope.event else { panic!("{:?}", envelope.event) };
                keyring.open(&integration.access_token, integration.company_id, Platform::Facebook).unwrap().expose_secret().to_owned()
            })
            .collect();
        let exchanged = graph.generations(n);
        let chain = |length: usize| (0..length).map(|generation| format!("chain-{n}-{generation}")).collect::<Vec<_>>();
        assert_eq!(stored, chain(exchanged.len() + 1), "each token was exchanged for one");
        assert_eq!(exchanged.keys().cloned().collect::<BTreeSet<_>>(), (0..exchanged.len()).collect());
        let handed_out = counts(&log, "JOBS", &format!("jobs.work.token-refresh.{}.facebook", staff.company)).await;
        assert_eq!(handed_out.values().sum::<usize>(), exchanged.len(), "handed out and exchanged");
        assert!(exchanged.len() >= 5, "it has hardly run: {exchanged:?}");
        for (generation, calls) in exchanged {
            // What the killed one had in hand is asked for again, with the same token, and so with the same answer.
            let most = if under_way.contains(&format!("chain-{n}-{generation}")) { 2 } else { 1 };
            assert!((1..=most).contains(&calls), "generation {generation} of company {n}: {calls} calls");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bot_speaks_again_when_its_time_has_come_and_not_before() {
    let environment = [("BOT_RESUME_INTERVAL", "1s")];
    let system = System::start_with(Folder::new(), &["--replicas", "scheduler=2,persister=2"], &environment).await;
    let (log, staff) = (system.operator().await, system.new_company().await);
    let (soon, hour) = (Timestamp::now().plus(Duration::from_secs(10)), Timestamp::now().plus(Duration::from_secs(3_600)));
    let suspend = async |until: Timestamp| {
        let contact = staff.new_contact().await;
        let body = json!({"botSuspended": true, "botSuspendUntil": until});
        assert_eq!(staff.send(Method::PATCH, &format!("/contacts/{contact}"), body).await.0, StatusCode::OK);
        contact
    };
    let (passes, stays, put_off) = (suspend(soon).await, suspend(hour).await, suspend(soon).await);
    let for_good = staff.new_contact().await;
    assert_eq!(staff.send(Method::PATCH, &format!("/contacts/{for_good}"), json!({"botSuspended": true})).await.0, StatusCode::OK);
    let later = staff.send(Method::PATCH, &format!("/contacts/{put_off}"), json!({"botSuspendUntil": hour})).await;
    assert_eq!(later.0, StatusCode::OK);
    let state = async |contact: &str| {
        let (_, answer) = staff.get(&format!("/contacts/{contact}")).await;
        (answer["contact"]["botSuspended"].clone(), answer["contact"]["botSuspendUntil"].clone())
    };
    eventually("the bot may speak", AFTER_FAULT, || async { (state(&passes).await == (json!(false), Value::Null)).then_some(()) }).await;
    // A word about the time that was set before says nothing now.
    let (company_id, contact_id) = (staff.company.parse().unwrap(), put_off.parse().unwrap());
    let stale = Event::ContactBotResumed(ContactBotResumed { contact_id, until: soon });
    let stale = Envelope::new(Timestamp::now(), Actor::System, company_id, stale);
    log.publish(stale.subject().to_string(), stale.to_json().unwrap().into()).await.unwrap().await.unwrap();
    // Two more sweeps, each of which waits until all of that is in the view.
    for _ in 0..2 {
        good_run_since(&log, "bot-resume", Timestamp::now()).await;
    }
    assert_eq!(state(&passes).await, (json!(false), Value::Null));
    assert_eq!(state(&stays).await, (json!(true), json!(hour)));
    assert_eq!(state(&put_off).await, (json!(true), json!(hour)));
    assert_eq!(state(&for_good).await, (json!(true), Value::Null));
    let told = counts(&log, "EVENTS", "contact.bot_resumed.>").await;
    let subject = |contact: &str| format!("contact.bot_resumed.{}.{contact}", staff.company);
    assert_eq!(told, BTreeMap::from([(subject(&passes), 1), (subject(&put_off), 1)]), "once by the schedulers, once by hand");
    // Suspended anew: it holds, and ends once more.
    let again = Timestamp::now().plus(Duration::from_secs(2));
    let body = json!({"botSuspended": true, "botSuspendUntil": again});
    assert_eq!(staff.send(Method::PATCH, &format!("/contacts/{passes}"), body).await.0, StatusCode::OK);
    eventually("the bot may speak again", AFTER_FAULT, || async {
        let told = counts(&log, "EVENTS", &subject(&passes)).await;
        (told.values().sum::<usize>() == 2 && state(&passes).await == (json!(false), Value::Null)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bot_is_probed_dead_letters_are_counted_and_petbuddy_jobs_shows_it() {
    let environment = [("BOT_PROBE_INTERVAL", "1s"), ("DEAD_LETTER_DIGEST_INTERVAL", "1s"), ("SLA_SWEEP_INTERVAL", "2s")];
    let system = System::start_with(Folder::new(), &["--replicas", "scheduler=2"], &environment).await;
    let log = system.operator().await;

    // The bot, as every replica and the bucket have it.
    let bot_is = async |status: &str, gauge: f64| {
        eventually(&format!("the bot is seen {status}"), AFTER_FAULT, || async {
            let seen = log.get_key_value("bot-health").await.ok()?.get("meta-bot").await.ok()??;
            let seen: Value = serde_json::from_slice(&seen).ok()?;
            for url in system.services("scheduler") {
                let health: Value = system.http.get(format!("{url}/health")).send().await.ok()?.json().await.ok()?;
                let check = &health["checks"]["meta_bot"];
                (check["status"] == "ok" && check["detail"]["status"] == status).then_some(())?;
            }
            let told = gauges(&system, "meta_bot_up", "").await?;
            (seen["status"] == status && told == [gauge, gauge]).then_some(seen)
        })
        .await
    };
    let up = bot_is("up", 1.0).await;
    assert_eq!(up.get("why"), None, "{up}");
    system.bot_mode(json!({"health_status": 503})).await;
    let down = bot_is("down", 0.0).await;
    assert_eq!(down["why"], "HTTP 503");
    assert!(down["since"].as_str() > up["since"].as_str(), "{up} {down}");
    system.bot_mode(json!({})).await;
    let again = bot_is("up", 1.0).await;
    assert!(again["since"].as_str() > down["since"].as_str(), "{down} {again}");

    // Dead letters: one that is no event; discarded, it counts no more.
    let subject = format!("message.updated.{}.{}", "a".repeat(24), "b".repeat(24));
    log.publish(subject, "no event".into()).await.unwrap().await.unwrap();
    let digest_is = async |open: u64| {
        eventually(&format!("{open} are counted"), AFTER_FAULT, || async {
            let run = last_run(&log, "dead-letter-digest").await?;
            let of = gauges(&system, "dead_letters_open_of", "from=\"persister\",reason=\"malformed\"").await?;
            let all = gauges(&system, "dead_letters_open", "").await?;
            (run["detail"]["open"] == open && all == [open as f64; 2] && of == all).then_some(run["detail"].clone())
        })
        .await
    };
    let one = digest_is(1).await;
    assert_eq!(one["kinds"], json!([{"service": "persister", "reason": "malformed", "open": 1}]));
    assert_eq!(one["companies"], json!([{"company_id": "a".repeat(24), "open": 1}]));
    let discarded = run(&system, &["dead-letters", "discard", "1", "--reason", "a test"]);
    assert!(discarded.status.success(), "{discarded:?}");
    assert_eq!(digest_is(0).await["kinds"], json!([]));

    // What operators see.
    let names = ["bot-probe", "bot-resume", "dead-letter-digest", "sla-sweep", "token-refresh"];
    let rows = eventually("every job has run", AFTER_FAULT, || async {
        let (code, rows) = jobs(&system);
        (code == Some(0) && rows.values().all(|row| row["result"] != "never")).then_some(rows)
    })
    .await;
    assert_eq!(rows.keys().collect::<Vec<_>>(), names);
    let row = &rows["token-refresh"];
    assert_eq!((&row["interval_seconds"], &row["result"], &row["overdue"]), (&json!(86_400), &json!("ok"), &json!(false)), "{row}");
    assert!(row["detail"]["skipped"].as_str().is_some_and(|why| why.contains("FACEBOOK_APP_ID")), "{row}");
    let next: Timestamp = row["next_run_at"].as_str().unwrap().parse().unwrap();
    assert!(next > Timestamp::now().plus(DAY / 2) && row["took_ms"].is_u64() && row["by"].is_string(), "{row}");
    let table = run(&system, &["jobs"]);
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(text.starts_with("JOB") && names.iter().all(|name| text.contains(name)), "{text}");

    // Ticks that were missed for days are made up for by one run.
    let before = counts(&log, "JOBS", "jobs.tick.token-refresh").await.values().sum::<usize>();
    let runs = log.get_key_value("job-runs").await.unwrap();
    let mut old = last_run(&log, "token-refresh").await.unwrap();
    for name in ["tick_at", "started_at", "finished_at"] {
        old[name] = json!(Timestamp::from_millis(Timestamp::now().millis() - 5 * 86_400_000));
    }
    let since = Timestamp::now();
    runs.put("token-refresh", old.to_string().into()).await.unwrap();
    assert!(jobs(&system).1["token-refresh"]["overdue"] == true || last_run(&log, "token-refresh").await != Some(old));
    good_run_since(&log, "token-refresh", since).await;
    eventually("its ticks are settled", SOON, || settled_of(&log, "token-refresh", before + 1)).await;

    // A job that fails is named, and its next run mends it.
    system.signal("-STOP", "persister");
    eventually("a job has failed", AFTER_FAULT, || async {
        let (code, rows) = jobs(&system);
        (code == Some(1) && rows["bot-resume"]["result"] == "failed").then_some(())
    })
    .await;
    system.signal("-CONT", "persister");
    eventually("every job is well again", AFTER_FAULT, || async { (jobs(&system).0 == Some(0)).then_some(()) }).await;
    let nowhere = petbuddy().args(["jobs"]).env("NATS_URL", "nats://127.0.0.1:1").env("NATS_PASSWORD", "p").output().unwrap();
    assert_eq!(nowhere.status.code(), Some(6), "{nowhere:?}");
}

/// Whether a job's stream of ticks has exactly so many.
async fn settled_of(log: &jetstream::Context, job: &str, ticks: usize) -> Option<()> {
    let counted = counts(log, "JOBS", &format!("jobs.tick.{job}")).await.values().sum::<usize>();
    assert!(counted <= ticks, "{counted} ticks for one missed");
    (counted == ticks).then_some(())
}
