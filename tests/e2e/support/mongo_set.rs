//! Three mongods as one replica set, and the faults that a test can bring upon them. Each member
//! has a loopback address of its own. Starts no service; see [`SystemOnSet`] for a whole system on
//! such a set.

use std::net::Ipv4Addr;
use std::process::Child;
use std::time::Duration;

use futures_util::future::join_all;
use mongodb::bson::{Document, doc};
use mongodb::options::{ClientOptions, ServerAddress};
use mongodb::{Client, Database};
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use super::cluster::{addresses, only_one, server_program, watched};
use super::{AFTER_FAULT, Folder, SOON, System, eventually, kill};

/// Members of a set.
const MEMBERS: usize = 3;
/// The port of each member.
const PORT: u16 = 27_017;
/// How long a member may take for a simple answer. A frozen member gives none.
pub const ANSWER: Duration = Duration::from_millis(500);
/// How long a member that has stepped down cannot be elected, in seconds. Three step-downs in a row
/// need members that can be elected.
const NO_PRIMARY_AGAIN: i32 = 2;

struct Member {
    address: Ipv4Addr,
    /// The running process; `None` while the member is down.
    child: Option<Child>,
    /// The member's own answers, whether it is primary or not.
    admin: Database,
}

/// The three members. Dropping the value ends them.
pub struct MongoSet {
    members: Vec<Member>,
    folder: Folder,
    _only: SemaphorePermit<'static>,
}

impl MongoSet {
    /// Starts the members and waits until one is primary and the others follow.
    pub async fn start() -> MongoSet {
        let only = only_one().await;
        let members = addresses::<MEMBERS>().map(|address| Member {
            address,
            child: None,
            admin: admin_of(address),
        });
        let mut set = MongoSet {
            members: members.into(),
            folder: Folder::new(),
            _only: only,
        };
        (0..MEMBERS).for_each(|n| set.launch(n));
        for n in 0..MEMBERS {
            let what = format!("{} answers", set.host(n));
            eventually(&what, SOON, || set.hello(n)).await;
        }
        let hosts = (0..MEMBERS).map(|n| doc! {"_id": n as i32, "host": set.host(n)});
        // A member that copies from another secondary stands still with it for seconds.
        let settings = doc! {"chainingAllowed": false};
        let members: Vec<_> = hosts.collect();
        let config = doc! {"_id": "rs0", "members": members, "settings": settings};
        let initiate = doc! {"replSetInitiate": config};
        set.members[0].admin.run_command(initiate).await.unwrap();
        // Otherwise the members wait for 10 s before they elect the first primary.
        set.step_up(0).await;
        for n in 0..MEMBERS {
            set.await_member(n).await;
        }
        set
    }

    /// `MONGODB_URI` of the set.
    pub fn uri(&self) -> String {
        let hosts: Vec<String> = (0..MEMBERS).map(|n| self.host(n)).collect();
        format!("mongodb://{}/petbuddy?replicaSet=rs0", hosts.join(","))
    }

    /// The database, as the primary has it.
    pub async fn database(&self) -> Database {
        let client = Client::with_uri_str(self.uri()).await.unwrap();
        client.default_database().unwrap()
    }

    /// The database, as one member has it: also writes that no other member has yet.
    pub fn database_of(&self, n: usize) -> Database {
        self.members[n].admin.client().database("petbuddy")
    }

    fn host(&self, n: usize) -> String {
        format!("{}:{PORT}", self.members[n].address)
    }

