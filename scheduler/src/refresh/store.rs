//! Stores an event only if no other event about the same thing was stored meanwhile: the server
//! compares and stores in one step. Also compares the log with the view before that. Does not know
//! what the events mean.

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use contract::event::Envelope;
use contract::trace::TraceContext;
use contract::{header, inventory, subject};
use runtime::log::direct_get;
use runtime::log::publisher::Outgoing;
use runtime::net::connection::{Connection, REQUEST_TIMEOUT, SendError};

use crate::last_message::last_message;

/// The service that writes the view. An event that it dead-letters is missing there.
const VIEW_OWNER: &str = "persister";

/// Why an event is not known to be stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another event was stored since.
    #[error("it was changed meanwhile")]
    Overtaken,
    /// The server refused the event or did not answer. The event may be stored nevertheless.
    #[error("{0}")]
    Unavailable(String),
}

/// How far the view is, compared with the log, for the events under one filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewState {
    /// The view shows the last event, which has this sequence; 0 if the log keeps no event.
    Current(u64),
    /// The view does not show the last event yet.
    Behind,
    /// The view will never show the last event, which has this sequence, because the event became
    /// a dead letter.
    DeadLettered(u64),
}

/// Compares the log's last event under `filter` with `shown`, the log position of the last event in
/// the view. The log position of a replayed event is the sequence of its first copy. The sequence
/// in the result is the event's own, because the server compares with that.
///
/// # Errors
/// The server does not answer.
pub async fn view_state(
    connection: &Connection,
    filter: &str,
    shown: u64,
) -> Result<ViewState, String> {
    let Some(last) = last_message(&connection.jetstream, inventory::EVENTS, filter).await? else {
        return Ok(ViewState::Current(0));
    };
    let position = header::log_position(inventory::EVENTS, last.sequence, |name| {
        last.headers.get(name).map(|value| value.as_str())
    });
    if position.is_none_or(|position| position <= shown) {
        return Ok(ViewState::Current(last.sequence));
    }
    let dead_letters = direct_get::latest(
        connection,
        inventory::DEAD,
        &[subject::dead(VIEW_OWNER, &last.subject)],
    )
    .await
    .map_err(|e| e.to_string())?;
    let dead = dead_letters
        .first()
        .and_then(|dead_letter| dead_letter.header(header::DEAD_STREAM_SEQ));
    Ok(if dead == Some(last.sequence.to_string().as_str()) {
        ViewState::DeadLettered(last.sequence)
    } else {
        ViewState::Behind
    })
}

/// Stores an event if the last event under `filter` still has the sequence `last`, or if there is
/// none and `last` is 0. Takes at most [`REQUEST_TIMEOUT`].
///
/// # Errors
/// See [`StoreError`].
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
    let message = PublishMessage::build()
        .payload(outgoing.payload)
        .headers(outgoing.headers)
        .message_id(msg_id)
        .expected_last_subject_sequence(last)
        .header(header::EXPECTED_SUBJECT, filter);
    match connection
        .store_now(outgoing.subject, message, REQUEST_TIMEOUT)
        .await
    {
        Ok(_) => Ok(()),
        Err(SendError::Failed(e)) if e.kind() == PublishErrorKind::WrongLastSequence => {
            Err(StoreError::Overtaken)
        }
        Err(e) => Err(unavailable(e.to_string())),
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
            let position = header::log_position(inventory::EVENTS, seq, |name| {
                first.filter(|_| name == header::EVENT_SEQ)
            });
            assert_eq!(position, Some(counts), "{first:?}");
        }
    }
}
