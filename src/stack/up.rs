//! `petbuddy up`: the whole system on this machine, for newcomers and for the tests alike. It says
//! in which order things start and stop; each step is a module of its own. No service runs in this
//! process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use runtime::service::settings::{NatsSettings, Settings};
use tokio_util::sync::CancellationToken;

use crate::cli::exit_code::Failure;
use crate::cli::setup;
use crate::stack::binaries::{MONGOD, NATS_SERVER, provide};
use crate::stack::child_output::Lines;
use crate::stack::console::Console;
use crate::stack::plan::{Options, Plan};
use crate::stack::run_file::Board;
use crate::stack::secrets::Secrets;
use crate::stack::services::{self, Service, Setting};
use crate::stack::state_dir::{Folder, write_private};
use crate::stack::supervisor::{Spec, Supervisor, Tier, Watch};
use crate::stack::{banner, demo, orphans, ready, shutdown};

/// The configuration of nats-server, as it is deployed.
const NATS_CONFIG: [(&str, &str); 2] = [
    ("single.conf", include_str!("../../nats/server/single.conf")),
    ("users.conf", include_str!("../../nats/server/users.conf")),
];
/// Memory for MongoDB's cache, GB: a laptop does other things too.
const MONGODB_CACHE_GB: &str = "1";
/// Disk for MongoDB's replication log, MB. Nobody replicates here.
const MONGODB_OPLOG_MB: &str = "990";

/// The whole subcommand.
pub async fn main(options: Options) -> ExitCode {
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.code()
        }
    }
}

async fn run(options: Options) -> Result<(), Failure> {
    let folder = Folder::open(&options.dir)?;
    let console =
        Console::open().map_err(|e| Failure::Other(format!("no thread for the console: {e}")))?;
    let stop = shutdown::listen(&console, options.until_stdin_closes)
        .map_err(|e| Failure::Other(format!("signals: {e}")))?;
    let result = hold(&options, &folder, &console, &stop).await;
    console.flush();
    result
}

/// Starts everything, holds it until the stop, and stops everything, also after a failure.
async fn hold(
    options: &Options,
    folder: &Folder,
    console: &Console,
    stop: &shutdown::Stop,
) -> Result<(), Failure> {
    orphans::end(folder, console).await?;
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let secrets_file = folder.file("secrets.json");
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
    let plan = Plan::make(options, &environment, &secrets, folder)?;
    let board = Arc::new(Board::open(folder).map_err(Failure::storage(folder.path()))?);
    let program = std::env::current_exe()
        .map_err(|e| Failure::Other(format!("this program cannot find itself: {e}")))?;
    let mut start = Start {
        folder,
        console,
        plan: &plan,
        secrets: &secrets,
        environment,
        program,
        supervisor: Supervisor::new(
            board.clone(),
            console.clone(),
            folder.logs(),
            options.verbose,
            stop.at_once.clone(),
        ),
    };
    let result = until(&stop.gently, async {
        let mut run = plan.describe();
        run.demo = start.everything().await?;
        board
            .publish(run.clone())
            .map_err(Failure::storage(folder.path()))?;
        console.say(banner::page(&run, folder.path(), plan.bot_port.is_some()));
        stop.gently.cancelled().await;
        Ok(())
    })
    .await;
    if result.is_err() && start.supervisor.has_children() {
        console.say("That did not work. Stopping what was started.");
    }
    drop(board.withdraw());
    start.supervisor.stop().await;
    board.close().map_err(Failure::storage(folder.path()))?;
    if result.is_ok() {
        console.say("Stopped.");
    }
    result
}

/// The work, broken off by the stop, which is no failure.
async fn until(
    stop: &CancellationToken,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    stop.run_until_cancelled(work).await.unwrap_or(Ok(()))
}

