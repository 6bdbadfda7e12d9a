//! Three nats-servers with the deployment's `nats/server/cluster.conf`, and the faults that a test
//! can bring upon them. Each server has a loopback address of its own. Their routes pass through
//! proxies of this process, so that the link between two servers can be cut or held.
//! Starts no service; see [`ClusteredSystem`] for a whole system on such a cluster.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use reqwest::Client;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::{AFTER_FAULT, Folder, System, client, eventually, kill, petbuddy};

/// Servers of a cluster.
const SERVERS: usize = 3;
/// The users of `nats/server/users.conf`.
const USERS: [&str; 6] = [
    "gateway",
    "persister",
    "forwarder",
    "scheduler",
    "realtime",
    "operator",
];
/// The password of every user. It begins with a letter, as `users.conf` demands.
const PASSWORD: &str = "p-of-the-test-cluster";
/// An address at which nobody listens. Servers advertise it to each other. Otherwise they would
/// connect past the proxies.
const NOWHERE: &str = "127.0.0.1:1";
/// The first port of a server's proxies; the proxy to server `n` has this port plus `n`.
const PROXY_PORT: u16 = 7_000;

/// What a link between two servers does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Passes everything on.
    Open,
    /// Resets every connection and accepts none.
    Cut,
    /// Keeps the connections and passes nothing on.
    Held,
}

struct Server {
    name: String,
    address: Ipv4Addr,
    /// The running process; `None` while the server is down.
    child: Option<Child>,
}

/// The three servers. Dropping the value ends them.
pub struct Cluster {
    servers: Vec<Server>,
    /// The state of the link from one server to another.
    links: Vec<(usize, usize, watch::Sender<LinkState>)>,
    folder: Folder,
    http: Client,
}

impl Cluster {
    /// Starts the servers and waits until each is healthy.
    pub async fn start() -> Cluster {
        let servers = addresses::<SERVERS>()
            .into_iter()
            .enumerate()
            .map(|(n, address)| Server {
                name: format!("nats-{}", n + 1),
                address,
                child: None,
            })
            .collect();
        let mut cluster = Cluster {
            servers,
            links: Vec::new(),
            folder: Folder::new(),
            http: client(),
        };
        for from in 0..SERVERS {
            for to in (0..SERVERS).filter(|to| *to != from) {
                let (sender, state) = watch::channel(LinkState::Open);
                let listen = (cluster.servers[from].address, PROXY_PORT + to as u16);
                let target = cluster.servers[to].address;
                let bound = proxies().spawn(async move {
                    let listener = TcpListener::bind(listen).await.unwrap();
                    tokio::spawn(serve(listener, target, state));
                });
                bound.await.unwrap();
                cluster.links.push((from, to, sender));
            }
        }
        for n in 0..SERVERS {
            cluster.launch(n);
        }
        for n in 0..SERVERS {
            cluster.await_healthy(n).await;
        }
        cluster
    }

    /// `NATS_URL` of the whole cluster.
    pub fn url(&self) -> String {
        let urls: Vec<String> = (0..SERVERS).map(|n| self.url_of(n)).collect();
        urls.join(",")
    }

    /// `NATS_URL` of one server.
    pub fn url_of(&self, n: usize) -> String {
        format!("nats://{}:4222", self.servers[n].address)
    }

