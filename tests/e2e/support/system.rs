//! The system under test: the `petbuddy` binary on free ports in a folder of its own, and small
//! clients of it. When the test process ends for any reason, the runner's standard input closes and
//! the runner stops all of its processes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, interval};

use super::delivery::BotCall;
use super::{AFTER_FAULT, SOON, Staff, eventually};

/// How long a start may take. Because the first start on a machine downloads nats-server and mongod
/// and the others wait for it, this is long.
pub const START: Duration = Duration::from_secs(660);
/// Settings of this shell that a system under test must not get: tests drop databases and delete
/// consumers.
const SETTINGS: &[&str] = &[
    "NATS_",
    "MONGODB_",
    "META_BOT_",
    "PETBUDDY_CONFIG",
    "NODE_ENV",
    "LOG_",
    "HOST",
    "PORT",
    "BOT_PORT",
    "GATEWAY_",
    "PERSISTER_",
    "FORWARDER_",
    "SCHEDULER_",
    "REALTIME_",
    "JWT_",
    "INTERNAL_",
    "ENCRYPTION_",
    "EVENTS_MAX_BYTES",
    "MAX_",
    "RATE_LIMIT_",
    "TRUSTED_PROXIES",
    "CORS_ORIGINS",
    "TOKEN_REFRESH_",
    "SLA_SWEEP_",
    "BOT_PROBE_",
    "BOT_RESUME_",
    "DEAD_LETTER_DIGEST_",
    "SOCKET_",
    "FACEBOOK_",
    "GOOGLE_",
    "ACCESS_TOKEN_",
    "REFRESH_TOKEN_",
    "FRONTEND_URL",
];
/// A folder that is removed when the value is dropped, but kept after a failed test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static SWEPT: OnceLock<()> = OnceLock::new();
        SWEPT.get_or_init(Folder::sweep);
        let name = format!(
            "e2e-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Folder {
    /// Removes the folders that ended test processes left behind: those of failed tests and of the
    /// shared system.
    fn sweep() {
        for entry in std::fs::read_dir(env!("CARGO_TARGET_TMPDIR"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().into_string().unwrap_or_default();
            let of = name
                .strip_prefix("e2e-")
                .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            if of.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "the files of the failed system are kept in {}",
                self.0.display()
            );
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// A running system.
pub struct System {
    child: Child,
    pub folder: Folder,
    pub run: Value,
    pub http: Client,
}

impl System {
    /// Starts a system and waits until it is ready.
    pub async fn start(args: &[&str]) -> System {
        System::start_with(Folder::new(), args, &[]).await
    }

    /// Starts a system in this folder, which may contain an earlier run, with more environment.
    pub async fn start_with(folder: Folder, args: &[&str], environment: &[(&str, &str)]) -> System {
        let _ = std::fs::remove_file(folder.0.join("run.json"));
        let child = runner(&folder.0, args, environment);
        let mut system = System {
            child,
            folder,
            run: Value::Null,
            http: client(),
        };
        let path = system.folder.0.join("run.json");
        let console = system.folder.0.join("console.txt");
        let child = &mut system.child;
        let deadline = Instant::now() + START;
        let mut tick = interval(Duration::from_millis(100));
        system.run = loop {
            tick.tick().await;
            if let Some(run) = std::fs::read(&path)
                .ok()
                .and_then(|text| serde_json::from_slice(&text).ok())
            {
                break run;
            }
            let ended = child.try_wait().unwrap();
            let said = || std::fs::read_to_string(&console).unwrap_or_default();
            assert!(
                ended.is_none(),
                "the runner ended with {ended:?}:\n{}",
                said()
            );
            assert!(
                Instant::now() < deadline,
                "not ready within {START:?}:\n{}",
                said()
            );
        };
        system
    }

    /// The system that tests without faults share. It runs until the test process ends.
    pub async fn shared() -> &'static System {
        static SHARED: tokio::sync::OnceCell<System> = tokio::sync::OnceCell::const_new();
        SHARED
            .get_or_init(|| {
                System::start(&[
                    "--replicas",
                    "gateway=2,persister=2,realtime=3,scheduler=2,forwarder=2",
                ])
            })
            .await
    }

    /// An address of `run.json`.
    pub fn url(&self, name: &str) -> String {
        self.run[name]
            .as_str()
            .unwrap_or_else(|| panic!("run.json has no {name}"))
            .to_owned()
    }

    /// The URLs of a service's replicas.
    pub fn services(&self, name: &str) -> Vec<String> {
        self.run["services"][name]
            .as_array()
            .unwrap()
            .iter()
            .map(|u| u.as_str().unwrap().to_owned())
            .collect()
    }

    /// The current pid of a process; the supervisor gives a restarted one a new pid.
    pub fn pid(&self, name: &str) -> Option<u64> {
        let text = std::fs::read(self.folder.0.join("run.json")).ok()?;
        serde_json::from_slice::<Value>(&text).ok()?["pids"][name].as_u64()
    }

    /// Sends a signal to a process of the system.
    pub fn signal(&self, signal: &str, name: &str) -> u64 {
        let pid = self
            .pid(name)
            .unwrap_or_else(|| panic!("no process {name}"));
        kill(signal, pid);
        pid
    }

    /// Kills a process with SIGKILL and waits until the supervisor has restarted it.
    pub async fn kill_and_await_restart(&self, name: &str) {
        let old = self.signal("-KILL", name);
        eventually(&format!("{name} is restarted"), AFTER_FAULT, || async {
            self.pid(name).filter(|pid| *pid != old)
        })
        .await;
    }

    /// Waits until every service says it is ready.
    pub async fn await_ready(&self) {
        for name in ["gateway", "persister", "forwarder", "scheduler", "realtime"] {
            for url in self.services(name) {
                eventually(&format!("{name} is ready"), AFTER_FAULT, || async {
                    let answer = self.http.get(format!("{url}/ready")).send().await.ok()?;
                    (answer.status() == StatusCode::OK).then_some(())
                })
                .await;
            }
        }
    }

    /// A new company without platform tokens, and a manager of it.
    pub async fn new_unconnected_company(&self) -> Staff<'_> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let email = format!(
            "manager{}-{}@example.com",
            COUNT.fetch_add(1, Ordering::Relaxed),
            std::process::id()
        );
        let body = json!({"company_name": "Test Clinic", "fullName": "Test Manager", "email": email, "password": "correct horse"});
        let (status, answer) = self
            .request(Method::POST, "/auth/register", None, Some(&body))
            .await;
        // 202 says that the view does not show the company yet. Then a login may have to wait.
        let is_known = [StatusCode::CREATED, StatusCode::ACCEPTED].contains(&status);
        assert!(is_known, "{status} {answer}");
        let credentials = json!({"email": email, "password": "correct horse"});
        let login = eventually("the manager logs in", SOON, || async {
            let login = self.request(Method::POST, "/auth/login", None, Some(&credentials));
            let (status, login) = login.await;
            let is_behind = status == StatusCode::SERVICE_UNAVAILABLE;
            assert!(status == StatusCode::OK || is_behind, "{status} {login}");
            (status == StatusCode::OK).then_some(login)
        })
        .await;
        let token = login["accessToken"].as_str().unwrap().to_owned();
        Staff {
            system: self,
            token,
            company: answer["company"]["_id"].as_str().unwrap().to_owned(),
        }
    }

    /// A company with tokens for the platforms that the bot serves, so that its operators' messages
    /// are delivered.
    pub async fn new_company(&self) -> Staff<'_> {
        let staff = self.new_unconnected_company().await;
        for platform in ["facebook", "instagram"] {
            let body = json!({"access_token": staff.token_for(platform)});
            let (status, answer) = self
                .request(
                    Method::PUT,
                    &format!("/integrations/{platform}"),
                    Some(&staff.token),
                    Some(&body),
                )
                .await;
            // 202 says that the view does not show the token yet. Messages wait for it.
            let is_stored = [StatusCode::OK, StatusCode::ACCEPTED].contains(&status);
            assert!(is_stored, "{status} {answer}");
        }
        staff
    }

    /// A REST request.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> (StatusCode, Value) {
        let mut request = self
            .http
            .request(method, format!("{}/api/v1{path}", self.url("gateway")));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        match request.send().await {
            Ok(answer) => (answer.status(), answer.json().await.unwrap_or_default()),
            Err(e) => panic!("{path}: {e}"),
        }
    }

    /// A secret of this run, by its name in `secrets.json`.
    pub fn secret(&self, name: &str) -> String {
        let text = std::fs::read(self.folder.0.join("secrets.json")).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()[name]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Signs an access token of any user, without a login, which expires after `seconds`.
    pub fn token(&self, company: &str, user: &str, seconds: u64) -> String {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let claims = json!({"userId": user, "companyId": company, "role": "receptionist", "iat": now, "exp": now + seconds});
        let key = jsonwebtoken::EncodingKey::from_secret(self.secret("jwt_access").as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    }

    /// JetStream, as the user `operator`.
    pub async fn operator(&self) -> jetstream::Context {
        let user = self.run["operator"]["user"].as_str().unwrap().to_owned();
        let password = self.run["operator"]["password"]
            .as_str()
            .unwrap()
            .to_owned();
        let options = async_nats::ConnectOptions::new().user_and_password(user, password);
        let url = self.url("nats");
        let servers: Vec<&str> = url.split(',').collect();
        jetstream::new(options.connect(servers).await.unwrap())
    }

    /// The database.
    pub async fn database(&self) -> mongodb::Database {
        mongodb::Client::with_uri_str(self.url("mongodb"))
            .await
            .unwrap()
            .default_database()
            .unwrap()
    }

    /// `petbuddy` with these arguments, as the operator of this system.
    pub fn petbuddy_as_operator(&self, args: &[&str]) -> Command {
        let mut command = petbuddy();
        command
            .args(args)
            .env("NATS_URL", self.url("nats"))
            .env("NATS_USER", self.run["operator"]["user"].as_str().unwrap());
        command.env(
            "NATS_PASSWORD",
            self.run["operator"]["password"].as_str().unwrap(),
        );
        command
    }

    /// The exit code and the report of `petbuddy audit`.
    pub fn audit(&self, args: &[&str]) -> (Option<i32>, Value) {
        let output = self
            .petbuddy_as_operator(&[&["audit", "--json"], args].concat())
            .output()
            .unwrap();
        let report = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| json!(String::from_utf8_lossy(&output.stderr)));
        (output.status.code(), report)
    }

    /// Asserts by `petbuddy audit` that log, database and deliveries agree.
    pub fn assert_audit_clean(&self) -> Value {
        let (code, report) = self.audit(&[]);
        assert_eq!(code, Some(0), "{report}");
        report
    }

    /// All calls that the stub bot has received, in order of arrival.
    pub async fn bot_calls(&self) -> Vec<BotCall> {
        let mut all: Vec<BotCall> = Vec::new();
        loop {
            let after = all.last().map_or(0, |call| call.n);
            let url = format!("{}/stub/deliveries?after={after}", self.url("bot"));
            let page: Vec<BotCall> = self
                .http
                .get(url)
                .send()
                .await
                .unwrap()
                .json()
                .await
                .unwrap();
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }

    /// Changes how the stub bot answers.
    pub async fn bot_mode(&self, mode: Value) {
        let answer = self
            .http
            .post(format!("{}/stub/mode", self.url("bot")))
            .json(&mode)
            .send()
            .await
            .unwrap();
        assert!(
            answer.status().is_success(),
            "{}",
            answer.text().await.unwrap()
        );
    }

    /// The output of the runner and of its children.
    pub fn console(&self) -> String {
        std::fs::read_to_string(self.folder.0.join("console.txt")).unwrap_or_default()
    }

    /// Stops the runner with SIGTERM and returns its exit code.
    pub async fn stop(mut self) -> (Option<i32>, Folder) {
        kill("-TERM", u64::from(self.child.id()));
        let status = eventually("the runner stops", Duration::from_secs(60), || {
            let status = self.child.try_wait().unwrap();
            async move { status }
        })
        .await;
        let folder = std::mem::replace(&mut self.folder, Folder::new());
        (status.code(), folder)
    }

    /// Kills the runner and leaves its children running.
    pub async fn kill_runner(mut self) -> Folder {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.folder, Folder::new())
    }
}

