//! The whole system on this machine, for newcomers and for the tests alike: the order in which its
//! parts start and stop. Each step is a module of its own. No service runs in this process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use runtime::service::settings::{NatsSettings, Settings};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::stack::binaries::{MONGOD, NATS_SERVER, provide};
use crate::stack::child_output::LineFilter;
use crate::stack::console::Console;
use crate::stack::plan::{Options, Plan};
use crate::stack::run_file::{Demo, RunFile};
use crate::stack::secrets::Secrets;
use crate::stack::services::{self, EnvironmentSource, Service};
use crate::stack::shutdown::{self, Shutdown};
use crate::stack::state_dir::StateDir;

use crate::stack::supervisor::{ChildSpec, ChildStatus, Supervisor, Tier};
use crate::stack::{banner, demo, orphans, private_file, ready, setup};

/// The configuration of nats-server, the same as in a deployment.
const NATS_CONFIG: [(&str, &str); 2] = [
    ("single.conf", include_str!("../../nats/server/single.conf")),
    ("users.conf", include_str!("../../nats/server/users.conf")),
];
/// Memory for MongoDB's cache in GB. Without a limit mongod takes half of the machine's memory.
const MONGODB_CACHE_GB: &str = "1";
/// Disk for MongoDB's replication log in MB: the least that mongod accepts, as nothing replicates.
const MONGODB_OPLOG_MB: &str = "990";

/// Starts the system, keeps it running until it is asked to stop, and stops it.
///
/// # Errors
/// Something could not be started or stopped. Everything that was started is stopped then too.
pub async fn run(options: Options) -> Result<(), Failure> {
    let state_dir = StateDir::open(&options.dir)?;
    let console =
        Console::open().map_err(|e| Failure::Other(format!("no thread for the console: {e}")))?;
    let shutdown = shutdown::listen(&console, options.until_stdin_closes)
        .map_err(|e| Failure::Other(format!("signals: {e}")))?;
    let result = keep_running(&options, &state_dir, &console, &shutdown).await;
    console.flush();
    result
}

/// Starts everything, waits until the run is asked to end, and stops everything. A failed start
/// stops everything too.
async fn keep_running(
    options: &Options,
    state_dir: &StateDir,
    console: &Console,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    orphans::end(state_dir, console).await?;
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let secrets_file = state_dir.file("secrets.json");
    let (secrets, new) = Secrets::load(&secrets_file)?;
    if new {
        console.say(format!(
            "Made secrets for development, kept in {}",
            secrets_file.display()
        ));
    }
    let secrets = secrets.or_environment(|name| {
        environment
            .get(name)
            .filter(|value| !value.is_empty())
            .cloned()
    });
    let plan = Plan::make(options, &environment, &secrets, state_dir)?;
    let run_file = Arc::new(RunFile::open(state_dir).map_err(Failure::storage(state_dir.path()))?);
    let program = std::env::current_exe()
        .map_err(|e| Failure::Other(format!("this program cannot find itself: {e}")))?;
    let mut start = Start {
        state_dir,
        console,
        plan: &plan,
        secrets: &secrets,
        environment,
        program,
        supervisor: Supervisor::new(
            run_file.clone(),
            console.clone(),
            state_dir.logs(),
            options.verbose,
            shutdown.immediate.clone(),
        ),
    };
    let result = until(&shutdown.graceful, async {
        let mut run = plan.describe();
        run.demo = start.everything().await?;
        run_file
            .publish(run.clone())
            .map_err(Failure::storage(state_dir.path()))?;
        console.say(banner::text(
            &run,
            state_dir.path(),
            plan.bot_port.is_some(),
        ));
        shutdown.graceful.cancelled().await;
        Ok(())
    })
    .await;
    if result.is_err() && start.supervisor.has_children() {
        console.say("That did not work. Stopping what was started.");
    }
    drop(run_file.withdraw());
    start.supervisor.stop().await;
    run_file
        .close()
        .map_err(Failure::storage(state_dir.path()))?;
    if result.is_ok() {
        console.say("Stopped.");
    }
    result
}

/// Runs `work` until it ends or `stop` is cancelled. Being stopped is no failure.
async fn until(
    stop: &CancellationToken,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    stop.run_until_cancelled(work).await.unwrap_or(Ok(()))
}

/// The values that the steps of the start share.
struct Start<'a> {
    state_dir: &'a StateDir,
    console: &'a Console,
    plan: &'a Plan,
    secrets: &'a Secrets,
    environment: BTreeMap<String, String>,
    program: PathBuf,
    supervisor: Supervisor,
}

