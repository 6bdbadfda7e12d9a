//! Waiting until parts are up, bounded, with the reason at hand when they are not. Also `petbuddy
//! health`, which asks once.

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::cli::exit_code::Failure;
use crate::stack::supervisor::Watch;

/// A part is up within this, or the run fails. A large log or database is read at its start.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// One look.
const LOOK_LIMIT: Duration = Duration::from_secs(3);
/// A child that ended so often while it starts will not come up.
const ENDS: u32 = 3;
/// Characters of an answer that are shown.
const SHOWN_CHARACTERS: usize = 400;

/// An HTTP client for services of this machine.
///
/// # Errors
/// The TLS library cannot be set up.
pub fn client() -> Result<Client, Failure> {
    // A second call finds it installed; that is fine.
    drop(rustls::crypto::ring::default_provider().install_default());
    // A proxy of the user's is for the outside world.
    Client::builder()
        .no_proxy()
        .timeout(LOOK_LIMIT)
        .build()
        .map_err(|e| Failure::Other(format!("no HTTP client: {e}")))
}

/// Looks again and again until `look` says yes.
///
/// # Errors
/// It does not within [`LIMIT`], or the child keeps ending.
pub async fn wait<F>(
    what: &str,
    child: Option<&Watch>,
    mut look: impl FnMut() -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), String>>,
{
    let deadline = Instant::now() + LIMIT;
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reason = "it does not answer".to_owned();
    while Instant::now() < deadline {
        tick.tick().await;
        match timeout(LOOK_LIMIT, look()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => reason = why,
            Err(_) => reason = format!("no answer within {LOOK_LIMIT:?}"),
        }
        if let Some(child) = child
            && child.ends.load(Ordering::Relaxed) >= ENDS
        {
            return Err(Failure::KeepsEnding {
                what: what.to_owned(),
                ends: ENDS,
                log: child.log.clone(),
                words: child.last.text(),
            });
        }
    }
    Err(Failure::NotReady {
        what: what.to_owned(),
        limit: LIMIT,
        reason,
    })
}

/// Whether something listens there.
///
/// # Errors
/// What the system says.
pub async fn listens(port: u16) -> Result<(), String> {
    TcpStream::connect(("127.0.0.1", port))
        .await
        .map(drop)
        .map_err(|e| format!("port {port}: {e}"))
}

/// Whether `<base>/ready` says 200.
///
/// # Errors
/// What it says instead: the checks that are not good.
pub async fn answers_ready(client: &Client, base: &str) -> Result<(), String> {
    let response = client
        .get(format!("{base}/ready"))
        .send()
        .await
        .map_err(|_| "it does not answer".to_owned())?;
    if response.status() == StatusCode::OK {
        return Ok(());
    }
    let (status, body) = (response.status(), response.text().await.unwrap_or_default());
    Err(match serde_json::from_str::<Value>(&body) {
        Ok(report) => bad_checks(&report),
        Err(_) => format!(
            "{status}: {}",
            body.chars().take(SHOWN_CHARACTERS).collect::<String>()
        ),
    })
}

fn bad_checks(report: &Value) -> String {
    let checks = report["checks"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, check)| check["status"] != "ok");
    let lines: Vec<String> = checks
        .map(|(name, check)| {
            format!(
                "{name} is {} ({})",
                text(&check["status"]),
                text(&check["detail"])
            )
        })
        .collect();
    if lines.is_empty() {
        text(report)
    } else {
        lines.join(", ")
    }
}

fn text(value: &Value) -> String {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    text.chars().take(SHOWN_CHARACTERS).collect()
}

/// `petbuddy health <url>`, for containers without curl: success if the URL answers 2xx.
pub async fn health(url: &str) -> ExitCode {
    let answer = match client() {
        Ok(client) => client.get(url).send().await.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    };
    match answer {
        Ok(response) if response.status().is_success() => ExitCode::SUCCESS,
        Ok(response) => {
            eprintln!("{url} answers {}", response.status());
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("{url} does not answer: {e}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_reason_names_the_checks_that_are_not_good() {
        let report = json!({"status": "degraded", "checks": {
            "nats": {"status": "ok", "detail": {}},
            "mongodb": {"status": "failing", "detail": "does not answer"},
        }});
        assert_eq!(bad_checks(&report), "mongodb is failing (does not answer)");
        assert_eq!(
            bad_checks(&json!({"status": "stopping"})),
            r#"{"status":"stopping"}"#
        );
    }
}
