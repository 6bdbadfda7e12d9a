//! `petbuddy setup`: brings streams, consumers and buckets of a NATS server to the contract, as the
//! user `operator`. What they are is in `contract::inventory`; what could lose something is reported and
//! left.

use std::process::ExitCode;
use std::time::Duration;

use contract::{Id, Timestamp, inventory};
use runtime::net::connection::Connection;
use runtime::service::settings::{Common, NatsSettings, Settings};
use runtime::setup::{Report, Sizes, reconcile};
use tokio::time::{Instant, interval};

use crate::cli::exit_code::Failure;

/// A server, or a cluster's leaders, may still be starting.
const LIMIT: Duration = Duration::from_secs(60);
/// Pause between tries.
const PAUSE: Duration = Duration::from_millis(250);

/// The whole subcommand.
pub fn main() -> ExitCode {
    let mut settings = Settings::load();
    let (common, sizes) = (
        Common::read(&mut settings, "operator"),
        sizes(&mut settings),
    );
    if let Err(problems) = settings.finish() {
        eprintln!("{problems}");
        return Failure::Settings(String::new()).code();
    }
    let report = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime.block_on(run(&common.nats, sizes)),
        Err(e) => Err(Failure::Other(e.to_string())),
    };
    match report {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            failure.code()
        }
    }
}

/// `NATS_REPLICAS` and `EVENTS_MAX_BYTES`.
pub fn sizes(settings: &mut Settings) -> Sizes {
    Sizes {
        replicas: settings
            .named(
                "NATS_REPLICAS",
                "Copies of every stream and bucket; 3 in a cluster of three.",
            )
            .number(1, 1..=5),
        events_max_bytes: settings
            .named(
                "EVENTS_MAX_BYTES",
                "Disk that the log, the stream `EVENTS`, may take on each node. When the log is \
                 full, it refuses new messages.",
            )
            .accepts("bytes")
            .number(inventory::EVENTS_MAX_BYTES, 1..=i64::MAX),
    }
}

/// Does it, and waits for a server that is not there yet.
///
/// # Errors
/// It is not done within [`LIMIT`], or there is no room for the streams.
pub async fn run(nats: &NatsSettings, sizes: Sizes) -> Result<Report, Failure> {
    let connection = Connection::open(nats, "operator", Id::generate(Timestamp::now()))
        .await
        .map_err(|e| Failure::Settings(format!("NATS_URL cannot be used: {e}")))?;
    let deadline = Instant::now() + LIMIT;
    let mut pause = interval(PAUSE);
    let mut reason =
        "no connection; is NATS_URL right, and NATS_PASSWORD that of the user?".to_owned();
    while Instant::now() < deadline {
        pause.tick().await;
        if !connection.is_connected() {
            continue;
        }
        match reconcile(&connection.jetstream, sizes).await {
            Ok(report) => return Ok(report),
            Err(e) if e.to_string().contains("insufficient storage resources") => {
                return Err(Failure::NoRoom(e.to_string()));
            }
            Err(e) => reason = e.to_string(),
        }
    }
    Err(Failure::NotReady {
        what: "NATS".into(),
        limit: LIMIT,
        reason,
    })
}
