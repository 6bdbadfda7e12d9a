//! Storing an event only if nothing has happened meanwhile to what it is about: the server compares and stores in one step.

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use nats::event::Envelope;
use nats::header;
use nats::runtime::connection::{Connection, REQUEST_TIMEOUT};
use nats::runtime::publish::Outgoing;
use nats::trace::TraceContext;

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

/// Stores an event if the last one under `filter` is still the one of sequence `seq`, or if the log keeps none of them any more:
/// it forgets after 30 days, and what has happened since it would have.
///
/// # Errors
/// See [`StoreError`]; within twice [`REQUEST_TIMEOUT`].
pub async fn store_if_last(connection: &Connection, envelope: &Envelope, msg_id: &str, filter: &str, seq: u64) -> Result<(), StoreError> {
    let unavailable = |e: String| StoreError::Unavailable(e);
    let outgoing = Outgoing::event(envelope, msg_id.to_owned(), TraceContext::generate()).map_err(|e| unavailable(e.to_string()))?;
    for expected in [seq, 0] {
        if !connection.is_connected() {
            // It would lie in the client's buffer, and be stored after the caller was told otherwise.
            return Err(unavailable("not connected to NATS".into()));
        }
        let message = PublishMessage::build()
            .payload(outgoing.payload.clone())
            .headers(outgoing.headers.clone())
            .message_id(msg_id)
            .expected_last_subject_sequence(expected)
            .header(header::EXPECTED_SUBJECT, filter);
        let publish = async { connection.jetstream.send_publish(outgoing.subject.clone(), message).await?.await };
        match tokio::time::timeout(REQUEST_TIMEOUT, publish).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(e)) if e.kind() == PublishErrorKind::WrongLastSequence => {}
            Ok(Err(e)) => return Err(unavailable(e.to_string())),
            Err(_) => return Err(unavailable(format!("no answer within {REQUEST_TIMEOUT:?}"))),
        }
    }
    Err(StoreError::Overtaken)
}
