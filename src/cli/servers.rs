//! `petbuddy servers`: prints where the nats-server and the mongod are that `petbuddy up` starts,
//! for scripts and tests that run servers of their own. Fetches a missing program; starts none.

use std::process::ExitCode;

use crate::cli::exit_code;
use crate::failure::Failure;
use crate::stack::binaries::{MONGOD, NATS_SERVER, provide};
use crate::stack::console::Console;

/// Below the options in `petbuddy servers --help`.
pub const HELP: &str = "\
Prints one line for each program: its name, a space, its path.";

/// The whole subcommand.
pub async fn main() -> ExitCode {
    exit_code::of(run().await)
}

async fn run() -> Result<(), Failure> {
    let console =
        Console::open().map_err(|e| Failure::Other(format!("no thread for the console: {e}")))?;
    let logs = std::env::temp_dir();
    for server in [&NATS_SERVER, &MONGOD] {
        let program = provide(server, &logs, &console).await?;
        console.say(format!("{} {}", server.name, program.display()));
    }
    console.flush();
    Ok(())
}
