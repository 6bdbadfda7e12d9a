//! Stores an event only if no other event about the same thing was stored meanwhile: the server
//! compares and stores in one step. Also compares the log with the view before that. Does not know
//! what the events mean.

use async_nats::jetstream::message::PublishMessage;
use contract::domain::Provider;
use contract::event::Envelope;
use contract::subject::EventSubject;
use contract::trace::TraceContext;
use contract::{Id, header, inventory, subject};
use runtime::log::direct_get;
use runtime::log::publisher::Outgoing;
use runtime::net::connection::{Connection, REQUEST_TIMEOUT, SendError, is_overtaken};

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
    let last = direct_get::last(connection, inventory::EVENTS, filter)
        .await
        .map_err(|e| e.to_string())?;
    let Some(last) = last else {
        return Ok(ViewState::Current(0));
    };
    let position = header::log_position(inventory::EVENTS, last.seq, |name| last.header(name));
    if position.is_none_or(|position| position <= shown) {
        return Ok(ViewState::Current(last.seq));
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
    Ok(if dead == Some(last.seq.to_string().as_str()) {
        ViewState::DeadLettered(last.seq)
    } else {
        ViewState::Behind
    })
}

/// Stores an event about a company's access to a platform if the last event about it still has the
/// sequence `last`, or if there is none and `last` is 0. Takes at most 10 s.
///
/// The server compares and stores in one step only for one concrete subject. For a filter it would
/// miss an event that the replicas are just storing. The concrete subject is that of
/// `integration.updated`, because a new token of a manager must never be replaced. The other events
/// are compared just before that.
///
/// # Errors
/// See [`StoreError`].
pub async fn store_if_last(
    connection: &Connection,
    envelope: &Envelope,
    msg_id: &str,
    (company, provider): (Id, Provider),
    last: u64,
) -> Result<(), StoreError> {
    let updated = EventSubject::IntegrationUpdated { company, provider }.to_string();
    // In this order: an update after the first look is refused by the server.
    let last_update = last_seq(connection, &updated).await?;
    let any = subject::integration_of(company, provider);
    if last_seq(connection, &any).await? != last {
        return Err(StoreError::Overtaken);
    }
    let outgoing = Outgoing::event(envelope, msg_id.to_owned(), TraceContext::generate())
        .map_err(|e| StoreError::Unavailable(e.to_string()))?;
    let message = PublishMessage::build()
        .payload(outgoing.payload)
        .headers(outgoing.headers)
        .message_id(msg_id)
        .expected_last_subject_sequence(last_update)
        .header(header::EXPECTED_SUBJECT, updated);
    match connection
        .store_now(outgoing.subject, message, REQUEST_TIMEOUT)
        .await
    {
        Ok(_) => Ok(()),
        Err(SendError::Failed(e)) if is_overtaken(&e) => Err(StoreError::Overtaken),
        Err(e) => Err(StoreError::Unavailable(e.to_string())),
    }
}

/// The sequence of the last event under a filter, 0 if there is none. A replica that is behind gives
/// too small a number, with which the server refuses the write.
async fn last_seq(connection: &Connection, filter: &str) -> Result<u64, StoreError> {
    match direct_get::last(connection, inventory::EVENTS, filter).await {
        Ok(message) => Ok(message.map_or(0, |message| message.seq)),
        Err(e) => Err(StoreError::Unavailable(e.to_string())),
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
