//! What jobs hand out piece by piece: each piece is a message of its own with retries of its own, so that one that waits holds up
//! no other. From a message to a typed piece of work, and back to what becomes of the message.

use async_nats::jetstream::message::PublishMessage;
use nats::dead::Reason;
use nats::domain::Provider;
use nats::runtime::connection::Connection;
use nats::runtime::direct;
use nats::runtime::worker::{Delivery, Settle, Source, Worker};
use nats::{Timestamp, stream, subject};
use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::refresh::{Refresher, Tried, Which};

/// The job whose pieces are tokens of Facebook and Instagram to be renewed.
pub const TOKEN_REFRESH: &str = "token-refresh";
/// The job whose pieces are tokens of Google to be renewed.
pub const GOOGLE_TOKEN_REFRESH: &str = "google-token-refresh";
/// Where the work comes from. What is at hand here is not in work elsewhere, so it is little.
pub const SOURCE: Source = Source { stream: stream::JOBS, consumer: stream::SCHEDULER_WORK, prefetch: 4 };
/// Pieces in work at once in one replica: each is a call to the outside.
const AT_ONCE: usize = 8;
/// How long a piece stays: well above the longest deadline.
const LIFE: Duration = Duration::from_secs(7 * 86_400);

/// The payload of a piece; company and provider are in the subject.
#[derive(Serialize, Deserialize)]
struct Token {
    version: Timestamp,
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
    let known = subject::from_job_work(&delivery.subject).filter(|(job, _, provider)| *job == job_of(*provider));
    let Some((_, company, provider)) = known else {
        return Settle::Reject(Reason::UnknownVersion, "this build has no such work".into());
    };
    let Ok(Token { version }) = serde_json::from_slice(&delivery.payload) else {
        return Settle::Reject(Reason::Malformed, "the payload names no version of a token".into());
    };
    let tried = Tried { attempt: delivery.attempt, since: delivery.stored_at };
    refresher.refresh(Which { company, provider, version }, tried).await
}

fn job_of(provider: Provider) -> &'static str {
    match provider {
        Provider::Google => GOOGLE_TOKEN_REFRESH,
        _ => TOKEN_REFRESH,
    }
}

/// Hands out a token to be renewed; false if it was handed out a moment ago.
///
/// # Errors
/// The stream does not take it.
pub async fn hand_out(connection: &Connection, which: Which) -> Result<bool, String> {
    let Which { company, provider, version } = which;
    let job = job_of(provider);
    let payload = serde_json::to_vec(&Token { version }).map_err(|e| e.to_string())?;
    let msg_id = format!("{job}-{company}-{provider}-{}", version.millis());
    let message = PublishMessage::build().payload(payload.into()).message_id(msg_id).ttl(LIFE);
    let ack = connection.jetstream.send_publish(subject::job_work(job, company, provider), message).await;
    let ack = async { ack?.await }.await.map_err(|e| e.to_string())?;
    Ok(!ack.duplicate)
}

/// Whether operators have a dead letter of this token already, whichever piece it was.
///
/// # Errors
/// The stream does not answer.
pub async fn has_letter(connection: &Connection, which: Which) -> Result<bool, String> {
    let piece = subject::job_work(job_of(which.provider), which.company, which.provider);
    let letters = direct::latest(connection, stream::DEAD, &[subject::dead(connection.service, &piece)]).await?;
    Ok(letters.first().is_some_and(|letter| is_of(&letter.payload, which.version)))
}

fn is_of(payload: &[u8], version: Timestamp) -> bool {
    serde_json::from_slice::<Token>(payload).is_ok_and(|token| token.version == version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_of_an_older_token_is_not_this_ones() {
        let version = Timestamp::from_millis(1_760_000_000_000);
        let payload = serde_json::to_vec(&Token { version }).unwrap();
        assert!(is_of(&payload, version));
        assert!(!is_of(&payload, version.plus(Duration::from_millis(1))) && !is_of(b"{}", version));
    }
}
