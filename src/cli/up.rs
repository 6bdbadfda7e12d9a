//! `petbuddy up`: the whole system on this machine. The run itself is `stack::up`.

use std::process::ExitCode;

use crate::cli::exit_code;
use crate::stack::plan::Options;
use crate::stack::up;

/// The whole subcommand.
pub async fn main(options: Options) -> ExitCode {
    exit_code::of(up::run(options).await)
}