/// What the steps of the start have in common.
struct Start<'a> {
    folder: &'a Folder,
    console: &'a Console,
    plan: &'a Plan,
    secrets: &'a Secrets,
    environment: BTreeMap<String, String>,
    program: PathBuf,
    supervisor: Supervisor,
}

impl Start<'_> {
    async fn everything(&mut self) -> Result<Option<crate::stack::run_file::Demo>, Failure> {
        let client = ready::client()?;
        let logs = self.folder.logs();
        // One after the other: two progress bars at once cannot be read.
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
            let watch = self.stub_bot(port);
            ready::wait("the stub bot", Some(&watch), || ready::listens(port)).await?;
        }
        let watches = self.services();
        for (replica, watch) in self.plan.replicas.iter().zip(&watches) {
            let base = format!("http://127.0.0.1:{}", replica.port);
            ready::wait(&replica.name, Some(watch), || {
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

    fn nats_server(&mut self, port: u16, program: PathBuf) -> Result<Watch, Failure> {
        let home = self.folder.nats();
        for (name, text) in NATS_CONFIG {
            let path = home.join(name);
            write_private(&path, text).map_err(Failure::storage(&path))?;
        }
        let mut environment = services::base(&self.environment);
        environment.insert("NATS_PORT".into(), port.to_string());
        // Quoted: the config would take a path with spaces or signs apart.
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
        Ok(self.supervisor.start(Spec {
            name: NATS_SERVER.name.into(),
            tier: Tier::Part,
            program,
            arguments: vec!["-c".into(), home.join("single.conf").into()],
            environment,
            lines: Lines::NatsProblems,
        }))
    }

    fn mongod(&mut self, port: u16, program: PathBuf) -> Watch {
        let arguments: [OsString; 13] = [
            "--dbpath".into(),
            self.folder.mongodb().into(),
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
            // Its path would be too long in a deep folder, and nobody uses it.
            "--nounixsocket".into(),
        ];
        self.supervisor.start(Spec {
            name: MONGOD.name.into(),
            tier: Tier::Part,
            program,
            arguments: arguments.into(),
            environment: services::base(&self.environment),
            lines: Lines::MongodErrors,
        })
    }

    /// A child that is this program, with a subcommand. It names the folder, by which a later run
    /// knows it.
    fn own(
        &mut self,
        name: &str,
        tier: Tier,
        subcommand: &str,
        environment: BTreeMap<String, String>,
    ) -> Watch {
        self.supervisor.start(Spec {
            name: name.to_owned(),
            tier,
            program: self.program.clone(),
            arguments: vec![subcommand.into(), "--of".into(), self.folder.path().into()],
            environment,
            lines: Lines::ServiceProblems,
        })
    }

    fn stub_bot(&mut self, port: u16) -> Watch {
        let mut environment = services::base(&self.environment);
        environment.insert("BOT_PORT".into(), port.to_string());
        self.own("bot", Tier::Bot, "stub-bot", environment)
    }

    fn services(&mut self) -> Vec<Watch> {
        let setting = Setting {
            user: self.environment.clone(),
            log_dir: text(&self.folder.logs()),
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
                self.own(
                    &r.name,
                    Tier::Service,
                    r.service.name(),
                    r.service.environment(r.port, &setting),
                )
            })
            .collect()
    }

    async fn prepare_nats(&self, child: Option<&(u16, Watch)>) -> Result<(), Failure> {
        if let Some((port, watch)) = child {
            ready::wait("nats-server", Some(watch), || ready::listens(*port)).await?;
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

async fn prepare_mongod(child: Option<&(u16, Watch)>) -> Result<(), Failure> {
    let Some((port, watch)) = child else {
        return Ok(());
    };
    ready::wait("mongod", Some(watch), || ready::listens(*port)).await?;
    let host = format!("127.0.0.1:{port}");
    persister::initiate_replica_set(&host)
        .await
        .map_err(|e| Failure::Other(format!("mongod cannot be made a replica set: {e}")))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
