//! Reading stored messages by their sequence in a stream, a page at a time, without a consumer: the
//! server's batched direct get. Keeps no state.

use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{DirectGetErrorKind, LastRawMessageErrorKind};
use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::json;

use crate::net::connection::Connection;
use contract::Timestamp;

/// Messages that one page may ask for. The server itself has no such limit.
pub const MAX_PAGE: usize = 1_000;
/// Bytes of a page after which the server ends the page early.
pub const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;
/// The time within which the next message of a page must come. Beyond it the page is given up.
const WAIT: Duration = Duration::from_secs(4);

/// Subjects that [`latest`] asks for at once. The server refuses more than 1,024.
pub const MAX_LATEST: usize = 256;

/// The status that ends a page.
const END_OF_PAGE: u16 = 204;

/// Why messages cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The caller asks [`latest`] for more than [`MAX_LATEST`] subjects.
    #[error("{0} subjects are more than {MAX_LATEST}")]
    TooManySubjects(usize),
    /// No server has answered in time.
    #[error("{0} does not answer")]
    NoAnswer(String),
    /// The server refuses the request.
    #[error("{status} {description}")]
    Refused {
        /// The status of the answer.
        status: StatusCode,
        /// The server's own words.
        description: String,
    },
    /// The subscription to the answers ended: the client is closed.
    #[error("the subscription ended")]
    Ended,
    /// The request cannot be sent, or the answer cannot be read.
    #[error(transparent)]
    Client(async_nats::Error),
}

fn client(error: impl Into<async_nats::Error>) -> ReadError {
    ReadError::Client(error.into())
}

fn refused(status: StatusCode, description: Option<String>) -> ReadError {
    ReadError::Refused {
        status,
        description: description.unwrap_or_default(),
    }
}

/// A message as a stream holds it.
#[derive(Clone, Debug)]
pub struct StoredMessage {
    /// The sequence in the stream.
    pub seq: u64,
    /// The subject in the stream.
    pub subject: String,
    /// When the stream stored the message.
    pub stored_at: Timestamp,
    /// The headers, empty if none. The headers of the server's answer, such as `Nats-Stream`, are
    /// among them.
    pub headers: HeaderMap,
    /// The payload, which need not be JSON.
    pub payload: Bytes,
}

impl StoredMessage {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.as_str())
    }
}

/// The messages under `filter` from the sequence `from` on, in order, at most `limit` (itself at
/// most [`MAX_PAGE`]). A page that is not full does not mean the end: ask again after its last
/// message. Only an empty page is the end.
///
/// # Errors
/// The server does not answer, or refuses.
pub async fn page(
    connection: &Connection,
    stream: &str,
    filter: &str,
    from: u64,
    limit: usize,
) -> Result<Vec<StoredMessage>, ReadError> {
    page_within(connection, stream, filter, from, limit, MAX_PAGE_BYTES).await
}

