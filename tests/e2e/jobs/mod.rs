//! The scheduler's jobs: bot resume, bot probe and dead-letter digest, and the report of `petbuddy
//! jobs`. Token refresh and SLA have files of their own.

mod google;
mod graph;
mod oauth;
mod sla;
mod tokens;

use std::collections::BTreeMap;
use std::process::Output;
use std::time::Duration;

use async_nats::jetstream;
use contract::Timestamp;
use contract::event::{Actor, ContactBotResumed, Envelope, Event};
use futures_util::{StreamExt, TryStreamExt};
use mongodb::bson::{Document, doc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{AFTER_FAULT, Folder, SOON, System, eventually, petbuddy};

const DAY: Duration = Duration::from_secs(86_400);

/// Messages of a stream by subject.
async fn counts(log: &jetstream::Context, stream: &str, filter: &str) -> BTreeMap<String, usize> {
    let info = log
        .get_stream(stream)
        .await
        .unwrap()
        .info_with_subjects(filter)
        .await
        .unwrap();
    info.filter_map(|s| async { s.ok() }).collect().await
}

/// The last run of a job.
async fn last_run(log: &jetstream::Context, job: &str) -> Option<Value> {
    let runs = log.get_key_value("job-runs").await.ok()?;
    serde_json::from_slice(&runs.get(job).await.ok()??).ok()
}

/// Waits for a successful run of the job that began after `since`.
async fn good_run_since(log: &jetstream::Context, job: &str, since: Timestamp) -> Value {
    eventually(&format!("{job} has run"), AFTER_FAULT, || async {
        let run = last_run(log, job).await?;
        let started: Timestamp = run["started_at"].as_str()?.parse().ok()?;
        (started > since && run["outcome"] == "ok").then_some(run)
    })
    .await
}

/// The value of a gauge in each scheduler. The gauge's labels must end with `labels`.
async fn gauges(system: &System, name: &str, labels: &str) -> Option<Vec<f64>> {
    let (mut found, labels) = (Vec::new(), format!("{labels}}} "));
    for url in system.services("scheduler") {
        let metrics = system
            .http
            .get(format!("{url}/metrics"))
            .send()
            .await
            .ok()?
            .text()
            .await
            .ok()?;
        found.push(metrics.lines().find_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix('{')?
                .split_once(&labels)?
                .1
                .parse()
                .ok()
        })?);
    }
    Some(found)
}

/// Runs a subcommand of `petbuddy` on this system.
fn run(system: &System, args: &[&str]) -> Output {
    petbuddy()
        .args(args)
        .arg("--dir")
        .arg(&system.folder.0)
        .output()
        .unwrap()
}

