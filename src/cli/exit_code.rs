//! The one table of exit codes of `petbuddy`. The sentence that a user reads is the failure's own.

use std::process::ExitCode;

use crate::failure::Failure;

/// The table, as `petbuddy --help` shows it.
pub const TABLE: &str = "\
Exit codes:
  0  stopped as asked (Ctrl-C, SIGTERM, SIGHUP, end of input with --until-stdin-closes)
  1  something else failed; the sentence says what
  2  a wrong option or setting, or the folder is in use by another run
  3  a port is taken
  4  nats-server or mongod can neither be found nor fetched
  5  the folder cannot be written, or its disk is full
  6  a part did not become ready in time";

/// Turns the result of a subcommand into its exit code. A failure is printed to standard error.
pub fn of(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => of_failure(&failure),
    }
}

/// Prints the failure to standard error and returns its row of [`TABLE`].
pub fn of_failure(failure: &Failure) -> ExitCode {
    eprintln!("{failure}");
    ExitCode::from(match failure {
        Failure::Other(_) => 1,
        Failure::AlreadyRunning { .. } | Failure::Settings(_) => 2,
        Failure::PortsTaken(_) => 3,
        Failure::MissingProgram { .. } => 4,
        Failure::Storage { .. } | Failure::NoRoom(_) => 5,
        Failure::NotReady { .. } | Failure::KeepsEnding { .. } | Failure::NoAnswer(_) => 6,
    })
}
