//! Dead letters: a message that cannot be processed is stored whole in `DEAD` before it is settled. Replaying is the operator's.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::PublishMessage;
use metrics::counter;
use tracing::{error, warn};

use super::connection::Connection;
use super::worker::Delivery;
use crate::dead::Reason;
use crate::{Timestamp, header, subject};

/// How long storing a dead letter is tried before the message is given back instead.
const DEADLINE: Duration = Duration::from_secs(5);

/// Stores a dead letter; true once it is on disk. The same message dies once, however often this is called within the
/// stream's duplicate window.
pub async fn store(connection: &Connection, delivery: &Delivery, reason: Reason, why: &str, now: Timestamp) -> bool {
    let headers = headers(delivery, reason, why, now);
    let message = PublishMessage::build()
        .headers(headers)
        .payload(delivery.payload.clone())
        .message_id(format!("dead-{}-{}-{}", connection.service, delivery.stream, delivery.stream_seq));
    let publish = async { connection.jetstream.send_publish(subject::dead(connection.service, &delivery.subject), message).await?.await };
    match tokio::time::timeout(DEADLINE, publish).await {
        Ok(Ok(_)) => {
            counter!("dead_letters_total", "reason" => reason.as_str()).increment(1);
            // Why stands in its headers: an error's text may quote the body, which is not for logs.
            warn!(subject = %delivery.subject, stream_seq = delivery.stream_seq, reason = reason.as_str(), "dead letter");
            true
        }
        Ok(Err(e)) => {
            error!(error = %e, stream_seq = delivery.stream_seq, "a dead letter could not be stored; the message comes again");
            false
        }
        Err(_) => {
            error!(stream_seq = delivery.stream_seq, "storing a dead letter timed out; the message comes again");
            false
        }
    }
}

/// The message's own headers, without those by which the server would act on it again.
fn headers(delivery: &Delivery, reason: Reason, why: &str, now: Timestamp) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in delivery.headers.iter() {
        let name = match name.as_ref() {
            header::MSG_ID => header::DEAD_MSG_ID,
            server if server.starts_with("Nats-") => continue,
            own => own,
        };
        for value in values {
            headers.append(name, value.clone());
        }
    }
    headers.insert(header::DEAD_REASON, reason.as_str());
    headers.insert(header::DEAD_ERROR, one_line(why));
    headers.insert(header::DEAD_ATTEMPTS, delivery.attempt.to_string());
    headers.insert(header::DEAD_STREAM, delivery.stream.as_str());
    headers.insert(header::DEAD_STREAM_SEQ, delivery.stream_seq.to_string());
    headers.insert(header::DEAD_FIRST_AT, now.to_string());
    headers
}

/// A header's value has no line breaks, and no more than 1,000 characters.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1_000).collect()
}