/// The exit code and the rows, by job, of `petbuddy jobs --json`.
fn jobs(system: &System) -> (Option<i32>, BTreeMap<String, Value>) {
    let output = run(system, &["jobs", "--json"]);
    let rows: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let rows = rows["jobs"].as_array().unwrap().iter();
    (
        output.status.code(),
        rows.map(|row| (row["job"].as_str().unwrap().to_owned(), row.clone()))
            .collect(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_bot_resumes_at_its_time_and_not_before() {
    let environment = [("BOT_RESUME_INTERVAL", "1s")];
    let system = System::start_with(
        Folder::new(),
        &["--replicas", "scheduler=2,persister=2"],
        &environment,
    )
    .await;
    let (log, staff) = (system.operator().await, system.new_company().await);
    let (soon, hour) = (
        Timestamp::now().plus(Duration::from_secs(10)),
        Timestamp::now().plus(Duration::from_secs(3_600)),
    );
    let suspend = async |until: Timestamp| {
        let contact = staff.new_contact().await;
        let body = json!({"botSuspended": true, "botSuspendUntil": until});
        assert_eq!(
            staff
                .send(Method::PATCH, &format!("/contacts/{contact}"), body)
                .await
                .0,
            StatusCode::OK
        );
        contact
    };
    let (passes, stays, put_off) = (
        suspend(soon).await,
        suspend(hour).await,
        suspend(soon).await,
    );
    let for_good = staff.new_contact().await;
    assert_eq!(
        staff
            .send(
                Method::PATCH,
                &format!("/contacts/{for_good}"),
                json!({"botSuspended": true})
            )
            .await
            .0,
        StatusCode::OK
    );
    let later = staff
        .send(
            Method::PATCH,
            &format!("/contacts/{put_off}"),
            json!({"botSuspendUntil": hour}),
        )
        .await;
    assert_eq!(later.0, StatusCode::OK);
    let state = async |contact: &str| {
        let (_, answer) = staff.get(&format!("/contacts/{contact}")).await;
        (
            answer["contact"]["botSuspended"].clone(),
            answer["contact"]["botSuspendUntil"].clone(),
        )
    };
    eventually("the bot may speak", AFTER_FAULT, || async {
        (state(&passes).await == (json!(false), Value::Null)).then_some(())
    })
    .await;
    // A `contact.bot_resumed` with the former time has no effect.
    let (company_id, contact_id) = (staff.company.parse().unwrap(), put_off.parse().unwrap());
    let stale = Event::ContactBotResumed(ContactBotResumed {
        contact_id,
        until: soon,
    });
    let stale = Envelope::new(Timestamp::now(), Actor::System, company_id, stale);
    log.publish(stale.subject().to_string(), stale.to_json().unwrap().into())
        .await
        .unwrap()
        .await
        .unwrap();
    // Two more sweeps, each of which waits until the view has all events so far.
    for _ in 0..2 {
        good_run_since(&log, "bot-resume", Timestamp::now()).await;
    }
    assert_eq!(state(&passes).await, (json!(false), Value::Null));
    assert_eq!(state(&stays).await, (json!(true), json!(hour)));
    assert_eq!(state(&put_off).await, (json!(true), json!(hour)));
    assert_eq!(state(&for_good).await, (json!(true), Value::Null));
    let told = counts(&log, "EVENTS", "contact.bot_resumed.>").await;
    let subject = |contact: &str| format!("contact.bot_resumed.{}.{contact}", staff.company);
    assert_eq!(
        told,
        BTreeMap::from([(subject(&passes), 1), (subject(&put_off), 1)]),
        "once by the schedulers, once by hand"
    );
    // The sweeps use the index.
    let stats = system
        .database()
        .await
        .collection::<Document>("contacts")
        .aggregate([doc! {"$indexStats": {}}])
        .await
        .unwrap();
    let stats: Vec<Document> = stats.try_collect().await.unwrap();
    let index = stats
        .iter()
        .find(|index| {
            index
                .get_str("name")
                .is_ok_and(|name| name == "bot_suspended_until")
        })
        .unwrap();
    assert!(
        index
            .get_document("accesses")
            .unwrap()
            .get_i64("ops")
            .unwrap()
            > 0,
        "{index}"
    );
    // A new suspension takes effect and ends at its time.
    let again = Timestamp::now().plus(Duration::from_secs(2));
    let body = json!({"botSuspended": true, "botSuspendUntil": again});
    assert_eq!(
        staff
            .send(Method::PATCH, &format!("/contacts/{passes}"), body)
            .await
            .0,
        StatusCode::OK
    );
    eventually("the bot may speak again", AFTER_FAULT, || async {
        let told = counts(&log, "EVENTS", &subject(&passes)).await;
        (told.values().sum::<usize>() == 2 && state(&passes).await == (json!(false), Value::Null))
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_and_the_dead_letter_digest_run_and_petbuddy_jobs_reports_them() {
    let environment = [
        ("BOT_PROBE_INTERVAL", "1s"),
        ("DEAD_LETTER_DIGEST_INTERVAL", "1s"),
        ("SLA_SWEEP_INTERVAL", "2s"),
    ];
    let system =
        System::start_with(Folder::new(), &["--replicas", "scheduler=2"], &environment).await;
    let log = system.operator().await;

    // The probe's result in every replica and in the bucket.
    let bot_is = async |status: &str, gauge: f64| {
        eventually(
            &format!("the bot is seen {status}"),
            AFTER_FAULT,
            || async {
                let seen = log
                    .get_key_value("bot-health")
                    .await
                    .ok()?
                    .get("meta-bot")
                    .await
                    .ok()??;
                let seen: Value = serde_json::from_slice(&seen).ok()?;
                let gateway: Value = system
                    .http
                    .get(format!("{}/ready", system.url("gateway")))
                    .send()
                    .await
                    .ok()?
                    .json()
                    .await
                    .ok()?;
                let check = &gateway["checks"]["meta_bot"];
                // The gateway shows the result but stays ready.
                (gateway["status"] == "ok"
                    && check["status"] == "ok"
                    && check["detail"]["status"] == status)
                    .then_some(())?;
                for url in system.services("scheduler") {
                    let health: Value = system
                        .http
                        .get(format!("{url}/health"))
                        .send()
                        .await
                        .ok()?
                        .json()
                        .await
                        .ok()?;
                    let check = &health["checks"]["meta_bot"];
                    (check["status"] == "ok" && check["detail"]["status"] == status)
                        .then_some(())?;
                }
                let told = gauges(&system, "meta_bot_up", "").await?;
                (seen["status"] == status && told == [gauge, gauge]).then_some(seen)
            },
        )
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
    assert!(
        again["since"].as_str() > down["since"].as_str(),
        "{down} {again}"
    );

    // The digest counts an open dead letter, and no longer after it is discarded.
    let subject = format!("message.updated.{}.{}", "a".repeat(24), "b".repeat(24));
    log.publish(subject, "no event".into())
        .await
        .unwrap()
        .await
        .unwrap();
    let digest_is = async |open: u64| {
        eventually(&format!("{open} are counted"), AFTER_FAULT, || async {
            let run = last_run(&log, "dead-letter-digest").await?;
            let of = gauges(
                &system,
                "dead_letters_open_of",
                "from=\"persister\",reason=\"malformed\"",
            )
            .await?;
            let all = gauges(&system, "dead_letters_open", "").await?;
            (run["detail"]["open"] == open && all == [open as f64; 2] && of == all)
                .then_some(run["detail"].clone())
        })
        .await
    };
    let one = digest_is(1).await;
    assert_eq!(
        one["kinds"],
        json!([{"service": "persister", "reason": "malformed", "open": 1}])
    );
    assert_eq!(
        one["companies"],
        json!([{"company_id": "a".repeat(24), "open": 1}])
    );
    let discarded = run(
        &system,
        &["dead-letters", "discard", "1", "--reason", "a test"],
    );
    assert!(discarded.status.success(), "{discarded:?}");
    assert_eq!(digest_is(0).await["kinds"], json!([]));

    // The output of `petbuddy jobs`.
    let names = [
        "bot-probe",
        "bot-resume",
        "dead-letter-digest",
        "google-token-refresh",
        "sla-sweep",
        "token-refresh",
    ];
    let rows = eventually("every job has run", AFTER_FAULT, || async {
        let (code, rows) = jobs(&system);
        (code == Some(0) && rows.values().all(|row| row["result"] != "never")).then_some(rows)
    })
    .await;
    assert_eq!(rows.keys().collect::<Vec<_>>(), names);
    let row = &rows["token-refresh"];
    assert_eq!(
        (&row["interval_seconds"], &row["result"], &row["overdue"]),
        (&json!(86_400), &json!("ok"), &json!(false)),
        "{row}"
    );
    assert!(
        row["detail"]["skipped"]
            .as_str()
            .is_some_and(|why| why.contains("FACEBOOK_APP_ID")),
        "{row}"
    );
    let google = &rows["google-token-refresh"];
    assert_eq!(
        (&google["interval_seconds"], &google["result"]),
        (&json!(300), &json!("ok")),
        "{google}"
    );
    assert!(
        google["detail"]["skipped"]
            .as_str()
            .is_some_and(|why| why.contains("GOOGLE_CLIENT_ID")),
        "{google}"
    );
    let next: Timestamp = row["next_run_at"].as_str().unwrap().parse().unwrap();
    assert!(
        next > Timestamp::now().plus(DAY / 2) && row["took_ms"].is_u64() && row["by"].is_string(),
        "{row}"
    );
    let table = run(&system, &["jobs"]);
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(
        text.starts_with("JOB") && names.iter().all(|name| text.contains(name)),
        "{text}"
    );

    // One run makes up for ticks that were missed for days.
    let before = counts(&log, "JOBS", "jobs.tick.token-refresh")
        .await
        .values()
        .sum::<usize>();
    let runs = log.get_key_value("job-runs").await.unwrap();
    let mut old = last_run(&log, "token-refresh").await.unwrap();
    for name in ["tick_at", "started_at", "finished_at"] {
        old[name] = json!(Timestamp::from_millis(
            Timestamp::now().millis() - 5 * 86_400_000
        ));
    }
    let since = Timestamp::now();
    runs.put("token-refresh", old.to_string().into())
        .await
        .unwrap();
    assert!(
        jobs(&system).1["token-refresh"]["overdue"] == true
            || last_run(&log, "token-refresh").await != Some(old)
    );
    good_run_since(&log, "token-refresh", since).await;
    eventually("its ticks are settled", SOON, || {
        ticks_are(&log, "token-refresh", before + 1)
    })
    .await;

    // A failed job is reported until its next run succeeds.
    system.signal("-STOP", "persister");
    eventually("a job has failed", AFTER_FAULT, || async {
        let (code, rows) = jobs(&system);
        (code == Some(1) && rows["bot-resume"]["result"] == "failed").then_some(())
    })
    .await;
    system.signal("-CONT", "persister");
    eventually("every job is well again", AFTER_FAULT, || async {
        (jobs(&system).0 == Some(0)).then_some(())
    })
    .await;
    let nowhere = petbuddy()
        .args(["jobs"])
        .env("NATS_URL", "nats://127.0.0.1:1")
        .env("NATS_PASSWORD", "p")
        .output()
        .unwrap();
    assert_eq!(nowhere.status.code(), Some(6), "{nowhere:?}");
}

/// Whether the job has had exactly `ticks` ticks. Fails if it has had more.
async fn ticks_are(log: &jetstream::Context, job: &str, ticks: usize) -> Option<()> {
    let counted = counts(log, "JOBS", &format!("jobs.tick.{job}"))
        .await
        .values()
        .sum::<usize>();
    assert!(counted <= ticks, "{counted} ticks for one missed");
    (counted == ticks).then_some(())
}
