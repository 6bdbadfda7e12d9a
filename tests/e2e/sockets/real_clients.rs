//! Real clients on a running system: socket.io-client, python-socketio, the Python library
//! `websockets`, and a page in Chromium. The scripts in tests/clients use each client and report
//! what it received; the expected values are asserted here.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::support::{START, Staff, System};

/// How long a script may run. Each of its waits is limited to 20 s.
const SCRIPT: Duration = Duration::from_secs(120);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// The folder of the clients, fetched once in a test process. `None`, with a warning, without Node.
async fn clients() -> Option<&'static Path> {
    static CLIENTS: OnceCell<Option<PathBuf>> = OnceCell::const_new();
    CLIENTS.get_or_init(fetch).await.as_deref()
}

async fn fetch() -> Option<PathBuf> {
    if !node_is_there().await {
        println!("NOT TRIED: without Node no real client was let loose on the sockets");
        return None;
    }
    let fetched = ended("fetch.sh", START, Command::new(folder().join("fetch.sh"))).await;
    let said = String::from_utf8(fetched.stdout).unwrap();
    Some(PathBuf::from(said.lines().last().expect("the folder")))
}

/// Whether Node and npm are on PATH. Fails if the environment requires them and they are not.
pub async fn node_is_there() -> bool {
    for tool in ["node", "npm"] {
        let mut version = Command::new(tool);
        let version = version.arg("--version").stdout(Stdio::null());
        if version.status().await.is_err() {
            let needed = std::env::var_os("PETBUDDY_NEEDS_NODE").is_some();
            assert!(!needed, "{tool} is not on PATH");
            return false;
        }
    }
    true
}

/// Runs a command to its end. Fails with its output if the command fails.
pub async fn ended(name: &str, limit: Duration, mut command: Command) -> Output {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(limit, running)
        .await
        .unwrap_or_else(|_| panic!("{name} did not end in {limit:?}"))
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {}\n{said}", output.status);
    output
}

/// A new company on the shared system, and the configuration of a script.
async fn setting(system: &'static System) -> (Staff<'static>, Value) {
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let claims = json!({"userId": "d".repeat(24), "companyId": staff.company, "role": "manager", "iat": 1_600_000_000, "exp": 1_600_000_900});
    let key = EncodingKey::from_secret(system.secret("jwt_access").as_bytes());
    let expired = encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
    let config = json!({"gateway": system.url("gateway"), "realtime": system.services("realtime"), "token": staff.token,
        "expired": expired, "contact": contact});
    (staff, config)
}

