//! Storing a dead letter: a message that cannot be processed is stored whole in `DEAD` before it is
//! settled. Reads and replays none.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use metrics::counter;
use tracing::{error, warn};

use crate::net::connection::Connection;
use contract::Timestamp;
use contract::dead_letter::Reason;
use contract::{header, subject};

/// The time that storing a dead letter may take. Beyond it the message is given back instead.
const DEADLINE: Duration = Duration::from_secs(5);

/// A message that cannot be processed.
#[derive(Clone, Copy)]
pub struct Failed<'a> {
    /// The subject in the stream.
    pub subject: &'a str,
    /// All headers of the message.
    pub headers: &'a HeaderMap,
    /// The payload, which need not be JSON.
    pub payload: &'a Bytes,
    /// The stream's name.
    pub stream: &'a str,
    /// The sequence in the stream.
    pub stream_seq: u64,
    /// How often the message was tried.
    pub attempts: u64,
}

/// Stores a dead letter. Returns true once the dead letter is on disk. However often a message is
/// stored within the stream's duplicate window, `DEAD` has it once. A replayed message has another
/// sequence, and so another dead letter.
pub async fn store(
    connection: &Connection,
    failed: Failed<'_>,
    reason: Reason,
    why: &str,
    now: Timestamp,
) -> bool {
    let headers = headers(failed, reason, why, now);
    let message = PublishMessage::build()
        .headers(headers)
        .payload(failed.payload.clone())
        .message_id(format!(
            "dead-{}-{}-{}",
            connection.service, failed.stream, failed.stream_seq
        ));
    let publish = async {
        connection
            .jetstream
            .send_publish(subject::dead(connection.service, failed.subject), message)
            .await?
            .await
    };
    match tokio::time::timeout(DEADLINE, publish).await {
        Ok(Ok(_)) => {
            counter!("dead_letters_total", "reason" => reason.as_str()).increment(1);
            // The error's text is only in the headers: it may quote the body, which logs must not
            // hold.
            warn!(
                subject = failed.subject,
                stream_seq = failed.stream_seq,
                reason = reason.as_str(),
                "dead letter"
            );
            true
        }
        Ok(Err(e)) => {
            error!(
                error = %e,
                stream_seq = failed.stream_seq,
                "a dead letter could not be stored; the message comes again"
            );
            false
        }
        Err(_) => {
            error!(
                stream_seq = failed.stream_seq,
                "storing a dead letter timed out; the message comes again"
            );
            false
        }
    }
}

/// The message's own headers, the reason, and the position in the log, which a replay keeps.
/// Headers by which the server would act on the message again are left out.
fn headers(failed: Failed<'_>, reason: Reason, why: &str, now: Timestamp) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in failed.headers.iter() {
        let name = match name.as_ref() {
            header::MSG_ID => header::DEAD_MSG_ID,
            server if server.starts_with("Nats-") => continue,
            own => own,
        };
        for value in values {
            headers.append(name, value.clone());
        }
    }
    let position = header::log_position(failed.stream, failed.stream_seq, |name| {
        failed.headers.get(name).map(|value| value.as_str())
    });
    if let Some(seq) = position
        && headers.get(header::EVENT_SEQ).is_none()
    {
        headers.insert(header::EVENT_SEQ, seq.to_string());
    }
    headers.insert(header::DEAD_REASON, reason.as_str());
    headers.insert(header::DEAD_ERROR, one_line(why));
    headers.insert(header::DEAD_ATTEMPTS, failed.attempts.to_string());
    headers.insert(header::DEAD_STREAM, failed.stream);
    headers.insert(header::DEAD_STREAM_SEQ, failed.stream_seq.to_string());
    headers.insert(header::DEAD_FIRST_AT, now.to_string());
    headers
}

/// The text as a header's value: without line breaks, and at most 1,000 characters of it.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(1_000)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::inventory;

    fn stored(own: &[(&str, &str)]) -> HeaderMap {
        stored_of(inventory::OUTBOUND, own)
    }

    fn stored_of(stream: &str, own: &[(&str, &str)]) -> HeaderMap {
        let mut given = HeaderMap::new();
        own.iter()
            .for_each(|(name, value)| given.insert(*name, *value));
        let payload = Bytes::from_static(b"{}");
        let failed = Failed {
            subject: "outbound.1.a.b.facebook",
            headers: &given,
            payload: &payload,
            stream,
            stream_seq: 7,
            attempts: 2,
        };
        headers(
            failed,
            Reason::Refused,
            "no\r\nsuch page",
            Timestamp::from_millis(0),
        )
    }

    fn of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
        headers.get(name).map(|v| v.as_str())
    }

    #[test]
    fn a_sourced_message_keeps_its_position_in_the_conversation() {
        // As the server writes it.
        let source = "EVENTS 41 message.created.*.*.facebook.outbound.operator \
                      outbound.{{partition(16,1,2)}} message.created.a.b";
        let headers = stored(&[
            ("Nats-Stream-Source", source),
            ("Nats-Msg-Id", "x"),
            ("Event-Type", "message.created"),
        ]);
        assert_eq!(of(&headers, "Event-Seq"), Some("41"));
        assert_eq!(
            (
                of(&headers, "Nats-Stream-Source"),
                of(&headers, "Nats-Msg-Id")
            ),
            (None, None)
        );
        assert_eq!(
            (of(&headers, "Dead-Msg-Id"), of(&headers, "Event-Type")),
            (Some("x"), Some("message.created"))
        );
        assert_eq!(
            (of(&headers, "Dead-Error"), of(&headers, "Dead-Attempts")),
            (Some("no  such page"), Some("2"))
        );
        assert_eq!(
            of(
                &stored(&[("Nats-Stream-Source", "OTHER 41 > >")]),
                "Event-Seq"
            ),
            None
        );
    }

    #[test]
    fn a_replayed_message_names_its_dead_letter_and_its_first_position() {
        for stream in ["OUTBOUND", "EVENTS"] {
            let headers = stored_of(stream, &[("Replay-Of", "3"), ("Event-Seq", "41")]);
            assert_eq!(
                (of(&headers, "Replay-Of"), of(&headers, "Event-Seq")),
                (Some("3"), Some("41"))
            );
        }
        assert_eq!(of(&stored_of("EVENTS", &[]), "Event-Seq"), Some("7"));
        assert_eq!(of(&stored_of("JOBS", &[]), "Event-Seq"), None);
    }
}
