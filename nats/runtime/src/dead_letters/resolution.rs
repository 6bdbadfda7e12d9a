//! What becomes of a letter: exactly one thing. The bucket's entry is made once, by whoever is
//! first; a replay is noted before it is done and again when it is, so that whoever finds one begun
//! completes it.

use super::{DeadLetter, DeadLetterError, DeadLetters, Scope};
use crate::kv::bucket::{BucketError, Entry};
use contract::Timestamp;
use contract::dead_letter::{Resolution, State, StreamPosition};
use contract::inventory;

/// Writes that may be overtaken, or their acknowledgement lost, before it is given up.
const TRIES: u32 = 5;

/// What stands in a letter's entry.
pub(super) struct Decided {
    /// It.
    pub resolution: Resolution,
    /// Whether it was this call that made it. Only then has nobody acted on it yet.
    pub is_new: bool,
}

impl From<BucketError> for DeadLetterError {
    fn from(error: BucketError) -> DeadLetterError {
        DeadLetterError::Unavailable(error.to_string())
    }
}

impl DeadLetters {
    /// Decides that a letter is not to be replayed. Deciding it again changes nothing: the first
    /// reason stays.
    ///
    /// # Errors
    /// [`DeadLetterError::NotFound`]; [`DeadLetterError::Resolved`] if it is replayed;
    /// [`DeadLetterError::Unavailable`].
    pub async fn discard(
        &self,
        scope: Scope,
        seq: u64,
        by: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<DeadLetter, DeadLetterError> {
        let (_, mut letter) = self.get(scope, seq).await?;
        let wanted = Resolution {
            state: State::Discarded,
            by: by.to_owned(),
            at: now,
            reason: Some(reason.to_owned()),
            replayed_to: None,
        };
        letter.resolution = Some(self.decide(seq, wanted).await?.resolution);
        Ok(letter.for_scope(scope))
    }

    /// Begins a replay, or finds it begun or done.
    pub(super) async fn begin_replay(
        &self,
        seq: u64,
        by: &str,
        now: Timestamp,
    ) -> Result<Decided, DeadLetterError> {
        self.decide(
            seq,
            Resolution {
                state: State::Replaying,
                by: by.to_owned(),
                at: now,
                reason: None,
                replayed_to: None,
            },
        )
        .await
    }

    /// Completes a replay. Nothing else can stand there, and all who complete it write the same.
    pub(super) async fn end_replay(
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
        self.resolutions
            .put(&seq.to_string(), &resolution, inventory::DEAD_MAX_AGE)
            .await?;
        Ok(resolution)
    }

    /// Takes back a replay that no stream will ever take.
    pub(super) async fn reopen(&self, seq: u64, begun: &Resolution) -> Result<(), DeadLetterError> {
        let entry = self.resolution(seq).await?;
        if entry.value.as_ref() == Some(begun) {
            self.resolutions
                .remove(&seq.to_string(), Some(entry.revision))
                .await?;
        }
        Ok(())
    }

    /// The entry, as the bucket's leader has it.
    pub(super) async fn resolution(&self, seq: u64) -> Result<Entry<Resolution>, DeadLetterError> {
        Ok(self.resolutions.read(&seq.to_string()).await?)
    }

    /// Makes the entry unless there is one; what stands there then.
    async fn decide(&self, seq: u64, wanted: Resolution) -> Result<Decided, DeadLetterError> {
        let mut error = BucketError::Overtaken;
        for _ in 0..TRIES {
            let entry = self.resolution(seq).await?;
            if let Some(found) = entry.value {
                return agree(&wanted, found).map(|resolution| Decided {
                    resolution,
                    is_new: false,
                });
            }
            match self
                .resolutions
                .write(
                    &seq.to_string(),
                    &wanted,
                    entry.revision,
                    inventory::DEAD_MAX_AGE,
                )
                .await
            {
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

/// Whether what stands there is what was wanted, or on the way to it.
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
    fn a_letter_is_replayed_or_discarded_and_never_both() {
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
