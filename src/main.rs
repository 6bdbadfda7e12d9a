//! `petbuddy`: runs the whole system on one machine, or one service of it, and is the operator's
//! command line. This file only chooses the subcommand. Under the name of a service, such as
//! `gateway`, the program runs that service.

mod cli;
mod failure;
mod stack;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tokio::runtime::Builder;

use cli::{audit, dead_letters, exit_code, health, jobs, servers, settings, setup, stub_bot, up};
use stack::plan;
use stack::services::Service;

/// Below the exit codes in `petbuddy up --help`.
const VARIABLES: &str = "\
Environment:
  PORT=4000 REALTIME_PORT=4001 PERSISTER_PORT=4010 FORWARDER_PORT=4020 SCHEDULER_PORT=4030
  BOT_PORT=5001 NATS_PORT=4222 MONGODB_PORT=27017      where the parts listen
  NATS_URL, MONGODB_URI, META_BOT_BASE_URL             used instead of a child, where set
  PETBUDDY_CACHE=~/.cache/petbuddy                     where fetched programs are kept
Settings of the services are passed on to them; see docs/operations.md.";

/// PetBuddy Messaging. Without a command: the whole system on this machine.
#[derive(Parser)]
#[command(
    name = "petbuddy",
    version,
    after_help = exit_code::TABLE,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    up: plan::Options,
}

#[derive(Subcommand)]
enum Command {
    /// Start the whole system on this machine (the default)
    #[command(after_help = format!("{VARIABLES}\n\n{}", exit_code::TABLE))]
    Up(plan::Options),
    /// Run one gateway: the REST API
    Gateway(Child),
    /// Run one persister: writes MongoDB, answers queries
    Persister(Child),
    /// Run one forwarder: delivers to the Meta bot
    Forwarder(Child),
    /// Run one scheduler: the jobs
    Scheduler(Child),
    /// Run one realtime node: the sockets
    Realtime(Child),
    /// Run the stand-in for the Meta bot, on BOT_PORT (5001) of the loopback address
    StubBot(Child),
    /// Bring streams, consumers and buckets of NATS_URL to the contract
    Setup,
    /// Compare log, database and deliveries; name everything that is missing or extra
    #[command(after_help = audit::HELP)]
    Audit(audit::Options),
    /// Messages that could not be processed: list, show, replay, discard
    #[command(after_help = dead_letters::HELP)]
    DeadLetters(dead_letters::Options),
    /// Each job of the schedulers: its last run, the result, its next run
    #[command(after_help = jobs::HELP)]
    Jobs(jobs::Options),
    /// Every setting of the services: name, default, accepted values, meaning
    Settings(settings::Options),
    /// Where the nats-server and the mongod are that `up` starts; fetches them if need be
    #[command(after_help = servers::HELP)]
    Servers,
    /// Ask a URL once: exit code 0 if it answers 2xx
    Health {
        /// Such as http://127.0.0.1:4000/health
        url: String,
    },
}

#[derive(Args)]
struct Child {
    /// The state folder of the run that started this process. A later run recognises it by that
    #[arg(long, hide = true, value_name = "DIR")]
    of: Option<PathBuf>,
}

fn main() -> ExitCode {
    // As the service's own binary, a link takes no options.
    let program = std::env::args_os().next().unwrap_or_default();
    if let Some(service) = Service::of_program(&program) {
        return service.main();
    }
    let cli = Cli::parse();
    match cli.command.unwrap_or(Command::Up(cli.up)) {
        Command::Up(options) => block_on(up::main(options)),
        Command::Gateway(_) => Service::Gateway.main(),
        Command::Persister(_) => Service::Persister.main(),
        Command::Forwarder(_) => Service::Forwarder.main(),
        Command::Scheduler(_) => Service::Scheduler.main(),
        Command::Realtime(_) => Service::Realtime.main(),
        Command::StubBot(_) => block_on(stub_bot::main()),
        Command::Setup => block_on(setup::main()),
        Command::Audit(options) => block_on(audit::main(options)),
        Command::DeadLetters(options) => block_on(dead_letters::main(options)),
        Command::Jobs(options) => block_on(jobs::main(options)),
        Command::Settings(options) => settings::main(&options),
        Command::Servers => block_on(servers::main()),
        Command::Health { url } => block_on(health::main(&url)),
    }
}

/// One thread is enough for the subcommands of this process. A service makes its own runtime.
fn block_on(work: impl Future<Output = ExitCode>) -> ExitCode {
    match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(e) => {
            eprintln!("no runtime: {e}");
            ExitCode::FAILURE
        }
    }
}
