//! Reading stored messages by their place in a stream, a page at a time, without a consumer: the
//! server's batched direct get.

use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::json;

use crate::net::connection::Connection;
use contract::Timestamp;

/// Most messages that one page may ask for; the server itself has no limit but its `max_payload` a
/// message.
pub const MAX_PAGE: usize = 1_000;
/// The server ends a page early once it has sent so much.
pub const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;
/// A page whose next message does not come within this is given up.
const WAIT: Duration = Duration::from_secs(4);

/// Most entries that [`latest`] asks for at once. The server refuses more than 1,024.
pub const MAX_LATEST: usize = 256;

/// The status that ends a page.
const END_OF_PAGE: u16 = 204;

/// A stored message.
#[derive(Clone, Debug)]
pub struct StoredMessage {
    /// Its sequence.
    pub seq: u64,
    /// Its subject.
    pub subject: String,
    /// When it was stored.
    pub stored_at: Timestamp,
    /// Its headers, empty if none; the server's own `Nats-Stream`, `Nats-Subject`, … of the answer
    /// are among them.
    pub headers: HeaderMap,
    /// Its payload.
    pub payload: Bytes,
}

impl StoredMessage {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.as_str())
    }
}

/// What stands at or after `from` under `filter`, in order, at most `limit` (itself at most
/// [`MAX_PAGE`]). Fewer do not mean the end: ask again after the last one; an empty page is the
/// end.
///
/// # Errors
/// The server does not answer, or refuses.
pub async fn page(
    connection: &Connection,
    stream: &str,
    filter: &str,
    from: u64,
    limit: usize,
) -> Result<Vec<StoredMessage>, String> {
    page_within(connection, stream, filter, from, limit, MAX_PAGE_BYTES).await
}

/// The same, with an end after so many bytes.
///
/// # Errors
/// See [`page`].
pub async fn page_within(
    connection: &Connection,
    stream: &str,
    filter: &str,
    from: u64,
    limit: usize,
    bytes: usize,
) -> Result<Vec<StoredMessage>, String> {
    let limit = limit.clamp(1, MAX_PAGE);
    get(
        connection,
        stream,
        json!({"batch": limit, "max_bytes": bytes, "seq": from.max(1), "next_by_subj": filter}),
    )
    .await
}

/// The sequences between which a stream keeps its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first sequence that the stream may still hold.
    pub first_seq: u64,
    /// The last sequence, as the stream's leader knows it.
    pub last_seq: u64,
}

/// Asks a stream's leader for the stream's bounds. The connection's `REQUEST_TIMEOUT` limits the
/// wait.
///
/// # Errors
/// The leader does not answer, or refuses.
pub async fn bounds(connection: &Connection, stream: &str) -> Result<Bounds, String> {
    let stream = connection
        .jetstream
        .get_stream(stream)
        .await
        .map_err(|e| e.to_string())?;
    let state = &stream.cached_info().state;
    Ok(Bounds {
        first_seq: state.first_sequence,
        last_seq: state.last_sequence,
    })
}

/// The sequence of the last message under `filter`, 0 if there is none. Asks the stream's leader:
/// every message that was stored before the question is counted, which a page, from any replica,
/// does not promise.
///
/// # Errors
/// The leader does not answer, or refuses.
pub async fn last_seq(connection: &Connection, stream: &str, filter: &str) -> Result<u64, String> {
    let asked = async {
        let stream = connection
            .jetstream
            .get_stream_no_info(stream)
            .await
            .map_err(|e| e.to_string())?;
        match stream.get_last_raw_message_by_subject(filter).await {
            Ok(message) => Ok(message.sequence),
            Err(e) if e.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(0),
            Err(e) => Err(e.to_string()),
        }
    };
    tokio::time::timeout(WAIT, asked)
        .await
        .map_err(|_| format!("{stream} does not answer"))?
}

/// The same for what was stored at a time or after it.
///
/// # Errors
/// See [`page`].
pub async fn page_since(
    connection: &Connection,
    stream: &str,
    filter: &str,
    from: Timestamp,
    limit: usize,
) -> Result<Vec<StoredMessage>, String> {
    let limit = limit.clamp(1, MAX_PAGE);
    get(connection, stream, json!({"batch": limit, "max_bytes": MAX_PAGE_BYTES, "start_time": from, "next_by_subj": filter})).await
}

/// The last message of each of these subjects, at most [`MAX_LATEST`] of them; those without one
/// are absent. A replica may answer that is a little behind.
///
/// # Errors
/// See [`page`].
pub async fn latest(
    connection: &Connection,
    stream: &str,
    subjects: &[String],
) -> Result<Vec<StoredMessage>, String> {
    match subjects.len() {
        0 => Ok(Vec::new()),
        1..=MAX_LATEST => get(connection, stream, json!({"multi_last": subjects})).await,
        more => Err(format!("{more} subjects are more than {MAX_LATEST}")),
    }
}

/// The same as any replica knows it, which may be a little behind; cheaper for the server.
///
/// # Errors
/// No replica answers, or it refuses.
pub async fn last_seq_of_a_replica(
    connection: &Connection,
    stream: &str,
    filter: &str,
) -> Result<u64, String> {
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let request = json!({"last_by_subj": filter}).to_string();
    let answer = connection
        .client
        .request(subject, request.into())
        .await
        .map_err(|e| e.to_string())?;
    match answer.status {
        None | Some(StatusCode::OK) => Ok(stored(answer)?.seq),
        Some(StatusCode::NOT_FOUND) => Ok(0),
        Some(status) => Err(format!(
            "{status} {}",
            answer.description.unwrap_or_default()
        )),
    }
}

async fn get(
    connection: &Connection,
    stream: &str,
    request: serde_json::Value,
) -> Result<Vec<StoredMessage>, String> {
    let inbox = connection.client.new_inbox();
    let mut answers = connection
        .client
        .subscribe(inbox.clone())
        .await
        .map_err(|e| e.to_string())?;
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    connection
        .client
        .publish_with_reply(subject, inbox, request.to_string().into())
        .await
        .map_err(|e| e.to_string())?;
    let mut page = Vec::new();
    loop {
        let answer = match tokio::time::timeout(WAIT, answers.next()).await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err("the subscription ended".into()),
            Err(_) => return Err(format!("{stream} does not answer")),
        };
        match answer.status {
            None | Some(StatusCode::OK) => page.push(stored(answer)?),
            Some(StatusCode::NOT_FOUND) => return Ok(page),
            Some(status) if status.as_u16() == END_OF_PAGE => return Ok(page),
            Some(status) => {
                return Err(format!(
                    "{status} {}",
                    answer.description.unwrap_or_default()
                ));
            }
        }
    }
}

fn stored(message: async_nats::Message) -> Result<StoredMessage, String> {
    let message = StreamMessage::try_from(message).map_err(|e| e.to_string())?;
    Ok(StoredMessage {
        seq: message.sequence,
        subject: message.subject.to_string(),
        stored_at: message.time.into(),
        headers: message.headers,
        payload: message.payload,
    })
}