impl Drop for System {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // the runner sees the end of its input, and stops everything
        let _ = self.child.wait();
    }
}

/// Starts the runner; its output goes to `console.txt` in the folder.
pub fn runner(folder: &Path, args: &[&str], environment: &[(&str, &str)]) -> Child {
    let console = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("console.txt"))
        .unwrap();
    let mut command = petbuddy();
    command
        .args(["up", "--free-ports", "--until-stdin-closes", "--dir"])
        .arg(folder)
        .args(args)
        .env("BCRYPT_SALT_ROUNDS", "10")
        // No rate limits: tests send more requests than people. The tests of the limits set them.
        .envs(
            [
                "RATE_LIMIT_MAX",
                "RATE_LIMIT_SERVICE_MAX",
                "RATE_LIMIT_AUTH_MAX",
            ]
            .map(|limit| (limit, "0")),
        )
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(console.try_clone().unwrap())
        .stderr(console);
    command.spawn().unwrap()
}

/// The `petbuddy` binary, without the settings of this shell's environment.
pub fn petbuddy() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_petbuddy"));
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| SETTINGS.iter().any(|setting| name.starts_with(setting)))
        {
            command.env_remove(name);
        }
    }
    command
}

/// Sends a signal to a process.
pub fn kill(signal: &str, pid: u64) {
    let status = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success(), "kill {signal} {pid}");
}

/// An HTTP client that keeps no idle connection. Because each test has a tokio runtime of its own,
/// a kept connection would end with the runtime of the test that opened it.
pub fn client() -> Client {
    static PROVIDER: OnceLock<()> = OnceLock::new();
    PROVIDER.get_or_init(|| drop(rustls::crypto::ring::default_provider().install_default()));
    Client::builder()
        .timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(0)
        .build()
        .unwrap()
}
