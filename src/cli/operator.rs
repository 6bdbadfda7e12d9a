//! The operator's connection to NATS, for the subcommands that look at a running system. The login
//! is that of the settings or, if there is none, that of the run in the state folder. Starts
//! nothing.

use std::path::Path;
use std::time::Duration;

use contract::{Id, Timestamp};
use runtime::net::connection::Connection;
use runtime::service::settings::{Common, NatsSettings, Settings};
use tokio::time::{Instant, interval};

use crate::failure::Failure;
use crate::stack::private_file;
use crate::stack::run_file::Run;

/// How long a connection may take. After that the subcommand fails.
const CONNECT: Duration = Duration::from_secs(10);
/// Pause between two looks whether there is a connection.
const PAUSE: Duration = Duration::from_millis(20);

/// Connects, and waits for the connection.
///
/// # Errors
/// Neither settings nor run file name a NATS server, or the server does not answer within
/// [`CONNECT`].
pub async fn connect(state_dir: &Path) -> Result<Connection, Failure> {
    let nats = login(Settings::load(), state_dir)?;
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

/// The login of `NATS_URL`, `NATS_USER` and `NATS_PASSWORD` if one of them is set, otherwise that
/// of `run.json`.
fn login(mut settings: Settings, state_dir: &Path) -> Result<NatsSettings, Failure> {
    let is_set = ["NATS_URL", "NATS_USER", "NATS_PASSWORD"]
        .iter()
        .any(|name| settings.is_set(name));
    let run: Option<Run> = private_file::read_json(&state_dir.join("run.json"));
    match run {
        Some(run) if !is_set => Ok(NatsSettings {
            url: run.nats,
            user: run.operator.user,
            password: run.operator.password.into(),
        }),
        None if !is_set => Err(Failure::Settings(format!(
            "nothing runs in {}: start it there, name another folder with --dir, or set NATS_URL and \
             NATS_PASSWORD",
            state_dir.display()
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
    use std::fs;

    #[test]
    fn the_environment_wins_over_the_run_in_the_folder() {
        let scratch = Scratch::new("operator");
        let set = |values: &[(&str, &str)]| {
            Settings::of(values.iter().map(|(n, v)| (n.to_string(), v.to_string())))
        };
        assert!(
            login(set(&[]), &scratch.0).is_err_and(|failure| failure.to_string().contains("--dir"))
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
