//! `petbuddy setup`: brings streams, consumers and buckets of `NATS_URL` to the contract, for
//! deployments. The setup itself is `stack::setup`, which `petbuddy up` uses too.

use std::process::ExitCode;

use runtime::service::settings::{Common, Settings};
use runtime::setup::Report;

use crate::cli::exit_code;
use crate::failure::Failure;
use crate::stack::setup;

/// The whole subcommand.
pub async fn main() -> ExitCode {
    exit_code::of(run().await.map(|report| print!("{report}")))
}

async fn run() -> Result<Report, Failure> {
    let mut settings = Settings::load();
    let (common, sizes) = (
        Common::read(&mut settings, "operator"),
        setup::sizes(&mut settings),
    );
    settings
        .finish()
        .map_err(|problems| Failure::Settings(problems.to_string()))?;
    setup::run(&common.nats, sizes).await
}
