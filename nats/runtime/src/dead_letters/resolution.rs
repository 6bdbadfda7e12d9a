//! What became of a dead letter: it is either replayed or discarded, once. The entry in the bucket
//! `dead-letters` is made once, by the caller who is first. A replay is noted before it is done and
//! again when it is done, so that another caller can complete a replay that was only begun. Reads
//! no dead letter, and publishes none.

use std::collections::HashMap;

use super::model::DeadLetterError;
use crate::kv::bucket::{Bucket, BucketError};
use crate::log::direct_get;
use crate::net::connection::Connection;
use contract::dead_letter::{Resolution, State, StreamPosition};
use contract::{Timestamp, inventory, subject};

/// Writes that may be overtaken, or whose acknowledgement may be lost. Beyond it the decision
/// fails.
const TRIES: u32 = 5;

/// The entry of a dead letter.
pub(super) struct Decided {
    pub resolution: Resolution,
    /// Whether this call made the entry. Only then nobody has acted on the entry yet.
    pub is_new: bool,
}

/// The bucket `dead-letters`.
#[derive(Clone)]
pub(super) struct Resolutions {
    connection: Connection,
    bucket: Bucket,
}

impl Resolutions {
    pub fn new(connection: Connection) -> Resolutions {
        let bucket = Bucket::new(connection.clone(), inventory::DEAD_LETTERS);
        Resolutions { connection, bucket }
    }

    /// What became of one dead letter, as the bucket's leader has it.
    pub async fn get(&self, seq: u64) -> Result<Option<Resolution>, DeadLetterError> {
        Ok(self.bucket.read(&seq.to_string()).await?.value)
    }

    /// What became of several dead letters, as some replica of the bucket has it.
    pub async fn of(
        &self,
        sequences: impl Iterator<Item = u64>,
    ) -> Result<HashMap<u64, Resolution>, DeadLetterError> {
        let stream = format!("KV_{}", inventory::DEAD_LETTERS);
        let subjects: Vec<String> = sequences
            .map(|seq| subject::entry(inventory::DEAD_LETTERS, &seq.to_string()))
            .collect();
        let mut resolutions = HashMap::new();
        for some in subjects.chunks(direct_get::MAX_LATEST) {
            for entry in direct_get::latest(&self.connection, &stream, some).await? {
                let seq = entry.subject.rsplit('.').next();
                let seq = seq.and_then(|seq| seq.parse().ok());
                // The marker of an entry that was removed is empty.
                resolutions.extend(seq.zip(serde_json::from_slice(&entry.payload).ok()));
            }
        }
        Ok(resolutions)
    }

    /// Decides that a dead letter is not to be replayed.
    pub async fn discard(
        &self,
        seq: u64,
        by: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<Resolution, DeadLetterError> {
        let wanted = Resolution {
            state: State::Discarded,
            by: by.to_owned(),
            at: now,
            reason: Some(reason.to_owned()),
            replayed_to: None,
        };
        Ok(self.decide(seq, wanted).await?.resolution)
    }

    /// Begins a replay, or finds it begun or done.
    pub async fn begin_replay(
        &self,
        seq: u64,
        by: &str,
        now: Timestamp,
    ) -> Result<Decided, DeadLetterError> {
        let wanted = Resolution {
            state: State::Replaying,
            by: by.to_owned(),
            at: now,
            reason: None,
            replayed_to: None,
        };
        self.decide(seq, wanted).await
    }

    /// Completes a replay. Once a replay was begun the entry can hold nothing else, and all callers
    /// who complete the replay write the same.
    pub async fn end_replay(
        &self,
        seq: u64,
        begun: Resolution,
        to: StreamPosition,
    ) -> Result<Resolution, DeadLetterError> {
        let resolution = Resolution {
            state: State::Replayed,
            replayed_to: Some(to),
            ..begun
        };
        self.bucket
            .put(&seq.to_string(), &resolution, inventory::DEAD_MAX_AGE)
            .await?;
        Ok(resolution)
    }

    /// Takes back a replay that no stream will ever take.
    pub async fn reopen(&self, seq: u64, begun: &Resolution) -> Result<(), DeadLetterError> {
        let entry = self.bucket.read::<Resolution>(&seq.to_string()).await?;
        if entry.value.as_ref() == Some(begun) {
            self.bucket
                .remove(&seq.to_string(), Some(entry.revision))
                .await?;
        }
        Ok(())
    }

    /// Makes the entry unless there is one already, and returns the entry that is there then.
    async fn decide(&self, seq: u64, wanted: Resolution) -> Result<Decided, DeadLetterError> {
        let key = seq.to_string();
        let mut error = BucketError::Overtaken;
        for _ in 0..TRIES {
            let entry = self.bucket.read(&key).await?;
            if let Some(found) = entry.value {
                return agree(&wanted, found).map(|resolution| Decided {
                    resolution,
                    is_new: false,
                });
            }
            let written = self
                .bucket
                .write(&key, &wanted, entry.revision, inventory::DEAD_MAX_AGE)
                .await;
            match written {
                Ok(()) => {
                    return Ok(Decided {
                        resolution: wanted,
                        is_new: true,
                    });
                }
                Err(e) => error = e,
            }
        }
        Err(error.into())
    }
}

/// Returns what was found if it is what was wanted, or a later step of the same decision.
fn agree(wanted: &Resolution, found: Resolution) -> Result<Resolution, DeadLetterError> {
    let is_discard = |resolution: &Resolution| resolution.state == State::Discarded;
    match is_discard(wanted) == is_discard(&found) {
        true => Ok(found),
        false => Err(DeadLetterError::Resolved(found.state)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_is_replayed_or_discarded_and_never_both() {
        let resolution = |state| Resolution {
            state,
            by: "operator".into(),
            at: Timestamp::from_millis(0),
            reason: None,
            replayed_to: None,
        };
        for (wanted, found, agrees) in [
            (State::Replaying, State::Replaying, true),
            (State::Replaying, State::Replayed, true),
            (State::Replaying, State::Discarded, false),
            (State::Discarded, State::Discarded, true),
            (State::Discarded, State::Replaying, false),
            (State::Discarded, State::Replayed, false),
        ] {
            let expected = if agrees {
                Ok(resolution(found))
            } else {
                Err(DeadLetterError::Resolved(found))
            };
            assert_eq!(
                agree(&resolution(wanted), resolution(found)),
                expected,
                "{wanted} of {found}"
            );
        }
    }
}
