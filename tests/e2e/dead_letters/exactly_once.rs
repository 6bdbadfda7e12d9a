//! A dead letter is replayed once, over concurrent and repeated replays and over the death of the
//! process that began the replay.

use std::time::Duration;

use async_nats::HeaderMap;
use contract::Timestamp;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::dead_letters::{
    DeadLetter, failed_again, keys_delivered, list_dead_letters, only_dead_letter,
    open_dead_letters, outbound, replay, send_operator_message, seqs,
};
use crate::support::delivery::{bot_calls_for, delivery};
use crate::support::{Answer, SOON, Staff, System, eventually};

/// Longer ago than the server remembers a `Nats-Msg-Id`.
const LONG_AGO: Duration = Duration::from_secs(600);

/// Makes the bot refuse all calls and sends a message. Returns contact, id and dead letter.
async fn refused(staff: &Staff<'_>) -> (String, String, DeadLetter) {
    let contact = staff.new_contact().await;
    staff.system.bot_mode(json!({"status": 400})).await;
    let id = send_operator_message(staff, &contact, "no").await;
    let dead_letter = only_dead_letter(staff, "refused").await;
    delivery(staff, &id, "failed").await;
    (contact, id, dead_letter)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_concurrent_replays_by_rest_and_command_line_deliver_once() {
    const BY_REST: usize = 40;
    const BY_OPERATOR: usize = 10;
    let system = System::start(&["--replicas", "gateway=2,forwarder=2"]).await;
    let staff = system.new_company().await;
    let (_, id, dead_letter) = refused(&staff).await;
    system.bot_mode(json!({})).await;
    let (before, _) = outbound(&system).await;

    let (path, seq) = (
        format!("/dead-letters/{}/replay", dead_letter.seq),
        dead_letter.seq.to_string(),
    );
    let by_rest = futures_util::future::join_all((0..BY_REST).map(|n| ask(&staff, n % 2, &path)));
    let by_operator = futures_util::future::join_all((0..BY_OPERATOR).map(|_| {
        let mut command = tokio::process::Command::from(system.petbuddy_as_operator(&[
            "dead-letters",
            "replay",
            &seq,
            "--json",
        ]));
        async move { command.output().await.unwrap() }
    }));
    let (by_rest, by_operator) = tokio::join!(by_rest, by_operator);
    let mut answers: Vec<Value> = by_rest
        .into_iter()
        .map(|answer| answer.body["dead_letter"].clone())
        .collect();
    for output in by_operator {
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        answers.push(serde_json::from_slice(&output.stdout).unwrap());
    }
    assert_eq!(answers.len(), BY_REST + BY_OPERATOR);
    let to = json!({"stream": "OUTBOUND", "seq": before + 1});
    for answer in &answers {
        assert_eq!(
            (&answer["state"], &answer["fate"]["replayed_to"]),
            (&json!("replayed"), &to),
            "{answer}"
        );
        assert_eq!(
            answer["fate"]["by"], answers[0]["fate"]["by"],
            "one of them has begun it"
        );
    }
    delivery(&staff, &id, "delivered").await;
    eventually("nothing awaits the bot", SOON, || async {
        (outbound(&system).await == (before + 1, 0)).then_some(())
    })
    .await;
    let statuses: Vec<Option<u16>> = bot_calls_for(&system, &id)
        .await
        .iter()
        .map(|call| call.status)
        .collect();
    assert_eq!(
        statuses,
        [Some(400), Some(200)],
        "refused, and then delivered once"
    );
    system.assert_audit_clean();
}

/// Requests from one gateway, again while it answers 503.
async fn ask(staff: &Staff<'_>, gateway: usize, path: &str) -> Answer {
    eventually("the gateway has a turn", SOON, || async {
        let answer = staff.post_to(gateway, path, &[], &json!({})).await;
        assert!(
            [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(&answer.status),
            "{answer:?}"
        );
        (answer.status == StatusCode::OK).then_some(answer)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_runs_change_nothing_second_failures_name_the_first_and_discards_are_final() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let (contact, id, first) = refused(&staff).await;
    let before = (
        outbound(&system).await,
        bot_calls_for(&system, &id).await.len(),
    );

    let (status, answer) = staff
        .post("/dead-letters/replay", json!({"dry_run": true}))
        .await;
    assert_eq!(
        (status, &answer["dry_run"], &answer["count"]),
        (StatusCode::OK, &json!(true), &json!(1)),
        "{answer}"
    );
    assert_eq!(
        (&answer["sequences"], &answer["skipped"]),
        (&json!([first.seq]), &json!([]))
    );
    let (status, answer) = staff
        .post("/dead-letters/replay?dry_run=true", json!({}))
        .await;
    assert_eq!(
        (status, &answer["dry_run"], &answer["count"]),
        (StatusCode::OK, &json!(true), &json!(1)),
        "{answer}"
    );
    for (query, body) in [
        ("?dry_run=true", json!({})),
        ("", json!({"dry_run": true})),
        ("?dry_run=false", json!({"dry_run": true})),
    ] {
        let (status, answer) = staff
            .post(&format!("/dead-letters/{}/replay{query}", first.seq), body)
            .await;
        assert_eq!(
            (status, &answer["dead_letter"]),
            (StatusCode::OK, &first.json),
            "{answer}"
        );
    }
    for (query, body) in [
        ("?dry_run=maybe", json!({})),
        ("", json!({"dry_run": "perhaps"})),
    ] {
        let (status, answer) = staff
            .post(&format!("/dead-letters/{}/replay{query}", first.seq), body)
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    }
    let dry = system
        .petbuddy_as_operator(&["dead-letters", "replay", "--all", "--dry-run"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(dry.stdout).unwrap(),
        format!("1 dead letters would be replayed: {}\n", first.seq)
    );
    assert_eq!(
        list_dead_letters(&staff, "").await,
        std::slice::from_ref(&first)
    );
    assert_eq!(
        (
            outbound(&system).await,
            bot_calls_for(&system, &id).await.len()
        ),
        before
    );

    replay(&staff, first.seq).await;
    let second = failed_again(&staff, &first).await;
    assert_eq!(
        (&second["message_id"], &second["event_seq"]),
        (&json!(id), &first["event_seq"])
    );
    assert!(first["event_seq"].is_u64());

    let post = async |dead_letter: &DeadLetter, what: &str, body: Value| {
        staff
            .post(&format!("/dead-letters/{}/{what}", dead_letter.seq), body)
            .await
    };
    let (status, refused) = post(&second, "discard", json!({})).await;
    assert_eq!(
        (status, &refused["errors"][0]["field"]),
        (StatusCode::BAD_REQUEST, &json!("reason"))
    );
    for reason in ["answered by telephone", "another reason"] {
        let (status, answer) = post(&second, "discard", json!({"reason": reason})).await;
        let fate = &answer["dead_letter"]["fate"];
        assert_eq!(
            (status, &fate["reason"]),
            (StatusCode::OK, &json!("answered by telephone")),
            "{answer}"
        );
        assert!(fate["by"].as_str().unwrap().starts_with("user:"), "{fate}");
    }
    system.bot_mode(json!({})).await;
    for (dead_letter, what, body) in [
        (&second, "replay", json!({})),
        (&first, "discard", json!({"reason": "too late"})),
    ] {
        let (status, answer) = post(dead_letter, what, body).await;
        assert_eq!(
            (status, &answer["code"]),
            (StatusCode::CONFLICT, &json!("CONFLICT")),
            "{answer}"
        );
    }
    let (status, answer) = staff.post("/dead-letters/replay", json!({})).await;
    assert_eq!(
        (status, &answer["count"]),
        (StatusCode::OK, &json!(0)),
        "{answer}"
    );
    for (state, of) in [
        ("open", vec![]),
        ("replayed", vec![&first]),
        ("discarded", vec![&second]),
        ("all", vec![&first, &second]),
    ] {
        let found = seqs(&list_dead_letters(&staff, &format!("state={state}")).await);
        assert_eq!(
            found,
            of.iter()
                .map(|dead_letter| dead_letter.seq)
                .collect::<Vec<_>>(),
            "{state}"
        );
    }
    assert!(keys_delivered(&system, &contact).await.is_empty());
    // A discarded dead letter is not a loss.
    assert_eq!(system.assert_audit_clean()["failed"], 1);
}

/// A replay whose process died in the middle.
struct Abandoned<'a> {
    system: &'a System,
    dead_letter: &'a DeadLetter,
}

impl Abandoned<'_> {
    /// Writes the resolution `replaying`, as a replay does first.
    async fn begin(&self, at: Timestamp) {
        let fates = self
            .system
            .operator()
            .await
            .get_key_value("dead-letters")
            .await
            .unwrap();
        let fate = json!({"state": "replaying", "by": "operator", "at": at.to_string()});
        fates
            .create(self.dead_letter.seq.to_string(), fate.to_string().into())
            .await
            .unwrap();
    }

    /// Publishes the message, as a replay does second. Returns its sequence.
    async fn publish(&self) -> u64 {
        let jetstream = self.system.operator().await;
        let stored = jetstream
            .get_stream("DEAD")
            .await
            .unwrap()
            .direct_get(self.dead_letter.seq)
            .await
            .unwrap();
        let mut headers = HeaderMap::new();
        let place = stored.headers.get("Event-Seq").unwrap().as_str().to_owned();
        let (seq, id) = (
            self.dead_letter.seq.to_string(),
            format!("replay-{}", self.dead_letter.seq),
        );
        for (name, value) in [
            ("Replay-Of", seq),
            ("Event-Seq", place),
            ("Nats-Msg-Id", id),
        ] {
            headers.insert(name, value);
        }
        let subject = self.dead_letter["subject"].as_str().unwrap().to_owned();
        jetstream
            .publish_with_headers(subject, headers, stored.payload)
            .await
            .unwrap()
            .await
            .unwrap()
            .sequence
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_replay_is_completed_once() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let long_ago =
        || Timestamp::from_millis(Timestamp::now().millis() - LONG_AGO.as_millis() as i64);
    system.bot_mode(json!({"status": 400})).await;
    let mut cases = Vec::new();
    for (n, text) in [
        "not published",
        "just published",
        "delivered",
        "failed again",
        "waits",
    ]
    .into_iter()
    .enumerate()
    {
        let contact = staff.new_contact().await;
        let id = send_operator_message(&staff, &contact, text).await;
        let dead_letter = open_dead_letters(&staff, n + 1).await.pop().unwrap();
        delivery(&staff, &id, "failed").await;
        cases.push((contact, id, dead_letter));
    }
    let left = |n: usize| Abandoned {
        system: &system,
        dead_letter: &cases[n].2,
    };

    // The published message has failed again before the replay is repeated.
    let again_to = left(3).publish().await;
    left(3).begin(long_ago()).await;
    let again = eventually("another dead letter", SOON, || async {
        list_dead_letters(&staff, "")
            .await
            .into_iter()
            .find(|dead_letter| dead_letter.replay_of == Some(cases[3].2.seq))
    })
    .await;
    assert_eq!(
        replay(&staff, cases[3].2.seq).await.replayed_to,
        Some(again_to)
    );

    system.bot_mode(json!({})).await;
    // The published message is delivered before the replay is repeated.
    let delivered_to = left(2).publish().await;
    left(2).begin(long_ago()).await;
    delivery(&staff, &cases[2].1, "delivered").await;
    eventually("it is gone from its stream", SOON, || async {
        (outbound(&system).await.1 == 0).then_some(())
    })
    .await;
    assert_eq!(
        replay(&staff, cases[2].2.seq).await.replayed_to,
        Some(delivered_to)
    );
    // The message was published a moment ago.
    left(1).begin(Timestamp::now()).await;
    let just_to = left(1).publish().await;
    assert_eq!(
        replay(&staff, cases[1].2.seq).await.replayed_to,
        Some(just_to)
    );
    // The message was not published.
    left(0).begin(long_ago()).await;
    let to = replay(&staff, cases[0].2.seq).await.replayed_to;
    assert_eq!(to, Some(just_to + 1));
    // The published message waits, because the company has no token.
    let (status, _) = staff
        .send(Method::DELETE, "/integrations/facebook", json!({}))
        .await;
    assert!(status.is_success());
    let waits_at = left(4).publish().await;
    left(4).begin(long_ago()).await;
    assert_eq!(
        replay(&staff, cases[4].2.seq).await.replayed_to,
        Some(waits_at)
    );
    let (status, _) = staff
        .send(
            Method::PUT,
            "/integrations/facebook",
            json!({"access_token": "new"}),
        )
        .await;
    assert!(status.is_success());

    for n in [0, 1, 2, 4] {
        delivery(&staff, &cases[n].1, "delivered").await;
        assert_eq!(
            keys_delivered(&system, &cases[n].0).await,
            [cases[n].1.clone()],
            "once: {n}"
        );
    }
    assert_eq!(
        outbound(&system).await.0,
        waits_at,
        "nothing else was published"
    );
    assert_eq!(seqs(&list_dead_letters(&staff, "").await), seqs(&[again]));
    assert!(keys_delivered(&system, &cases[3].0).await.is_empty());
    system.assert_audit_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_replay_delivers_once_even_after_the_duplicate_window() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let (contact, id, dead_letter) = refused(&staff).await;
    system.bot_mode(json!({})).await;
    let left = Abandoned {
        system: &system,
        dead_letter: &dead_letter,
    };
    left.begin(Timestamp::now()).await;
    let to = left.publish().await;
    delivery(&staff, &id, "delivered").await;
    eventually("it is gone from its stream", SOON, || async {
        (outbound(&system).await.1 == 0).then_some(())
    })
    .await;
    // A restarted nats-server knows only the message ids of messages that its streams still have.
    system.kill_and_await_restart("nats-server").await;
    system.await_ready().await;
    assert_eq!(replay(&staff, dead_letter.seq).await.replayed_to, Some(to));
    assert_eq!(outbound(&system).await, (to, 0));
    assert_eq!(keys_delivered(&system, &contact).await, [id]);
    system.assert_audit_clean();
}
