//! Entries of a KV bucket: JSON, each with a time to live. Entries are read from the stream's
//! leader, because another replica may still have an overwritten one. Lists and watches nothing,
//! and so needs no more permissions than to ask for an entry and to publish one.

use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use metrics::counter;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{debug, warn};

use crate::log::direct_get::ReadError;
use crate::net::connection::{Connection, REQUEST_TIMEOUT, SendError, is_overtaken};
use contract::{inventory, subject};

/// Shortest and longest pause before a write is said to be overtaken. The other write may still be
/// on its way to the replicas: the caller's next read shall find it. The pause is random, so that
/// those who were overtaken together do not meet again.
const OVERTAKEN_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(40));

/// A handle of one bucket. Cloning is cheap.
#[derive(Clone)]
pub struct Bucket {
    connection: Connection,
    name: &'static str,
}

/// The latest revision of a key.
#[derive(Debug)]
pub struct Entry<T> {
    /// `None` if the key was never written, was removed or has expired.
    pub value: Option<T>,
    /// The sequence of the revision, 0 if there is none. [`Bucket::write`] replaces this revision.
    pub revision: u64,
}

/// Why an entry was not read or not written.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// Another revision was written since the entry was read.
    #[error("somebody else was faster")]
    Overtaken,
    /// No answer within [`REQUEST_TIMEOUT`], or a refusal. A write may have happened all the same.
    #[error("{0}")]
    Unavailable(String),
}

impl From<ReadError> for BucketError {
    fn from(error: ReadError) -> BucketError {
        BucketError::Unavailable(error.to_string())
    }
}

impl Bucket {
    /// Asks nothing yet.
    pub fn new(connection: Connection, name: &'static str) -> Bucket {
        Bucket { connection, name }
    }

    /// The entry under a key.
    ///
    /// # Errors
    /// [`BucketError::Unavailable`], also for an entry that is not a `T`.
    pub async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Entry<T>, BucketError> {
        let read = async {
            let stream = self
                .connection
                .jetstream
                .get_stream_no_info(format!("KV_{}", self.name))
                .await
                .map_err(|e| e.to_string())?;
            match stream
                .get_last_raw_message_by_subject(&subject::entry(self.name, key))
                .await
            {
                // The marker of an entry that was removed or has expired.
                Ok(message) if message.payload.is_empty() => Ok(Entry {
                    value: None,
                    revision: message.sequence,
                }),
                Ok(message) => {
                    let value =
                        serde_json::from_slice(&message.payload).map_err(|e| e.to_string())?;
                    Ok(Entry {
                        value: Some(value),
                        revision: message.sequence,
                    })
                }
                Err(e) if e.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(Entry {
                    value: None,
                    revision: 0,
                }),
                Err(e) => Err(e.to_string()),
            }
        };
        self.connection
            .within(REQUEST_TIMEOUT, read)
            .await
            .map_err(|e| self.unavailable(e.to_string()))
    }

    /// Writes a value that lives for `ttl` (whole seconds, 1 or more) in place of `revision`.
    ///
    /// # Errors
    /// [`BucketError::Overtaken`] if the key has another revision, else
    /// [`BucketError::Unavailable`].
    pub async fn write<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        revision: u64,
        ttl: Duration,
    ) -> Result<(), BucketError> {
        let value = serde_json::to_vec(value).map_err(|e| self.unavailable(e.to_string()))?;
        self.publish(
            key,
            PublishMessage::build()
                .payload(value.into())
                .ttl(ttl)
                .expected_last_subject_sequence(revision),
        )
        .await
    }

    /// Writes a value that lives for `ttl` (whole seconds, 1 or more), whatever the key's revision.
    ///
    /// # Errors
    /// [`BucketError::Unavailable`].
    pub async fn put<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        ttl: Duration,
    ) -> Result<(), BucketError> {
        let value = serde_json::to_vec(value).map_err(|e| self.unavailable(e.to_string()))?;
        self.publish(key, PublishMessage::build().payload(value.into()).ttl(ttl))
            .await
    }

    /// Removes `revision`, or with `None` the entry whatever its revision.
    ///
    /// # Errors
    /// As [`Bucket::write`]. A key without an entry is no error.
    pub async fn remove(&self, key: &str, revision: Option<u64>) -> Result<(), BucketError> {
        // The marker has a time to live. Otherwise it would stay for good.
        let marker = PublishMessage::build()
            .header("KV-Operation", "PURGE")
            .header("Nats-Rollup", "sub")
            .ttl(inventory::BUCKET_MARKERS);
        self.publish(
            key,
            revision
                .into_iter()
                .fold(marker, PublishMessage::expected_last_subject_sequence),
        )
        .await
    }

    async fn publish(&self, key: &str, message: PublishMessage) -> Result<(), BucketError> {
        let subject = subject::entry(self.name, key);
        let stored = self
            .connection
            .store_now(subject, message, REQUEST_TIMEOUT)
            .await;
        match stored {
            Ok(_) => Ok(()),
            Err(SendError::Failed(e)) if is_overtaken(&e) => {
                let pause = rand::random_range(OVERTAKEN_PAUSE.0..=OVERTAKEN_PAUSE.1);
                tokio::time::sleep(pause).await;
                Err(BucketError::Overtaken)
            }
            Err(e) => Err(self.unavailable(e.to_string())),
        }
    }

    fn unavailable(&self, error: String) -> BucketError {
        counter!("bucket_unavailable_total", "bucket" => self.name).increment(1);
        // A lost connection was logged before, once.
        match self.connection.is_connected() {
            true => warn!(bucket = self.name, error, "a bucket does not answer"),
            false => debug!(bucket = self.name, error, "a bucket does not answer"),
        }
        BucketError::Unavailable(error)
    }
}
