//! Waits until a child or a service is up, for a bounded time, and remembers why it is not. Starts
//! nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::failure::Failure;
use crate::stack::supervisor::ChildStatus;

/// How long a child may take to come up, after which the run fails. nats-server and mongod read a
/// large log or database when they start.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Pause between two probes.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// How long one probe may take. After that it counts as failed.
const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// Ends of a child during its start after which the child counts as broken.
const MAX_ENDS: u32 = 3;
/// Characters of an answer that a failure quotes. The rest is cut off.
const SHOWN_CHARACTERS: usize = 400;

/// Makes an HTTP client for services on this machine.
///
/// # Errors
/// The TLS library cannot be set up.
pub fn client() -> Result<Client, Failure> {
    // An error means that an earlier call has installed the provider.
    drop(rustls::crypto::ring::default_provider().install_default());
    // The user's proxy is meant for the outside world.
    Client::builder()
        .no_proxy()
        .timeout(PROBE_LIMIT)
        .build()
        .map_err(|e| Failure::Other(format!("no HTTP client: {e}")))
}

/// Repeats `probe` until it succeeds. `what` names the awaited part in failures.
///
/// # Errors
/// No probe succeeds within [`LIMIT`], or `child` keeps ending.
pub async fn wait<F>(
    what: &str,
    child: Option<&ChildStatus>,
    mut probe: impl FnMut() -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), String>>,
{
    let deadline = Instant::now() + LIMIT;
    let mut tick = interval(PROBE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reason = "it does not answer".to_owned();
    while Instant::now() < deadline {
        tick.tick().await;
        match timeout(PROBE_LIMIT, probe()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => reason = why,
            Err(_) => reason = format!("no answer within {PROBE_LIMIT:?}"),
        }
        if let Some(child) = child
            && child.ends.load(Ordering::Relaxed) >= MAX_ENDS
        {
            return Err(Failure::KeepsEnding {
                what: what.to_owned(),
                ends: MAX_ENDS,
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

/// Whether something listens on the port.
///
/// # Errors
/// The reason why no connection is made.
pub async fn listens(port: u16) -> Result<(), String> {
    TcpStream::connect(("127.0.0.1", port))
        .await
        .map(drop)
        .map_err(|e| format!("port {port}: {e}"))
}

/// Whether `<base>/ready` answers 200.
///
/// # Errors
/// The checks that fail, or the answer itself.
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
        Ok(report) => failing_checks(&report),
        Err(_) => format!(
            "{status}: {}",
            body.chars().take(SHOWN_CHARACTERS).collect::<String>()
        ),
    })
}

fn failing_checks(report: &Value) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_reason_names_the_failing_checks() {
        let report = json!({"status": "degraded", "checks": {
            "nats": {"status": "ok", "detail": {}},
            "mongodb": {"status": "failing", "detail": "does not answer"},
        }});
        assert_eq!(
            failing_checks(&report),
            "mongodb is failing (does not answer)"
        );
        assert_eq!(
            failing_checks(&json!({"status": "stopping"})),
            r#"{"status":"stopping"}"#
        );
    }
}