    /// The environment with which a runner uses this cluster.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut environment = vec![
            ("NATS_URL".to_owned(), self.url()),
            ("NATS_REPLICAS".to_owned(), SERVERS.to_string()),
        ];
        environment.extend(passwords());
        environment
    }

    fn launch(&mut self, n: usize) {
        let server = &self.servers[n];
        let data = self.folder.0.join(&server.name);
        std::fs::create_dir_all(&data).unwrap();
        let output = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.0.join(format!("{}.out", server.name)))
            .unwrap();
        let routes: Vec<String> = (0..SERVERS)
            .filter(|to| *to != n)
            .map(|to| {
                let port = usize::from(PROXY_PORT) + to;
                format!(
                    "\"nats-route://route:{PASSWORD}@{}:{port}\"",
                    server.address
                )
            })
            .collect();
        let config = concat!(env!("CARGO_MANIFEST_DIR"), "/nats/server/cluster.conf");
        let address = server.address.to_string();
        let child = watched(server_program("nats-server"))
            .args(["-c", config, "-a", &address])
            .args([
                "--cluster",
                &format!("nats://route:{PASSWORD}@{address}:6222"),
            ])
            .args(["--cluster_advertise", NOWHERE])
            .env("NATS_SERVER_NAME", &server.name)
            .env("NATS_STORE_DIR", format!("\"{}\"", data.display()))
            .env("NATS_ROUTES", format!("[{}]", routes.join(",")))
            .env("NATS_ROUTE_PASSWORD", PASSWORD)
            .env("NATS_MAX_FILE_STORE", "16GB")
            .envs(passwords())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        self.servers[n].child = Some(child);
    }

    /// Waits until a server says that it is healthy: connected, and up to date with the others.
    pub async fn await_healthy(&self, n: usize) {
        let url = format!("http://{}:8222/healthz", self.servers[n].address);
        let what = format!("{} is healthy", self.servers[n].name);
        eventually(&what, AFTER_FAULT, || async {
            let pid = self.servers[n].child.as_ref().unwrap().id();
            let runs = std::path::Path::new(&format!("/proc/{pid}/exe")).exists();
            assert!(
                runs,
                "{what}: it has ended; see {}",
                self.folder.0.display()
            );
            let answer = self.http.get(&url).send().await.ok()?;
            answer.error_for_status().ok()
        })
        .await;
    }

    /// Sends a signal to a server.
    pub fn signal(&self, signal: &str, n: usize) {
        let child = self.servers[n].child.as_ref().unwrap();
        kill(signal, u64::from(child.id()));
    }

    /// Sends a signal that ends a server, and waits until it has ended.
    pub fn end(&mut self, signal: &str, n: usize) {
        self.signal(signal, n);
        let mut child = self.servers[n].child.take().unwrap();
        child.wait().unwrap();
    }

    /// Starts a server that has ended.
    pub fn restart(&mut self, n: usize) {
        assert!(self.servers[n].child.is_none(), "the server still runs");
        self.launch(n);
    }

    /// Sets the state of the link between two servers, in both directions.
    pub fn set_link(&self, a: usize, b: usize, state: LinkState) {
        for (from, to, sender) in &self.links {
            if [(a, b), (b, a)].contains(&(*from, *to)) {
                sender.send_replace(state);
            }
        }
    }

    /// The server of this name.
    pub fn number(&self, name: &str) -> usize {
        let found = self.servers.iter().position(|s| s.name == name);
        found.unwrap_or_else(|| panic!("no server {name}"))
    }

    /// The names of the clients that are connected to a server.
    pub async fn clients_of(&self, n: usize) -> Vec<String> {
        let url = format!("http://{}:8222/connz", self.servers[n].address);
        let answer = self.http.get(url).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        let connections = answer["connections"].as_array().unwrap();
        let names = connections.iter().filter_map(|c| c["name"].as_str());
        names.map(str::to_owned).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.servers.iter_mut().filter_map(|s| s.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Loopback addresses that no other server has.
pub fn addresses<const N: usize>() -> [Ipv4Addr; N] {
    // The first servers of all test processes of a machine get different addresses.
    static COUNT: AtomicU8 = AtomicU8::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    let second = 64 + high % 128;
    let fourth = 16 * COUNT.fetch_add(1, Ordering::Relaxed);
    std::array::from_fn(|n| Ipv4Addr::new(127, second, low, fourth + 1 + n as u8))
}

/// `NATS_<USER>_PASSWORD` of every user.
fn passwords() -> Vec<(String, String)> {
    USERS
        .iter()
        .map(|user| {
            let name = format!("NATS_{}_PASSWORD", user.to_uppercase());
            (name, PASSWORD.to_owned())
        })
        .collect()
}

/// A server program that `petbuddy up` starts, by its name in `petbuddy servers`.
pub fn server_program(name: &str) -> PathBuf {
    static PRINTED: OnceLock<String> = OnceLock::new();
    let printed = PRINTED.get_or_init(|| {
        let output = petbuddy().arg("servers").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    });
    let mut lines = printed.lines().filter_map(|line| line.split_once(' '));
    let found = lines.find(|(of, _)| *of == name);
    let (_, path) = found.unwrap_or_else(|| panic!("no {name} in {printed}"));
    path.into()
}

/// A command that runs a server until this process ends for any reason. The standard input of the
/// command belongs to its watcher, which kills the server at the end of the input.
pub fn watched(program: PathBuf) -> Command {
    let watch = "exec 3<&0; (cat <&3 >/dev/null; kill -KILL $$) & exec \"$@\" 3<&- </dev/null";
    let mut command = Command::new("sh");
    command.args(["-c", watch, "sh"]).arg(program);
    command.stdin(Stdio::piped());
    command
}

/// The runtime of the proxies. It outlives the test that starts a cluster, because tests share one.
fn proxies() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

/// The proxy of a link in one direction.
async fn serve(listener: TcpListener, target: Ipv4Addr, state: watch::Receiver<LinkState>) {
    loop {
        let Ok((from, _)) = listener.accept().await else {
            continue;
        };
        if *state.borrow() == LinkState::Cut {
            let _ = from.set_zero_linger();
            continue;
        }
        let state = state.clone();
        tokio::spawn(async move {
            let Ok(to) = TcpStream::connect((target, 6222)).await else {
                return;
            };
            pass_on(&from, &to, state).await;
            // A reset rather than an orderly end, as a broken link makes it.
            let _ = (from.set_zero_linger(), to.set_zero_linger());
        });
    }
}

/// Passes bytes on in both directions, until one side ends or the link is cut.
async fn pass_on(from: &TcpStream, to: &TcpStream, state: watch::Receiver<LinkState>) {
    let mut watched = state.clone();
    tokio::select! {
        _ = watched.wait_for(|state| *state == LinkState::Cut) => {}
        () = copy(from, to, state.clone()) => {}
        () = copy(to, from, state.clone()) => {}
    }
}

async fn copy(from: &TcpStream, to: &TcpStream, mut state: watch::Receiver<LinkState>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if state
            .wait_for(|state| *state != LinkState::Held)
            .await
            .is_err()
            || from.readable().await.is_err()
        {
            return;
        }
        let now = *state.borrow();
        if now == LinkState::Held {
            continue;
        }
        let read = match from.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => read,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            if to.writable().await.is_err() {
                return;
            }
            match to.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// A whole system on a cluster, with two replicas or more of each service. The database is one
/// mongod of the runner.
pub struct ClusteredSystem {
    // Dropped first: the services end before their servers.
    pub system: System,
    pub cluster: Cluster,
    _only: SemaphorePermit<'static>,
}

/// A permit for a system with three servers of one kind. Tests run side by side, and two such systems
/// at once would be too much for two cores.
pub async fn only_one() -> SemaphorePermit<'static> {
    static ONE: Semaphore = Semaphore::const_new(1);
    ONE.acquire().await.unwrap()
}

impl ClusteredSystem {
    pub async fn start() -> ClusteredSystem {
        ClusteredSystem::start_with(&[]).await
    }

    /// With more environment.
    pub async fn start_with(environment: &[(&str, &str)]) -> ClusteredSystem {
        let only = only_one().await;
        let cluster = Cluster::start().await;
        let of_cluster = cluster.environment();
        let environment: Vec<(&str, &str)> = of_cluster
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .chain(environment.iter().copied())
            .collect();
        let replicas = "gateway=2,persister=2,forwarder=2,scheduler=2,realtime=2";
        let arguments = ["--replicas", replicas];
        let system = System::start_with(Folder::new(), &arguments, &environment).await;
        ClusteredSystem {
            system,
            cluster,
            _only: only,
        }
    }

    /// The server that leads a stream.
    pub async fn leader_of(&self, stream: &str) -> usize {
        let jetstream = self.system.operator().await;
        let name = eventually(&format!("{stream} has a leader"), AFTER_FAULT, || async {
            let stream = jetstream.get_stream(stream).await.ok()?;
            stream.cached_info().cluster.as_ref()?.leader.clone()
        })
        .await;
        self.cluster.number(&name)
    }
}