/// Runs a script and returns its report.
async fn report(program: &str, script: &str, clients: &Path, config: &Value) -> Value {
    let mut command = Command::new(program);
    command
        .arg(folder().join(script))
        .env("CONFIG", config.to_string())
        .env("NODE_PATH", clients.join("node_modules"))
        .env("PYTHONPATH", clients.join("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let output = ended(script, SCRIPT, command).await;
    let said = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(said.lines().last().unwrap_or_default())
        .unwrap_or_else(|e| panic!("{script}: {e}: {said}"))
}

fn numbered(name: &str, count: usize) -> Value {
    (1..=count).map(|n| format!("{name} {n}")).collect()
}

/// Whether an answer to `message:read` has the right form, with a sequence of the log.
fn is_read(answer: &Value) -> bool {
    answer["ok"] == true && answer["seq"].as_u64().is_some_and(|seq| seq > 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_io_client_works_as_with_the_express_backend_and_resumes() {
    let Some(clients) = clients().await else {
        return;
    };
    let (staff, config) = setting(System::shared().await).await;
    let user = staff.get("/auth/me").await.1["user"]["_id"].clone();
    let contact = &config["contact"];
    let report = report("node", "socketio.js", clients, &config).await;
    assert_eq!(
        (&report["began"], &report["became"]),
        (&json!("polling"), &json!("websocket")),
        "{report}"
    );
    assert!(
        report["id"].as_str().is_some_and(|id| !id.is_empty()),
        "{report}"
    );

    let message = &report["message"];
    assert_eq!(
        (&message["conversationId"], &message["message"]["content"]),
        (contact, &json!("room 1")),
        "{report}"
    );
    for (old, new) in [
        ("id", "_id"),
        ("contactId", "contact_id"),
        ("timestamp", "created_at"),
    ] {
        assert_eq!(
            message["message"][old], message["message"][new],
            "{old}: {report}"
        );
    }
    assert!(
        message["seq"].as_u64().is_some_and(|seq| seq > 0),
        "{report}"
    );

    let ok = json!({"ok": true});
    assert_eq!(
        (&report["joined"], &report["joinedByText"], &report["left"]),
        (&ok, &ok, &ok),
        "{report}"
    );
    let typing =
        |is_typing| json!({"conversationId": contact, "userId": user, "isTyping": is_typing});
    assert_eq!(report["typing"], typing(true), "{report}");
    assert_eq!(report["stopped"], json!([ok, typing(false)]), "{report}");
    assert_eq!(report["typingCameBack"], 0, "{report}");
    assert!(is_read(&report["read"]), "{report}");
    assert_eq!(
        (
            &report["status"]["conversationId"],
            &report["status"]["seq"]
        ),
        (contact, &report["read"]["seq"]),
        "{report}"
    );

    for (answer, code) in [
        ("unknown", "UNKNOWN_EVENT"),
        ("malformed", "MALFORMED_FRAME"),
    ] {
        assert_eq!(
            (&report[answer]["ok"], &report[answer]["code"]),
            (&json!(false), &json!(code)),
            "{report}"
        );
        assert!(
            report[answer]["message"]
                .as_str()
                .is_some_and(|m| !m.is_empty()),
            "{report}"
        );
    }
    assert_eq!(report["error"]["code"], "UNKNOWN_EVENT", "{report}");
    assert_eq!(report["order"], numbered("order", 30), "{report}");

    assert_eq!(
        report["resumed"],
        json!(["before 1", "before 2", "missed 1", "missed 2", "after 1"]),
        "{report}"
    );
    assert_eq!(
        report["polled"],
        json!(["missed 1", "missed 2", "after 1"]),
        "{report}"
    );
    assert_eq!(
        (&report["pollingJoined"], &report["pollingTransport"]),
        (&ok, &json!("polling")),
        "{report}"
    );
    assert_eq!(report["pollingTyping"], typing(true), "{report}");
    assert_eq!(report["pollingOrder"], numbered("polling", 10), "{report}");

    assert_eq!(report["tokens"], json!(vec![true; 5]), "{report}");
    let refused = &report["refused"];
    for (why, code) in [
        ("bad", "INVALID_TOKEN"),
        ("none", "INVALID_TOKEN"),
        ("expired", "TOKEN_EXPIRED"),
        ("auth", "MALFORMED_FRAME"),
    ] {
        assert_eq!(refused[why]["data"]["code"], code, "{why}: {report}");
        assert!(
            refused[why]["message"]
                .as_str()
                .is_some_and(|m| !m.is_empty()),
            "{report}"
        );
    }
    assert_eq!(
        refused["namespace"]["message"], "Invalid namespace",
        "{report}"
    );
    assert_eq!(report["disconnected"], "io client disconnect", "{report}");
    let closing = json!({"code": 4009, "reason": "too many bad frames", "reconnect": false});
    assert_eq!(
        report["thrown"],
        json!({"closing": closing, "reason": "io server disconnect", "active": false}),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn python_socketio_works_over_websocket_and_polling() {
    let Some(clients) = clients().await else {
        return;
    };
    let (_, config) = setting(System::shared().await).await;
    let report = report("python3", "socketio_client.py", clients, &config).await;
    assert_eq!(
        report["transports"],
        json!(["websocket", "polling"]),
        "{report}"
    );
    assert_eq!(
        report["room"],
        json!([["one", "two"], ["one", "two"]]),
        "{report}"
    );
    assert_eq!(
        report["joined"],
        json!([{"ok": true}, {"ok": true}]),
        "{report}"
    );
    assert_eq!(
        (
            &report["typing"]["conversationId"],
            &report["typing"]["isTyping"]
        ),
        (&config["contact"], &json!(true)),
        "{report}"
    );
    assert!(is_read(&report["read"]), "{report}");
    assert_eq!(report["status"]["seq"], report["read"]["seq"], "{report}");
    assert_eq!(report["unknown"]["code"], "UNKNOWN_EVENT", "{report}");
    assert_eq!(report["resumed"], json!(["two", "three"]), "{report}");
    assert_eq!(
        report["refused"]["data"]["code"], "INVALID_TOKEN",
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_library_websockets_works_on_ws() {
    let Some(clients) = clients().await else {
        return;
    };
    let (_, config) = setting(System::shared().await).await;
    let report = report("python3", "websocket_client.py", clients, &config).await;
    assert_eq!(
        report["room"],
        json!([["one", "two"], ["one", "two"]]),
        "{report}"
    );
    for answer in report["joined"].as_array().unwrap() {
        assert_eq!(
            (&answer["event"], &answer["data"]),
            (&json!("ack"), &json!({"ok": true})),
            "{report}"
        );
    }
    assert_eq!(report["typing"]["data"]["isTyping"], true, "{report}");
    assert!(is_read(&report["read"]["data"]), "{report}");
    assert_eq!(
        report["status"]["data"]["seq"], report["read"]["data"]["seq"],
        "{report}"
    );
    assert_eq!(
        (
            &report["unknown"]["event"],
            &report["unknown"]["data"]["code"]
        ),
        (&json!("error"), &json!("UNKNOWN_EVENT")),
        "{report}"
    );
    assert_eq!(report["resumed"], json!(["two", "three"]), "{report}");
    assert_eq!(
        report["refused"],
        json!({"status": 401, "code": "INVALID_TOKEN"}),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_chromium_works_over_both_transports() {
    let Some(clients) = clients().await else {
        return;
    };
    let (_, config) = setting(System::shared().await).await;
    let report = report("node", "browser.js", clients, &config).await;
    assert!(
        report["browser"]
            .as_str()
            .is_some_and(|agent| agent.contains("Chrome/")),
        "{report}"
    );
    assert_eq!(report["protocol"], "bearer", "{report}");
    let both = json!(["to the page 1", "to the page 2"]);
    assert_eq!(report["frames"], both, "{report}");
    assert_eq!(
        report["clients"],
        json!([["polling", both], ["websocket", both]]),
        "{report}"
    );
    assert!(is_read(&report["read"]["data"]), "{report}");
    assert_eq!(report["asked"], json!({"ok": true}), "{report}");
    assert_eq!(report["closed"]["clean"], true, "{report}");
    assert!(
        report["refused"]
            .as_str()
            .is_some_and(|why| why.contains("INVALID_TOKEN")),
        "{report}"
    );
}