    fn launch(&mut self, n: usize) {
        let data = self.folder.0.join(format!("mongod-{n}"));
        std::fs::create_dir_all(&data).unwrap();
        let output = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.0.join(format!("mongod-{n}.out")))
            .unwrap();
        let child = watched(server_program("mongod"))
            .arg("--dbpath")
            .arg(data)
            .args(["--bind_ip", &self.members[n].address.to_string()])
            .args(["--port", &PORT.to_string()])
            .args(["--replSet", "rs0", "--nounixsocket"])
            .args(["--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "990"])
            // For `set_replication`.
            .args(["--setParameter", "enableTestCommands=1"])
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        self.members[n].child = Some(child);
    }

    /// What a member says of itself; `None` if it does not answer.
    async fn hello(&self, n: usize) -> Option<Document> {
        let hello = self.members[n].admin.run_command(doc! {"hello": 1});
        timeout(ANSWER, async { hello.await.ok() }).await.ok()?
    }

    /// Waits until a member is primary or follows the primary.
    async fn await_member(&self, n: usize) {
        let what = format!("{} is a member", self.host(n));
        eventually(&what, AFTER_FAULT, || async {
            let hello = self.hello(n).await?;
            (says(&hello, "isWritablePrimary") || says(&hello, "secondary")).then_some(())
        })
        .await;
    }

    /// The primary. Of two members that both call themselves primary, the one that was elected
    /// later.
    pub async fn primary(&self) -> usize {
        eventually("the set has a primary", AFTER_FAULT, || self.primary_now()).await
    }

    async fn primary_now(&self) -> Option<usize> {
        let answers = join_all((0..MEMBERS).map(|n| self.hello(n))).await;
        let primaries = answers.iter().enumerate().filter_map(|(n, hello)| {
            let hello = hello.as_ref().filter(|h| says(h, "isWritablePrimary"))?;
            // The term of the election is a part of its id.
            Some((hello.get_object_id("electionId").ok()?, n))
        });
        primaries.max().map(|(_, n)| n)
    }

    /// Makes the primary step down, and waits until another member is primary.
    pub async fn step_down(&self) {
        let old = self.primary().await;
        let command = doc! {
            "replSetStepDown": NO_PRIMARY_AGAIN, "secondaryCatchUpPeriodSecs": NO_PRIMARY_AGAIN,
        };
        eventually("another member is primary", AFTER_FAULT, || async {
            // Refused while no other member is up to date. A closed connection is an error as well.
            let _ = self.members[old].admin.run_command(command.clone()).await;
            (self.primary().await != old).then_some(())
        })
        .await;
    }

    /// Makes a member stand for election, and waits until this member is primary.
    pub async fn step_up(&self, n: usize) {
        let what = format!("{} is primary", self.host(n));
        eventually(&what, SOON, || async {
            let admin = &self.members[n].admin;
            // Refused while the member is not up to date.
            let _ = timeout(ANSWER, admin.run_command(doc! {"replSetStepUp": 1})).await;
            // Otherwise the member waits for what only a frozen member has.
            let _ = admin
                .run_command(doc! {"replSetAbortPrimaryCatchUp": 1})
                .await;
            (self.primary_now().await? == n).then_some(())
        })
        .await;
    }

    /// Stops or continues the replication to members, which otherwise work as usual. The primary
    /// then applies writes that these members do not have.
    pub async fn set_replication(&self, members: &[usize], is_on: bool) {
        let mode = if is_on { "off" } else { "alwaysOn" };
        for n in members {
            let command = doc! {"configureFailPoint": "stopReplProducer", "mode": mode};
            self.members[*n].admin.run_command(command).await.unwrap();
        }
    }

    /// Sends a signal to a member.
    pub fn signal(&self, signal: &str, n: usize) {
        let child = self.members[n].child.as_ref().unwrap();
        kill(signal, u64::from(child.id()));
    }

    /// Sends a signal that ends a member, and waits until it has ended.
    pub fn end(&mut self, signal: &str, n: usize) {
        self.signal(signal, n);
        let mut child = self.members[n].child.take().unwrap();
        child.wait().unwrap();
    }

    /// Starts a member that has ended, and waits until it follows the primary.
    pub async fn restart(&mut self, n: usize) {
        assert!(self.members[n].child.is_none(), "the member still runs");
        self.launch(n);
        self.await_member(n).await;
    }
}

impl Drop for MongoSet {
    fn drop(&mut self) {
        for child in self.members.iter_mut().filter_map(|m| m.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The members other than this one.
pub fn others(n: usize) -> [usize; MEMBERS - 1] {
    std::array::from_fn(|i| (n + 1 + i) % MEMBERS)
}

fn says(hello: &Document, what: &str) -> bool {
    hello.get_bool(what).unwrap_or_default()
}

/// The database `admin` of one server, whatever its place in a set.
fn admin_of(address: Ipv4Addr) -> Database {
    let host = ServerAddress::Tcp {
        host: address.to_string(),
        port: Some(PORT),
    };
    let mut options = ClientOptions::builder()
        .hosts(vec![host])
        .direct_connection(true)
        .build();
    options.server_selection_timeout = Some(ANSWER);
    Client::with_options(options).unwrap().database("admin")
}

/// A whole system on a set, with two gateways and two persisters. The log is one nats-server of the
/// runner.
pub struct SystemOnSet {
    // Dropped first: the services end before their database.
    pub system: System,
    pub set: MongoSet,
}

impl SystemOnSet {
    pub async fn start() -> SystemOnSet {
        SystemOnSet::start_with("").await
    }

    /// With more options of `MONGODB_URI`, such as `&readPreference=nearest`.
    pub async fn start_with(options: &str) -> SystemOnSet {
        let set = MongoSet::start().await;
        let uri = set.uri() + options;
        let arguments = ["--replicas", "gateway=2,persister=2"];
        let environment = [("MONGODB_URI", uri.as_str())];
        let system = System::start_with(Folder::new(), &arguments, &environment).await;
        SystemOnSet { system, set }
    }
}