impl Start<'_> {
    async fn everything(&mut self) -> Result<Option<Demo>, Failure> {
        let client = ready::client()?;
        let logs = self.state_dir.logs();
        // One download after the other, because two progress bars at once cannot be read.
        let nats_server = match self.plan.nats_port {
            Some(port) => Some((port, provide(&NATS_SERVER, &logs, self.console).await?)),
            None => None,
        };
        let mongod = match self.plan.mongodb_port {
            Some(port) => Some((port, provide(&MONGOD, &logs, self.console).await?)),
            None => None,
        };
        self.console
            .say("Starting nats-server and mongod (or using those of NATS_URL and MONGODB_URI).");
        let nats_server = match nats_server {
            Some((port, program)) => Some((port, self.nats_server(port, program)?)),
            None => None,
        };
        let mongod = mongod.map(|(port, program)| (port, self.mongod(port, program)));
        tokio::try_join!(
            self.prepare_nats(nats_server.as_ref()),
            prepare_mongod(mongod.as_ref())
        )?;
        self.console.say("Starting the services.");
        if let Some(port) = self.plan.bot_port {
            let status = self.stub_bot(port);
            ready::wait("the stub bot", Some(&status), || ready::listens(port)).await?;
        }
        let statuses = self.services();
        for (replica, status) in self.plan.replicas.iter().zip(&statuses) {
            let base = format!("http://127.0.0.1:{}", replica.port);
            ready::wait(&replica.name, Some(status), || {
                ready::answers_ready(&client, &base)
            })
            .await?;
        }
        match demo::ensure(
            &client,
            &self.plan.url(Service::Gateway),
            &self.secrets.demo_password,
        )
        .await
        {
            Ok(demo) => Ok(Some(demo)),
            Err(why) => {
                self.console.say(format!("There is no demo login: {why}"));
                Ok(None)
            }
        }
    }

    fn nats_server(&mut self, port: u16, program: PathBuf) -> Result<ChildStatus, Failure> {
        let home = self.state_dir.nats();
        for (name, text) in NATS_CONFIG {
            let path = home.join(name);
            private_file::replace(&path, text).map_err(Failure::storage(&path))?;
        }
        let mut environment = services::base(&self.environment);
        environment.insert("NATS_PORT".into(), port.to_string());
        // The quotes keep the config from splitting a path with spaces or signs.
        environment.insert(
            "NATS_STORE_DIR".into(),
            format!("\"{}\"", text(&home.join("data"))),
        );
        for (user, password) in &self.secrets.nats {
            environment.insert(
                format!("NATS_{}_PASSWORD", user.to_uppercase()),
                password.clone(),
            );
        }
        Ok(self.supervisor.start(ChildSpec {
            name: NATS_SERVER.name.into(),
            tier: Tier::Server,
            program,
            arguments: vec!["-c".into(), home.join("single.conf").into()],
            environment,
            shown: LineFilter::NatsProblems,
        }))
    }

    fn mongod(&mut self, port: u16, program: PathBuf) -> ChildStatus {
        let arguments: [OsString; 13] = [
            "--dbpath".into(),
            self.state_dir.mongodb().into(),
            "--port".into(),
            port.to_string().into(),
            "--bind_ip".into(),
            "127.0.0.1".into(),
            "--replSet".into(),
            "rs0".into(),
            "--wiredTigerCacheSizeGB".into(),
            MONGODB_CACHE_GB.into(),
            "--oplogSize".into(),
            MONGODB_OPLOG_MB.into(),
            // The path of a socket file would be too long in a deep folder, and nobody uses it.
            "--nounixsocket".into(),
        ];
        self.supervisor.start(ChildSpec {
            name: MONGOD.name.into(),
            tier: Tier::Server,
            program,
            arguments: arguments.into(),
            environment: services::base(&self.environment),
            shown: LineFilter::MongodErrors,
        })
    }

    /// Starts this program as a child, with a subcommand. The arguments name the state folder, by
    /// which a later run recognises the child.
    fn own_child(
        &mut self,
        name: &str,
        tier: Tier,
        subcommand: &str,
        environment: BTreeMap<String, String>,
    ) -> ChildStatus {
        self.supervisor.start(ChildSpec {
            name: name.to_owned(),
            tier,
            program: self.program.clone(),
            arguments: vec![
                subcommand.into(),
                "--of".into(),
                self.state_dir.path().into(),
            ],
            environment,
            shown: LineFilter::ServiceProblems,
        })
    }

    fn stub_bot(&mut self, port: u16) -> ChildStatus {
        let mut environment = services::base(&self.environment);
        environment.insert("BOT_PORT".into(), port.to_string());
        self.own_child("bot", Tier::Bot, "stub-bot", environment)
    }

    fn services(&mut self) -> Vec<ChildStatus> {
        let source = EnvironmentSource {
            user: self.environment.clone(),
            log_dir: text(&self.state_dir.logs()),
            nats_url: self.plan.nats_url.clone(),
            nats_logins: self.plan.nats_logins.clone(),
            mongodb_uri: self.plan.mongodb_uri.clone(),
            bot_url: self.plan.bot_url.clone(),
            secrets: self.secrets,
        };
        let plan = self.plan;
        plan.replicas
            .iter()
            .map(|r| {
                self.own_child(
                    &r.name,
                    Tier::Service,
                    r.service.name(),
                    r.service.environment(r.port, &source),
                )
            })
            .collect()
    }

    async fn prepare_nats(&self, child: Option<&(u16, ChildStatus)>) -> Result<(), Failure> {
        if let Some((port, status)) = child {
            ready::wait("nats-server", Some(status), || ready::listens(*port)).await?;
        }
        let mut settings = Settings::load();
        let sizes = setup::sizes(&mut settings);
        settings
            .finish()
            .map_err(|e| Failure::Settings(e.to_string()))?;
        let login = self.plan.operator();
        let nats = NatsSettings {
            url: self.plan.nats_url.clone(),
            user: login.user,
            password: login.password.into(),
        };
        let report = setup::run(&nats, sizes).await?;
        if report.has_drift() {
            self.console.say(report.to_string().trim_end());
        }
        Ok(())
    }
}

async fn prepare_mongod(child: Option<&(u16, ChildStatus)>) -> Result<(), Failure> {
    let Some((port, status)) = child else {
        return Ok(());
    };
    ready::wait("mongod", Some(status), || ready::listens(*port)).await?;
    let host = format!("127.0.0.1:{port}");
    persister::initiate_replica_set(&host)
        .await
        .map_err(|e| Failure::Other(format!("mongod cannot be made a replica set: {e}")))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
