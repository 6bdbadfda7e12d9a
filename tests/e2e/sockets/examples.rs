//! The clients of examples/ on a running system: the compiler finds no fault with their types, and
//! each prints what happens in its company, without a gap when its connection breaks.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::{OnceCell, watch};

use super::real_clients::{ended, node_is_there};
use crate::support::ws_client::Socket;
use crate::support::{Folder, SOON, START, System, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn the_example_over_ws_prints_every_event_once_over_a_broken_connection() {
    prints_every_event_once("ws").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_over_socket_io_prints_every_event_once_over_a_broken_connection() {
    prints_every_event_once("socketio").await;
}

async fn prints_every_event_once(client: &str) {
    let Some(examples) = compiled().await else {
        return;
    };
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let nodes = system.services("realtime");
    let relay = Relay::start(&nodes[0]).await;
    let example = Example::start(
        examples,
        client,
        &[
            ("GATEWAY", &system.url("gateway")),
            ("REALTIME", &relay.url),
            ("TOKEN", &staff.token),
            ("CONVERSATION", &contact),
        ],
    );
    eventually("the example prints its lists", SOON, || async {
        let fetched = |line: &String| line.starts_with("0 conversations as of ");
        example.lines().iter().any(fetched).then_some(())
    })
    .await;

    staff.customer_message(&contact, "before").await;
    example.prints_message("before").await;
    let mut colleague = Socket::open(&nodes[2], &staff.token, None).await;
    example.sees_typing_of(&mut colleague, &contact).await;

    relay.lead_to(None);
    staff.customer_message(&contact, "missed 1").await;
    staff.operator_message(&contact, "missed 2").await;
    relay.lead_to(Some(&nodes[1]));
    staff.customer_message(&contact, "after").await;
    example.prints_message("after").await;
    let expected = ["before", "missed 1", "missed 2", "after"];
    assert_eq!(example.messages(), expected);
    // The room of the conversation has been joined anew.
    example.sees_typing_of(&mut colleague, &contact).await;
    let seqs: Vec<u64> = example
        .events()
        .iter()
        .filter_map(|(_, data)| data["seq"].as_u64())
        .collect();
    let ascending = seqs.windows(2).all(|pair| pair[0] < pair[1]);
    assert!(ascending, "{seqs:?}");
}

/// The folder with the compiled examples, once a test process; `None`, said loudly, without Node.
async fn compiled() -> Option<&'static Path> {
    static COMPILED: OnceCell<Option<Folder>> = OnceCell::const_new();
    let folder = COMPILED.get_or_init(|| async {
        if !node_is_there().await {
            println!("NOT TRIED: without Node the examples were neither checked nor run");
            return None;
        }
        Some(compile().await)
    });
    folder.await.as_ref().map(|folder| folder.0.as_path())
}

async fn compile() -> Folder {
    let folder = Folder::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for entry in std::fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|end| end == "ts" || end == "json")
        {
            std::fs::copy(&path, folder.0.join(path.file_name().unwrap())).unwrap();
        }
    }
    let mut install = Command::new("npm");
    install
        .args([
            "ci",
            "--prefer-offline",
            "--silent",
            "--no-audit",
            "--no-fund",
        ])
        .current_dir(&folder.0);
    ended("npm ci", START, install).await;
    let mut compiler = Command::new(folder.0.join("node_modules/.bin/tsc"));
    compiler.current_dir(&folder.0);
    ended("tsc", START, compiler).await;
    folder
}

/// A running example, and the lines that it has printed.
struct Example {
    _child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Drop for Example {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the example has printed: {:#?}", self.lines());
        }
    }
}

impl Example {
    fn start(examples: &Path, client: &str, environment: &[(&str, &str)]) -> Example {
        let script: PathBuf = examples.join("build/run.js");
        let mut child = Command::new("node")
            // Node 20 has `WebSocket` behind this option.
            .arg("--experimental-websocket")
            .arg(script)
            .arg(client)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = Arc::default();
        collect(child.stdout.take().unwrap(), &lines);
        collect(child.stderr.take().unwrap(), &lines);
        Example {
            _child: child,
            lines,
        }
    }

    fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.clone()
    }

    /// The events that have been printed: name and data.
    fn events(&self) -> Vec<(String, Value)> {
        self.lines()
            .iter()
            .filter_map(|line| {
                let (event, data) = line.split_once(' ')?;
                let data = event
                    .contains(':')
                    .then(|| serde_json::from_str(data).ok())?;
                Some((event.to_owned(), data?))
            })
            .collect()
    }

    /// The contents of the new messages that have been printed.
    fn messages(&self) -> Vec<Value> {
        self.events()
            .into_iter()
            .filter(|(event, _)| event == "message:new")
            .map(|(_, data)| data["message"]["content"].clone())
            .collect()
    }

    /// Waits until a message of this content is printed.
    async fn prints_message(&self, content: &str) {
        eventually(&format!("the example prints {content}"), SOON, || async {
            self.messages().contains(&json!(content)).then_some(())
        })
        .await;
    }

    /// Waits until the typing of another socket is printed, which the room alone is told.
    async fn sees_typing_of(&self, colleague: &mut Socket, contact: &str) {
        let typing = |line: &&String| line.starts_with("typing:indicator");
        let before = self.lines().iter().filter(typing).count();
        let conversation = json!({"conversationId": contact});
        let colleague = tokio::sync::Mutex::new(colleague);
        eventually("the example prints typing", SOON, || async {
            if self.lines().iter().filter(typing).count() > before {
                return Some(());
            }
            // The room may not have been joined yet, so the colleague begins again.
            let mut colleague = colleague.lock().await;
            colleague.send("typing:start", conversation.clone()).await;
            tokio::time::sleep(TYPING_PAUSE).await;
            colleague.send("typing:stop", conversation.clone()).await;
            None
        })
        .await;
    }
}

/// Between the frames of the colleague who types: a client may send 20 a second.
const TYPING_PAUSE: std::time::Duration = std::time::Duration::from_millis(250);

fn collect(output: impl AsyncRead + Unpin + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let lines = lines.clone();
    tokio::spawn(async move {
        let mut output = BufReader::new(output).lines();
        while let Ok(Some(line)) = output.next_line().await {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push(line);
        }
    });
}

/// An address that leads to a realtime node, and breaks every connection when it is led elsewhere.
struct Relay {
    url: String,
    node: watch::Sender<Option<String>>,
}

impl Relay {
    async fn start(node: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, mut node) = watch::channel(Some(address(node)));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let Some(address) = node.borrow_and_update().clone() else {
                    continue; // The connection is closed at once.
                };
                let mut node = node.clone();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(address).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = node.changed() => {}
                    }
                });
            }
        });
        Relay { url, node: sender }
    }

    /// Breaks all connections; new ones lead to this node, or nowhere.
    fn lead_to(&self, node: Option<&String>) {
        self.node.send_replace(node.map(|url| address(url)));
    }
}

fn address(url: &str) -> String {
    url.trim_start_matches("http://").to_owned()
}
