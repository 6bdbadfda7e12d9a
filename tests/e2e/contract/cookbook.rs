//! The commands of the READMEs work as printed: the tour with curl, and the cookbook with the real
//! `nats` CLI.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::process::Command;

use crate::support::dead_letters::{
    keys_delivered, list_dead_letters, outbound, replay, send_operator_message, seqs,
};
use crate::support::delivery::delivery;
use crate::support::{SOON, System, eventually};

/// A command, and whether it runs until it is stopped.
struct Line {
    text: String,
    endless: bool,
}

/// The commands of the ```sh blocks that call `nats`, with their continuation lines. The test stops
/// a command with `# until Ctrl-C`.
fn lines() -> Vec<Line> {
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("nats/README.md"))
            .unwrap();
    let mut shell = false;
    let mut lines = Vec::new();
    let readme = readme.replace("\\\n", "");
    for line in readme.lines() {
        match line.trim() {
            "```sh" => shell = true,
            "```" => shell = false,
            line if shell && line.contains("nats ") && !line.starts_with('#') => {
                lines.push(Line {
                    text: line.to_owned(),
                    endless: line.contains("# until Ctrl-C"),
                });
            }
            _ => {}
        }
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_cookbook_works() {
    if Command::new("nats")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .await
        .is_err()
    {
        assert!(
            std::env::var_os("PETBUDDY_NEEDS_NATS_CLI").is_none(),
            "the `nats` CLI is not on PATH"
        );
        println!(
            "NOT TRIED: there is no `nats` CLI on PATH; `go install github.com/nats-io/natscli/nats@latest` gives one"
        );
        return;
    }
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let user = staff.get("/auth/me").await.1["user"]["_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let id = staff.customer_message(&contact, "hello").await.id;
    let jetstream = system.operator().await;
    let subject = format!(
        "message.created.{}.{contact}.web.inbound.user",
        staff.company
    );
    // Two dead letters: a message that the bot refused, which the cookbook replays, and a payload
    // that is not an event.
    system.bot_mode(json!({"status": 400})).await;
    let refused = send_operator_message(&staff, &contact, "refused, then replayed").await;
    let dead = async |count: u64| {
        eventually("dead letters to look at", SOON, || async {
            let mut dead = jetstream.get_stream("DEAD").await.ok()?;
            (dead.info().await.ok()?.state.messages >= count).then_some(())
        })
        .await;
    };
    dead(1).await;
    system.bot_mode(json!({})).await;
    jetstream
        .publish(subject, "not an event".into())
        .await
        .unwrap()
        .await
        .unwrap();
    dead(2).await;

    // The newer message waits, because the company has no token.
    assert!(
        staff
            .send(Method::DELETE, "/integrations/facebook", json!({}))
            .await
            .0
            .is_success()
    );
    let newer = send_operator_message(&staff, &contact, "newer").await;
    delivery(&staff, &newer, "held").await;

    let lines = lines();
    assert!(
        lines.len() >= 10,
        "the cookbook has only {} lines",
        lines.len()
    );
    for Line { text, endless } in lines {
        // `nats stream view` requires a terminal.
        let mut shell = Command::new("python3");
        shell
            .args(["-c", "import os,pty,sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(['sh', '-ec', sys.argv[1]])))", &text])
            .env("NATS_URL", system.url("nats"))
            .env("NATS_USER", system.run["operator"]["user"].as_str().unwrap())
            .env("NATS_PASSWORD", system.run["operator"]["password"].as_str().unwrap())
            .env("COMPANY", &staff.company)
            .env("CONTACT", &contact)
            .env("MESSAGE", &id)
            .env("STAFF", &user)
            .env("SEQ", "1")
            .env("LETTER", "1")
            .env("OTHER", "2")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        match tokio::time::timeout(
            if endless {
                Duration::from_secs(3)
            } else {
                SOON
            },
            shell.output(),
        )
        .await
        {
            Ok(output) => {
                let output = output.unwrap();
                let said = String::from_utf8_lossy(&output.stdout).into_owned()
                    + &String::from_utf8_lossy(&output.stderr);
                let is_error = said.contains("nats: error") || said.contains("Nats-Service-Error");
                assert!(
                    !endless && output.status.success() && !is_error,
                    "{text}\n{said}"
                );
            }
            Err(_) => assert!(endless, "did not end: {text}"),
        }
    }
    assert!(
        staff
            .send(
                Method::PUT,
                "/integrations/facebook",
                json!({"access_token": "new"})
            )
            .await
            .0
            .is_success()
    );
    for id in [&refused, &newer] {
        delivery(&staff, id, "delivered").await;
    }
    assert_eq!(
        keys_delivered(&system, &contact).await,
        [refused, newer],
        "the replayed one before what is newer"
    );
    // A replay by REST finds the dead letter replayed and publishes nothing.
    let (published, _) = outbound(&system).await;
    let replayed = replay(&staff, 1).await;
    assert_eq!(replayed["fate"]["by"], "operator");
    assert_eq!(outbound(&system).await, (published, 0));
    let discarded = list_dead_letters(&staff, "state=discarded").await;
    assert_eq!(
        (seqs(&discarded), &discarded[0]["fate"]["reason"]),
        (vec![2], &json!("no event"))
    );
    assert!(list_dead_letters(&staff, "").await.is_empty());
    system.assert_audit_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_of_the_readme_works() {
    let system = System::shared().await;
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let tour = readme
        .split("```sh\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("the tour is the first block");
    let tour = tour
        .replace("http://127.0.0.1:4000", &system.url("gateway"))
        .replace("http://127.0.0.1:5001", &system.url("bot"));
    let said = tokio::time::timeout(
        SOON,
        Command::new("sh")
            .args(["-ec", &tour])
            .stdin(Stdio::null())
            .output(),
    )
    .await
    .unwrap()
    .unwrap();
    let text =
        String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{text}");
    assert!(
        text.contains("Registered successfully")
            && text.matches("Message created successfully").count() == 2,
        "{text}"
    );
    let contact = text
        .split("\"contact_id\":\"")
        .nth(1)
        .and_then(|rest| rest.get(..24))
        .expect("a contact");
    eventually("the answer has reached the bot", SOON, || async {
        system
            .bot_calls()
            .await
            .iter()
            .any(|call| call.body["customer_id"] == contact)
            .then_some(())
    })
    .await;
}
