//! Storing an event only if nothing has happened meanwhile to what it is about: the server compares
//! and stores in one step. And before that, what the log has of it, beside what the view shows.

use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::DirectGetErrorKind;
use contract::event::Envelope;
use contract::trace::TraceContext;
use contract::{header, inventory, subject};
use runtime::log::direct_get;
use runtime::log::publisher::Outgoing;
use runtime::net::connection::{Connection, REQUEST_TIMEOUT};

/// The service whose dead letters are missing in the view.
const VIEW_OWNER: &str = "persister";

/// Why an event is not known to be stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something has happened since.
    #[error("it was changed meanwhile")]
    Overtaken,
    /// No answer, or a refusal. It may be stored all the same.
    #[error("{0}")]
    Unavailable(String),
}

/// What the log has of something, beside what the view shows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing newer. Its last event has this sequence; 0 if the log keeps none any more.
    Shown(u64),
    /// Something newer, which is on its way into the view.
    Ahead,
    /// Something newer of this sequence, which the view will not show: it is a dead letter.
    Dead(u64),
}

/// Compares the log's last event under `filter` with the latest that the view shows. That one,
/// `shown`, is a place in the log: of a replay the sequence of its first copy. The server compares
/// with the sequence that the event itself has.
///
/// # Errors
/// The server does not answer.
pub async fn standing(
    connection: &Connection,
    filter: &str,
    shown: u64,
) -> Result<Standing, String> {
    let Some(last) = last_of(&connection.jetstream, inventory::EVENTS, filter).await? else {
        return Ok(Standing::Shown(0));
    };
    if place(
        last.sequence,
        last.headers.get(header::EVENT_SEQ).map(|v| v.as_str()),
    ) <= shown
    {
        return Ok(Standing::Shown(last.sequence));
    }
    let letters = direct_get::latest(
        connection,
        inventory::DEAD,
        &[subject::dead(VIEW_OWNER, &last.subject)],
    )
    .await?;
    let dead = letters
        .first()
        .and_then(|letter| letter.header(header::DEAD_STREAM_SEQ));
    Ok(if dead == Some(last.sequence.to_string().as_str()) {
        Standing::Dead(last.sequence)
    } else {
        Standing::Ahead
    })
}

/// Where an event counts in the view: as the persister reads it.
fn place(seq: u64, first: Option<&str>) -> u64 {
    first
        .and_then(|first| first.parse().ok())
        .filter(|first| *first < seq)
        .unwrap_or(seq)
}

/// The last message under a subject, which may be a filter; from any replica, which may be a little
/// behind.
///
/// # Errors
/// The server does not answer.
pub async fn last_of(
    jetstream: &Context,
    stream: &str,
    subject: &str,
) -> Result<Option<StreamMessage>, String> {
    let handle = jetstream
        .get_stream_no_info(stream)
        .await
        .map_err(|e| e.to_string())?;
    match handle.direct_get_last_for_subject(subject).await {
        Ok(message) => Ok(Some(message)),
        Err(e) if e.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}

/// Stores an event if the last one under `filter` still has the sequence `last`; 0: if there is
/// none.
///
/// # Errors
/// See [`StoreError`]; within [`REQUEST_TIMEOUT`].
pub async fn store_if_last(
    connection: &Connection,
    envelope: &Envelope,
    msg_id: &str,
    filter: &str,
    last: u64,
) -> Result<(), StoreError> {
    let unavailable = |e: String| StoreError::Unavailable(e);
    let outgoing = Outgoing::event(envelope, msg_id.to_owned(), TraceContext::generate())
        .map_err(|e| unavailable(e.to_string()))?;
    if !connection.is_connected() {
        // It would lie in the client's buffer, and be stored after the caller was told otherwise.
        return Err(unavailable("not connected to NATS".into()));
    }
    let message = PublishMessage::build()
        .payload(outgoing.payload)
        .headers(outgoing.headers)
        .message_id(msg_id)
        .expected_last_subject_sequence(last)
        .header(header::EXPECTED_SUBJECT, filter);
    let publish = async {
        connection
            .jetstream
            .send_publish(outgoing.subject, message)
            .await?
            .await
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, publish).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) if e.kind() == PublishErrorKind::WrongLastSequence => Err(StoreError::Overtaken),
        Ok(Err(e)) => Err(unavailable(e.to_string())),
        Err(_) => Err(unavailable(format!("no answer within {REQUEST_TIMEOUT:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_counts_where_its_first_copy_was() {
        for (seq, first, counts) in [
            (20, None, 20),
            (20, Some("10"), 10),
            (20, Some("21"), 20),
            (20, Some("x"), 20),
        ] {
            assert_eq!(place(seq, first), counts, "{first:?}");
        }
    }
}
