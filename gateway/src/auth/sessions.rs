//! Sessions: which refresh token of a login is good. Each is good once; one that comes again was copied, and ends its whole
//! session. Access tokens are not looked up here: they are good until they expire.

use std::time::Duration;

use metrics::counter;
use nats::runtime::connection::Connection;
use nats::{Id, Timestamp, stream};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::problem::Problem;
use nats::runtime::bucket::{Bucket, BucketError};

/// Writes that may be overtaken, or their acknowledgement lost, before a refresh is given up.
const TRIES: u32 = 5;

/// The bucket `sessions`.
#[derive(Clone)]
pub struct Sessions {
    bucket: Bucket,
    ttl: Duration,
}

/// A login, as the bucket keeps it. The key is `<user>.<session>`.
#[derive(Debug, Serialize, Deserialize)]
struct Session {
    /// The one refresh token that is good.
    current: Id,
    /// The login.
    created_at: Timestamp,
    /// The last refresh.
    refreshed_at: Timestamp,
}

/// A session and its good refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The session, `sid` of all its tokens.
    pub session: Id,
    /// The refresh token, its `jti`.
    pub token: Id,
}

/// What a refresh token means for its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// It is the good one.
    First,
    /// It has been used before.
    Again,
    /// The token that shall replace it stands there already: we wrote it, and did not hear so.
    Done,
}

impl Session {
    fn usage(&self, token: Id, next: Id) -> Use {
        match self.current {
            current if current == token => Use::First,
            current if current == next => Use::Done,
            _ => Use::Again,
        }
    }
}

impl Sessions {
    /// Each lives for `ttl` after its last refresh.
    pub fn new(connection: Connection, ttl: Duration) -> Sessions {
        Sessions { bucket: Bucket::new(connection, stream::SESSIONS), ttl }
    }

    /// A new one.
    ///
    /// # Errors
    /// The bucket does not answer.
    pub async fn open(&self, user: Id, now: Timestamp) -> Result<Open, BucketError> {
        let open = Open { session: Id::generate(now), token: Id::generate(now) };
        let session = Session { current: open.token, created_at: now, refreshed_at: now };
        self.bucket.write(&key(user, open.session), &session, 0, self.ttl).await?;
        Ok(open)
    }

    /// Takes a refresh token and makes the next one good in its place.
    ///
    /// # Errors
    /// [`Problem::InvalidToken`] if the session has ended, or ends because the token was used before; else the bucket's.
    pub async fn rotate(&self, user: Id, Open { session, token }: Open, now: Timestamp) -> Result<Open, Problem> {
        let key = key(user, session);
        let next = Id::generate(now);
        let mut error = BucketError::Overtaken;
        for _ in 0..TRIES {
            let entry = self.bucket.read::<Session>(&key).await?;
            let Some(found) = entry.value else { return Err(Problem::InvalidToken) };
            let usage = found.usage(token, next);
            let written = match usage {
                Use::First => {
                    let renewed = Session { current: next, refreshed_at: now, ..found };
                    self.bucket.write(&key, &renewed, entry.revision, self.ttl).await
                }
                Use::Again => self.bucket.remove(&key, Some(entry.revision)).await,
                Use::Done => Ok(()),
            };
            match (written, usage) {
                (Ok(()), Use::Again) => {
                    counter!("refresh_token_reused_total").increment(1);
                    warn!(%user, %session, "a refresh token was used twice; its session is ended");
                    return Err(Problem::InvalidToken);
                }
                (Ok(()), _) => return Ok(Open { session, token: next }),
                (Err(e), _) => error = e,
            }
        }
        Err(error.into())
    }

    /// Ends a session; one that has ended stays so.
    ///
    /// # Errors
    /// The bucket does not answer.
    pub async fn end(&self, user: Id, session: Id) -> Result<(), BucketError> {
        self.bucket.remove(&key(user, session), None).await
    }
}

fn key(user: Id, session: Id) -> String {
    format!("{user}.{session}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_once_and_a_lost_acknowledgement_is_no_second_use() {
        let now = Timestamp::from_millis(0);
        let [first, second, third] = [1, 2, 3].map(|n| Id::from_bytes([n; 12]));
        let session = |current| Session { current, created_at: now, refreshed_at: now };
        assert_eq!(session(first).usage(first, second), Use::First);
        assert_eq!(session(second).usage(first, second), Use::Done);
        assert_eq!(session(second).usage(first, third), Use::Again);
    }
}