/// The same as [`page`], with an end after so many bytes.
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
) -> Result<Vec<StoredMessage>, ReadError> {
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
pub async fn bounds(connection: &Connection, stream: &str) -> Result<Bounds, ReadError> {
    let stream = connection
        .jetstream
        .get_stream(stream)
        .await
        .map_err(client)?;
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
pub async fn last_seq(
    connection: &Connection,
    stream: &str,
    filter: &str,
) -> Result<u64, ReadError> {
    let asked = async {
        let stream = connection
            .jetstream
            .get_stream_no_info(stream)
            .await
            .map_err(client)?;
        match stream.get_last_raw_message_by_subject(filter).await {
            Ok(message) => Ok(message.sequence),
            Err(e) if e.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(0),
            Err(e) => Err(client(e)),
        }
    };
    tokio::time::timeout(WAIT, asked)
        .await
        .map_err(|_| ReadError::NoAnswer(stream.to_owned()))?
}

/// The same as [`page`], for messages that were stored at a time or after it.
///
/// # Errors
/// See [`page`].
pub async fn page_since(
    connection: &Connection,
    stream: &str,
    filter: &str,
    from: Timestamp,
    limit: usize,
) -> Result<Vec<StoredMessage>, ReadError> {
    let limit = limit.clamp(1, MAX_PAGE);
    let request = json!({
        "batch": limit,
        "max_bytes": MAX_PAGE_BYTES,
        "start_time": from,
        "next_by_subj": filter,
    });
    get(connection, stream, request).await
}

/// The last message of each of these subjects, at most [`MAX_LATEST`] of them. A subject without a
/// message is absent. A replica may answer that is a little behind.
///
/// # Errors
/// See [`page`].
pub async fn latest(
    connection: &Connection,
    stream: &str,
    subjects: &[String],
) -> Result<Vec<StoredMessage>, ReadError> {
    match subjects.len() {
        0 => Ok(Vec::new()),
        1..=MAX_LATEST => get(connection, stream, json!({"multi_last": subjects})).await,
        more => Err(ReadError::TooManySubjects(more)),
    }
}

/// The last message under a subject or filter. Any replica answers, which may be a little behind.
/// Needs no more permission than for this subject.
///
/// # Errors
/// See [`page`].
pub async fn last(
    connection: &Connection,
    stream: &str,
    filter: &str,
) -> Result<Option<StoredMessage>, ReadError> {
    let asked = async {
        let handle = connection
            .jetstream
            .get_stream_no_info(stream)
            .await
            .map_err(client)?;
        match handle.direct_get_last_for_subject(filter).await {
            Ok(message) => Ok(Some(StoredMessage::from(message))),
            Err(e) if e.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(e) => Err(client(e)),
        }
    };
    tokio::time::timeout(WAIT, asked)
        .await
        .map_err(|_| ReadError::NoAnswer(stream.to_owned()))?
}

/// The same as [`last_seq`], as any replica knows it, which may be a little behind. That is cheaper
/// for the server.
///
/// # Errors
/// No replica answers, or it refuses.
pub async fn last_seq_of_a_replica(
    connection: &Connection,
    stream: &str,
    filter: &str,
) -> Result<u64, ReadError> {
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let request = json!({"last_by_subj": filter}).to_string();
    let answer = connection
        .client
        .request(subject, request.into())
        .await
        .map_err(client)?;
    match answer.status {
        None | Some(StatusCode::OK) => Ok(stored(answer)?.seq),
        Some(StatusCode::NOT_FOUND) => Ok(0),
        Some(status) => Err(refused(status, answer.description.map(|d| d.to_string()))),
    }
}

async fn get(
    connection: &Connection,
    stream: &str,
    request: serde_json::Value,
) -> Result<Vec<StoredMessage>, ReadError> {
    let inbox = connection.client.new_inbox();
    let mut answers = connection
        .client
        .subscribe(inbox.clone())
        .await
        .map_err(client)?;
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    connection
        .client
        .publish_with_reply(subject, inbox, request.to_string().into())
        .await
        .map_err(client)?;
    let mut page = Vec::new();
    loop {
        let answer = match tokio::time::timeout(WAIT, answers.next()).await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(ReadError::Ended),
            Err(_) => return Err(ReadError::NoAnswer(stream.to_owned())),
        };
        match answer.status {
            None | Some(StatusCode::OK) => page.push(stored(answer)?),
            Some(StatusCode::NOT_FOUND) => return Ok(page),
            Some(status) if status.as_u16() == END_OF_PAGE => return Ok(page),
            Some(status) => return Err(refused(status, answer.description.map(|d| d.to_string()))),
        }
    }
}

fn stored(message: async_nats::Message) -> Result<StoredMessage, ReadError> {
    let message = StreamMessage::try_from(message).map_err(client)?;
    Ok(message.into())
}

impl From<StreamMessage> for StoredMessage {
    fn from(message: StreamMessage) -> StoredMessage {
        StoredMessage {
            seq: message.sequence,
            subject: message.subject.to_string(),
            stored_at: message.time.into(),
            headers: message.headers,
            payload: message.payload,
        }
    }
}
