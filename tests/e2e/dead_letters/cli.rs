//! `petbuddy dead-letters`: its output, as text and as JSON, and its exit codes. The rules of
//! replays are tested in the other files of this group.

use std::process::Output;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::dead_letters::{keys_delivered, only_dead_letter, send_operator_message};
use crate::support::delivery::delivery;
use crate::support::{Folder, SOON, System, eventually, petbuddy};

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_shows_replays_and_discards_dead_letters() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    // The command line finds the system by its folder, without NATS settings.
    let folder = system.folder.0.to_str().unwrap().to_owned();
    let run = |args: &[&str]| {
        petbuddy()
            .args(["dead-letters", "--dir", &folder])
            .args(args)
            .output()
            .unwrap()
    };
    let text = |output: &Output| {
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let json_of = |args: &[&str]| {
        let output = run(&[args, &["--json"]].concat());
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(
        json_of(&["list"]),
        json!({"dead_letters": [], "next_cursor": null})
    );

    system.bot_mode(json!({"status": 400})).await;
    let id = send_operator_message(&staff, &contact, "from the command line").await;
    delivery(&staff, &id, "failed").await;
    let dead_letter = only_dead_letter(&staff, "refused").await;
    let seq = dead_letter.seq.to_string();
    let listed = json_of(&[
        "list",
        "--reason",
        "refused",
        "--service",
        "forwarder",
        "--company",
        &staff.company,
        "--contact",
        &contact,
    ]);
    assert_eq!(listed["dead_letters"], json!([dead_letter.json]));
    for nothing in [
        ["--reason", "expired"],
        ["--service", "persister"],
        ["--contact", &staff.company],
        ["--state", "replayed"],
    ] {
        assert_eq!(
            json_of(&[&["list"], &nothing[..]].concat())["dead_letters"],
            json!([]),
            "{nothing:?}"
        );
    }
    let (code, table) = text(&run(&["list"]));
    assert_eq!((code, table.lines().count()), (Some(0), 2), "{table}");
    assert!(
        table.contains("refused") && table.contains("HTTP 400"),
        "{table}"
    );
    let (code, whole) = text(&run(&["show", &seq]));
    assert_eq!(code, Some(0));
    for part in [
        "from the command line",
        "Dead-Reason: refused",
        "Event-Seq: ",
        "Dead-Stream: OUTBOUND",
        "is open",
    ] {
        assert!(whole.contains(part), "{part}: {whole}");
    }
    let shown = json_of(&["show", &seq]);
    assert_eq!(
        (&shown["payload"]["data"]["_id"], &shown["state"]),
        (&json!(id), &json!("open")),
        "{shown}"
    );

    system.bot_mode(json!({})).await;
    let (code, said) = text(&run(&["replay", &seq, "--dry-run"]));
    assert_eq!(
        (code, said),
        (Some(0), format!("dead letter {seq} is open\n"))
    );
    for _ in 0..2 {
        let (code, said) = text(&run(&["replay", &seq]));
        assert_eq!(code, Some(0));
        assert!(
            said.starts_with(&format!("dead letter {seq} is replayed to OUTBOUND "))
                && said.contains(" by operator at "),
            "{said}"
        );
    }
    delivery(&staff, &id, "delivered").await;
    eventually("once", SOON, || async {
        (keys_delivered(&system, &contact).await.len() == 1).then_some(())
    })
    .await;

    // A second dead letter, to be discarded.
    system.bot_mode(json!({"status": 400})).await;
    send_operator_message(&staff, &contact, "never mind").await;
    let other = only_dead_letter(&staff, "refused").await.seq.to_string();
    let discarded = json_of(&["discard", &other, "--reason", "never mind"]);
    assert_eq!(
        (&discarded["state"], &discarded["fate"]["reason"]),
        (&json!("discarded"), &json!("never mind")),
        "{discarded}"
    );
    assert_eq!(
        json_of(&["list", "--state", "discarded"])["dead_letters"][0]["seq"].to_string(),
        other
    );
    // Exit code 1: the dead letter has another resolution, or does not exist.
    for args in [
        &["replay", &other][..],
        &["replay", &other, "--dry-run"],
        &["discard", &seq, "--reason", "x"],
        &["replay", "999"],
        &["show", "999"],
        &["show", "0"],
    ] {
        let output = run(args);
        assert_eq!(
            (
                output.status.code(),
                output.stdout.is_empty(),
                output.stderr.is_empty()
            ),
            (Some(1), true, false),
            "{args:?}"
        );
    }
    // Exit code 2: a wrong option.
    for args in [
        &["replay"][..],
        &["replay", &seq, "--all"],
        &["replay", &seq, "--reason", "refused"],
        &["replay", &seq, "--dry-run", "--company", &staff.company],
        &["list", "--reason", "wrong"],
        &["list", "--from", "yesterday"],
        &["list", "--limit", "0"],
        &["discard", &seq],
        &["discard", &seq, "--reason", ""],
    ] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
    let nowhere = Folder::new();
    let output = petbuddy()
        .args(["dead-letters", "list", "--dir", nowhere.0.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(2),
        "nothing runs there: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Exit code 6: nats-server does not answer.
    let output = petbuddy()
        .args(["dead-letters", "list"])
        .env("NATS_URL", "nats://127.0.0.1:1")
        .env("NATS_PASSWORD", "p")
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(6),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// In bytes: larger than `OUTBOUND` accepts, but within the limit of a dead letter.
const TOO_LARGE: usize = 550 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_too_large_to_replay_delays_no_other_and_can_be_discarded() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let jetstream = system.operator().await;
    let company = &staff.company;
    for (subject, size) in [
        (format!("dead.persister.later.kind.{company}.{contact}"), 2),
        (
            format!("dead.forwarder.outbound.3.{company}.{contact}.facebook"),
            TOO_LARGE,
        ),
    ] {
        jetstream
            .publish(subject, " ".repeat(size).into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    system.bot_mode(json!({"status": 400})).await;
    let id = send_operator_message(&staff, &contact, "behind them").await;
    delivery(&staff, &id, "failed").await;
    system.bot_mode(json!({})).await;

    let run = |args: &[&str]| {
        let output = system
            .petbuddy_as_operator(&[&["dead-letters"], args].concat())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (code, said) = run(&["replay", "--all", "--json"]);
    assert_eq!(code, Some(0), "{said}");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["sequences"], json!([3]), "{said}");
    let skipped: Vec<&Value> = said["skipped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|skipped| &skipped["seq"])
        .collect();
    assert_eq!(skipped, [&json!(1), &json!(2)], "{said}");
    delivery(&staff, &id, "delivered").await;
    for (seq, why) in [
        ("1", "no stream takes later.kind"),
        ("2", "message size exceeds maximum allowed"),
    ] {
        let (code, said) = run(&["replay", seq]);
        assert!(
            code == Some(1) && said.contains("cannot be replayed") && said.contains(why),
            "{said}"
        );
        let (status, answer) = staff
            .post(&format!("/dead-letters/{seq}/replay"), json!({}))
            .await;
        let refused = if seq == "1" {
            StatusCode::FORBIDDEN
        } else {
            StatusCode::CONFLICT
        };
        assert_eq!(status, refused, "{answer}");
        let (code, said) = run(&["discard", seq, "--reason", "nobody takes it"]);
        assert_eq!(
            (
                code,
                said.starts_with(&format!("dead letter {seq} is discarded"))
            ),
            (Some(0), true),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_replay_of_all_reports_its_progress_and_the_next_one_finishes() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    system.bot_mode(json!({"status": 400})).await;
    for text in ["first", "second"] {
        let id = send_operator_message(&staff, &contact, text).await;
        delivery(&staff, &id, "failed").await;
    }
    // The first replayed message stays in `OUTBOUND`, which has no room for a second one.
    let (status, _) = staff
        .send(Method::DELETE, "/integrations/facebook", json!({}))
        .await;
    assert_eq!(status, StatusCode::OK);
    let jetstream = system.operator().await;
    let mut outbound = jetstream
        .get_stream("OUTBOUND")
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    outbound.max_messages = 1;
    jetstream.update_stream(&outbound).await.unwrap();
    let replay = || {
        system
            .petbuddy_as_operator(&["dead-letters", "replay", "--all"])
            .output()
            .unwrap()
    };
    let output = replay();
    let said = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(
        (output.status.code(), said.0.as_ref()),
        (Some(6), "1 dead letters replayed: 1\n"),
        "{said:?}"
    );
    assert!(said.1.contains("maximum messages exceeded"), "{said:?}");

    outbound.max_messages = -1;
    jetstream.update_stream(&outbound).await.unwrap();
    let output = replay();
    assert_eq!(
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).as_ref()
        ),
        (Some(0), "1 dead letters replayed: 2\n")
    );
}
