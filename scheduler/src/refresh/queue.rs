//! The queue of tokens to be renewed. Each token is a message with retries of its own. Otherwise a
//! token that waits would hold up the others. Renews no token.

use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use contract::domain::Provider;
use contract::{Id, Timestamp, inventory, subject};
use runtime::log::direct_get;
use runtime::net::connection::Connection;
use serde::{Deserialize, Serialize};

/// The job that enqueues tokens of Facebook and Instagram.
pub const TOKEN_REFRESH: &str = "token-refresh";
/// The job that enqueues tokens of Google.
pub const GOOGLE_TOKEN_REFRESH: &str = "google-token-refresh";
/// How long a task stays in the stream. Far longer than the longest deadline, so that no task
/// disappears before its token is renewed or given up.
const TASK_TTL: Duration = Duration::from_secs(7 * 86_400);

/// One version of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRef {
    pub company: Id,
    pub provider: Provider,
    /// When the token was entered or last renewed.
    pub version: Timestamp,
}

/// The payload of a task. Company and provider are in the subject.
#[derive(Serialize, Deserialize)]
pub struct Task {
    pub version: Timestamp,
    /// Until then the platform wants no calls about this token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
}

impl Task {
    /// The time until the platform may be called; `None` if it may be called now.
    pub fn wait(&self, now: Timestamp) -> Option<Duration> {
        self.not_before
            .map(|at| at.since(now))
            .filter(|wait| !wait.is_zero())
    }

    /// Reads the payload of a task, if the task is about this version of its token.
    fn about_version(payload: &[u8], version: Timestamp) -> Option<Task> {
        serde_json::from_slice(payload)
            .ok()
            .filter(|task: &Task| task.version == version)
    }
}

/// The job whose tasks are the tokens of this provider.
pub fn job_of(provider: Provider) -> &'static str {
    match provider {
        Provider::Google => GOOGLE_TOKEN_REFRESH,
        _ => TOKEN_REFRESH,
    }
}

/// Enqueues a token. Returns false if the token was enqueued a moment ago, or waits because its
/// platform wants no calls yet.
///
/// # Errors
/// The stream does not answer, or refuses the task.
pub async fn enqueue(
    connection: &Connection,
    token: TokenRef,
    now: Timestamp,
) -> Result<bool, String> {
    let last = direct_get::last(connection, inventory::JOBS, &subject_of(token))
        .await
        .map_err(|e| e.to_string())?;
    let last = last.and_then(|last| Task::about_version(&last.payload, token.version));
    if last.is_some_and(|task| task.wait(now).is_some()) {
        return Ok(false);
    }
    publish(connection, token, None).await
}

/// Enqueues a token for later. Until then [`enqueue`] does nothing for this token.
///
/// # Errors
/// The stream does not answer, or refuses the task.
pub async fn enqueue_later(
    connection: &Connection,
    token: TokenRef,
    not_before: Timestamp,
) -> Result<(), String> {
    publish(connection, token, Some(not_before)).await.map(drop)
}

/// Returns false if the stream already has the task.
async fn publish(
    connection: &Connection,
    token: TokenRef,
    not_before: Option<Timestamp>,
) -> Result<bool, String> {
    let TokenRef {
        company,
        provider,
        version,
    } = token;
    let task = Task {
        version,
        not_before,
    };
    let payload = serde_json::to_vec(&task).map_err(|e| e.to_string())?;
    let later = not_before
        .map(|at| format!("-{}", at.millis()))
        .unwrap_or_default();
    let msg_id = format!(
        "{}-{company}-{provider}-{}{later}",
        job_of(provider),
        version.millis()
    );
    let message = PublishMessage::build()
        .payload(payload.into())
        .message_id(msg_id)
        .ttl(TASK_TTL);
    let ack = connection
        .jetstream
        .send_publish(subject_of(token), message)
        .await;
    let ack = async { ack?.await }.await.map_err(|e| e.to_string())?;
    Ok(!ack.duplicate)
}

fn subject_of(token: TokenRef) -> String {
    subject::job_work(job_of(token.provider), token.company, token.provider)
}

/// Whether operators already have a dead letter about this version of the token, from any task.
///
/// # Errors
/// The stream does not answer.
pub async fn has_dead_letter(connection: &Connection, token: TokenRef) -> Result<bool, String> {
    let dead_letters = direct_get::latest(
        connection,
        inventory::DEAD,
        &[subject::dead(connection.service, &subject_of(token))],
    )
    .await
    .map_err(|e| e.to_string())?;
    Ok(dead_letters
        .first()
        .is_some_and(|last| Task::about_version(&last.payload, token.version).is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: Timestamp = Timestamp::from_millis(1_760_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_task_about_an_older_version_of_the_token_is_ignored() {
        let payload = serde_json::to_vec(&Task {
            version: VERSION,
            not_before: None,
        })
        .unwrap();
        assert!(Task::about_version(&payload, VERSION).is_some());
        assert!(Task::about_version(&payload, VERSION.plus(SECOND)).is_none());
        assert!(Task::about_version(b"{}", VERSION).is_none());
    }

    #[test]
    fn a_task_waits_until_its_time_and_a_task_without_a_time_does_not_wait() {
        let task = Task {
            version: VERSION,
            not_before: Some(VERSION.plus(SECOND)),
        };
        let read = Task::about_version(&serde_json::to_vec(&task).unwrap(), VERSION).unwrap();
        assert_eq!(
            (read.wait(VERSION), read.wait(VERSION.plus(SECOND))),
            (Some(SECOND), None)
        );
        // Earlier builds wrote no `not_before`.
        let payload = format!(r#"{{"version":"{VERSION}"}}"#);
        let read = Task::about_version(payload.as_bytes(), VERSION).unwrap();
        assert_eq!(read.wait(VERSION), None);
    }
}
