//! What jobs hand out piece by piece: each piece is a message of its own with retries of its own,
//! so that one that waits holds up no other. From a message to a typed piece of work, and back to
//! what becomes of the message.

use async_nats::jetstream::message::PublishMessage;
use contract::Timestamp;
use contract::dead_letter::Reason;
use contract::domain::Provider;
use contract::{inventory, subject};
use runtime::consume::worker::{Delivery, Settle, Source, Worker};
use runtime::log::direct_get;
use runtime::net::connection::Connection;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::refresh::store::last_of;
use crate::refresh::{Refresher, Tried, Which};

/// The job whose pieces are tokens of Facebook and Instagram to be renewed.
pub const TOKEN_REFRESH: &str = "token-refresh";
/// The job whose pieces are tokens of Google to be renewed.
pub const GOOGLE_TOKEN_REFRESH: &str = "google-token-refresh";
/// Where the work comes from. What is at hand here is not in work elsewhere, so it is little.
pub const SOURCE: Source = Source {
    stream: inventory::JOBS,
    consumer: inventory::SCHEDULER_WORK,
    prefetch: 4,
};
/// Pieces in work at once in one replica: each is a call to the outside.
const AT_ONCE: usize = 8;
/// How long a piece stays: well above the longest deadline.
const LIFE: Duration = Duration::from_secs(7 * 86_400);

/// The payload of a piece; company and provider are in the subject.
#[derive(Serialize, Deserialize)]
struct Token {
    version: Timestamp,
    /// The platform wants to be left alone until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
}

impl Token {
    /// How long nobody shall be asked about it.
    fn wait(&self, now: Timestamp) -> Option<Duration> {
        self.not_before
            .map(|at| at.since(now))
            .filter(|wait| !wait.is_zero())
    }
}

/// Takes work until stopped.
pub async fn consume(refresher: Refresher, worker: Worker) {
    worker
        .run_each(AT_ONCE, |delivery| {
            let refresher = refresher.clone();
            async move { take(&refresher, &delivery).await }
        })
        .await;
}

async fn take(refresher: &Refresher, delivery: &Delivery) -> Settle {
    let known = subject::from_job_work(&delivery.subject)
        .filter(|(job, _, provider)| *job == job_of(*provider));
    let Some((_, company, provider)) = known else {
        return Settle::Reject(Reason::UnknownVersion, "this build has no such work".into());
    };
    let Ok(token) = serde_json::from_slice::<Token>(&delivery.payload) else {
        return Settle::Reject(
            Reason::Malformed,
            "the payload names no version of a token".into(),
        );
    };
    if let Some(wait) = token.wait((refresher.clock)()) {
        return Settle::Retry(wait);
    }
    let Token {
        version,
        not_before,
    } = token;
    let tried = Tried {
        attempt: delivery.attempt,
        since: not_before
            .unwrap_or(delivery.stored_at)
            .max(delivery.stored_at),
    };
    refresher
        .refresh(
            Which {
                company,
                provider,
                version,
            },
            tried,
        )
        .await
}

fn job_of(provider: Provider) -> &'static str {
    match provider {
        Provider::Google => GOOGLE_TOKEN_REFRESH,
        _ => TOKEN_REFRESH,
    }
}

/// Hands out a token to be renewed; false if it was handed out a moment ago, or waits because its
/// platform wants to be left alone.
///
/// # Errors
/// The stream does not answer, or does not take it.
pub async fn hand_out(
    connection: &Connection,
    which: Which,
    now: Timestamp,
) -> Result<bool, String> {
    let last = last_of(&connection.jetstream, inventory::JOBS, &piece(which)).await?;
    let last = last.and_then(|last| of(&last.payload, which.version));
    if last.is_some_and(|token| token.wait(now).is_some()) {
        return Ok(false);
    }
    publish(connection, which, None).await
}

/// Hands it out again, for later. Meanwhile runs hand out none.
///
/// # Errors
/// The stream does not take it.
pub async fn hand_out_later(
    connection: &Connection,
    which: Which,
    not_before: Timestamp,
) -> Result<(), String> {
    publish(connection, which, Some(not_before)).await.map(drop)
}

/// False if the stream has it already.
async fn publish(
    connection: &Connection,
    which: Which,
    not_before: Option<Timestamp>,
) -> Result<bool, String> {
    let Which {
        company,
        provider,
        version,
    } = which;
    let payload = serde_json::to_vec(&Token {
        version,
        not_before,
    })
    .map_err(|e| e.to_string())?;
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
        .ttl(LIFE);
    let ack = connection
        .jetstream
        .send_publish(piece(which), message)
        .await;
    let ack = async { ack?.await }.await.map_err(|e| e.to_string())?;
    Ok(!ack.duplicate)
}

fn piece(which: Which) -> String {
    subject::job_work(job_of(which.provider), which.company, which.provider)
}

/// Whether operators have a dead letter of this token already, whichever piece it was.
///
/// # Errors
/// The stream does not answer.
pub async fn has_letter(connection: &Connection, which: Which) -> Result<bool, String> {
    let letters = direct_get::latest(
        connection,
        inventory::DEAD,
        &[subject::dead(connection.service, &piece(which))],
    )
    .await?;
    Ok(letters
        .first()
        .is_some_and(|letter| of(&letter.payload, which.version).is_some()))
}

/// The payload of a piece, if it is about this version of its token.
fn of(payload: &[u8], version: Timestamp) -> Option<Token> {
    serde_json::from_slice(payload)
        .ok()
        .filter(|token: &Token| token.version == version)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: Timestamp = Timestamp::from_millis(1_760_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_piece_about_an_older_token_is_not_this_ones() {
        let payload = serde_json::to_vec(&Token {
            version: VERSION,
            not_before: None,
        })
        .unwrap();
        assert!(of(&payload, VERSION).is_some());
        assert!(of(&payload, VERSION.plus(SECOND)).is_none() && of(b"{}", VERSION).is_none());
    }

    #[test]
    fn a_piece_waits_until_its_time_and_one_without_a_time_never() {
        let token = Token {
            version: VERSION,
            not_before: Some(VERSION.plus(SECOND)),
        };
        let read = of(&serde_json::to_vec(&token).unwrap(), VERSION).unwrap();
        assert_eq!(
            (read.wait(VERSION), read.wait(VERSION.plus(SECOND))),
            (Some(SECOND), None)
        );
        // As earlier builds hand it out.
        let read = of(format!(r#"{{"version":"{VERSION}"}}"#).as_bytes(), VERSION).unwrap();
        assert_eq!(read.wait(VERSION), None);
    }
}
