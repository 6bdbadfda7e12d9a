//! The operator's connection to NATS, for the subcommands that look at a running system: as the
//! settings say, or else as the run in the state folder says.

use std::fs;
use std::path::Path;
use std::time::Duration;

use contract::{Id, Timestamp};
use runtime::net::connection::Connection;
use runtime::service::settings::{Common, NatsSettings, Settings};
use tokio::time::{Instant, interval};

use crate::cli::exit_code::Failure;
use crate::stack::run_file::Run;

/// The server must be there within this.
const CONNECT: Duration = Duration::from_secs(10);
/// Pause between looks whether it is.
const PAUSE: Duration = Duration::from_millis(20);

/// Connects, and waits until it is.
///
/// # Errors
/// Nobody says where NATS is, or it does not answer within [`CONNECT`].
pub async fn connect(folder: &Path) -> Result<Connection, Failure> {
    let nats = login(Settings::load(), folder)?;
    let connection = Connection::open(&nats, "operator", Id::generate(Timestamp::now()))
        .await
        .map_err(|e| Failure::Settings(format!("NATS_URL cannot be used: {e}")))?;
    let deadline = Instant::now() + CONNECT;
    let mut tick = interval(PAUSE);
    while !connection.is_connected() {
        tick.tick().await;
        if Instant::now() > deadline {
            let reason =
                "no connection; is NATS_URL right, and NATS_PASSWORD that of the user?".to_owned();
            return Err(Failure::NotReady {
                what: "NATS".into(),
                limit: CONNECT,
                reason,
            });
        }
    }
    Ok(connection)
}

/// `NATS_URL`, `NATS_USER` and `NATS_PASSWORD` where one of them is set, else those of `run.json`.
fn login(mut settings: Settings, folder: &Path) -> Result<NatsSettings, Failure> {
    let is_set = ["NATS_URL", "NATS_USER", "NATS_PASSWORD"]
        .iter()
        .any(|name| settings.is_set(name));
    let run = fs::read(folder.join("run.json"))
        .ok()
        .and_then(|text| serde_json::from_slice::<Run>(&text).ok());
    match run {
        Some(run) if !is_set => Ok(NatsSettings {
            url: run.nats,
            user: run.operator.user,
            password: run.operator.password.into(),
        }),
        None if !is_set => Err(Failure::Settings(format!(
            "nothing runs in {}: start it there, name another folder with --dir, or set NATS_URL and NATS_PASSWORD",
            folder.display()
        ))),
        _ => {
            let common = Common::read(&mut settings, "operator");
            settings
                .finish()
                .map_err(|problems| Failure::Settings(problems.to_string()))?;
            Ok(common.nats)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::run_file::Login;
    use crate::stack::state_dir::tests::Scratch;

    #[test]
    fn the_environment_counts_more_than_the_run_in_the_folder() {
        let scratch = Scratch::new("operator");
        let set = |values: &[(&str, &str)]| {
            Settings::of(values.iter().map(|(n, v)| (n.to_string(), v.to_string())))
        };
        assert!(
            matches!(login(set(&[]), &scratch.0), Err(Failure::Settings(why)) if why.contains("--dir"))
        );
        let operator = Login {
            user: "operator".into(),
            password: "p".into(),
        };
        let run = Run {
            nats: "nats://127.0.0.1:5".into(),
            operator,
            ..Run::default()
        };
        fs::write(
            scratch.0.join("run.json"),
            serde_json::to_string(&run).unwrap(),
        )
        .unwrap();
        assert_eq!(
            login(set(&[]), &scratch.0).unwrap().url,
            "nats://127.0.0.1:5"
        );
        let of_environment = login(
            set(&[("NATS_URL", "nats://127.0.0.1:6"), ("NATS_PASSWORD", "q")]),
            &scratch.0,
        )
        .unwrap();
        assert_eq!(
            (of_environment.url.as_str(), of_environment.user.as_str()),
            ("nats://127.0.0.1:6", "operator")
        );
        assert!(matches!(
            login(set(&[("NATS_URL", "nats://127.0.0.1:6")]), &scratch.0),
            Err(Failure::Settings(_))
        ));
    }
}
