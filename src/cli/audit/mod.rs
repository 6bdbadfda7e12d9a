//! `petbuddy audit`: compares the log, MongoDB and the deliveries of a live system, and names every
//! message that is in one of them and missing in another. Reads page by page and changes nothing.
//! `judge` decides what counts as a difference.

mod judge;
mod pages;
mod run;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use contract::{Id, Timestamp};
use runtime::net::connection::Connection;
use runtime::service::settings::{Common, NatsSettings, Settings};
use tokio::time::{Instant, interval};

use judge::Report;

/// How long the audit waits for a connection to NATS. After that it fails.
const CONNECT: Duration = Duration::from_secs(10);
/// Pause between two looks whether there is a connection.
const PAUSE: Duration = Duration::from_millis(50);
/// Exit code of an audit that found differences.
const DIFFERENCES: u8 = 1;
/// Exit code of an audit that did not run to its end.
const COULD_NOT_RUN: u8 = 2;

/// Below the options in `petbuddy audit --help`.
pub const HELP: &str = "\
Exit codes:
  0  log, database and deliveries agree
  1  they do not: every difference is named
  2  the audit could not run to its end; the sentence says why
It compares the messages that the persister had processed when the audit began. The NATS server is
named by NATS_URL, NATS_USER (operator) and NATS_PASSWORD; `cargo run` prints them.";

/// Options of `petbuddy audit`.
#[derive(Args)]
pub struct Options {
    /// One company only
    #[arg(long, value_name = "ID")]
    company: Option<Id>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The whole subcommand.
pub async fn main(options: Options) -> ExitCode {
    let mut settings = Settings::load();
    let common = Common::read(&mut settings, "operator");
    let audited = match settings.finish() {
        Ok(()) => audit(&common.nats, options.company).await,
        Err(problems) => Err(problems.to_string()),
    };
    let report = match audited {
        Ok(report) => report,
        Err(why) => {
            eprintln!("the audit could not run: {why}");
            return ExitCode::from(COULD_NOT_RUN);
        }
    };
    match options.json.then(|| serde_json::to_string(&report)) {
        None => print!("{report}"),
        Some(Ok(json)) => println!("{json}"),
        Some(Err(e)) => {
            eprintln!("the report cannot be printed: {e}");
            return ExitCode::from(COULD_NOT_RUN);
        }
    }
    if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DIFFERENCES)
    }
}

async fn audit(nats: &NatsSettings, company: Option<Id>) -> Result<Report, String> {
    let connection = Connection::open(nats, "operator", Id::generate(Timestamp::now()))
        .await
        .map_err(|e| e.to_string())?;
    let deadline = Instant::now() + CONNECT;
    let mut tick = interval(PAUSE);
    while !connection.is_connected() {
        tick.tick().await;
        if Instant::now() > deadline {
            return Err("no connection to NATS; are NATS_URL and NATS_PASSWORD right?".into());
        }
    }
    run::audit(&connection, company).await
}
