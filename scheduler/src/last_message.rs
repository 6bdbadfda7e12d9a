//! Reads the last message under a subject of a stream. Waits for no new one.

use async_nats::jetstream::Context;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::DirectGetErrorKind;

/// The last message under a subject or filter. Any replica of the stream answers, which may be a
/// little behind.
///
/// # Errors
/// The server does not answer.
pub async fn last_message(
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
