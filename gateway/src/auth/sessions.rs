//! Sessions: the refresh token of each login that is valid. A refresh token can be used once. One
//! that comes again was copied, and ends its whole session. Access tokens are not looked up here,
//! because they are valid until they expire.

use std::time::Duration;

use contract::{Id, Timestamp, inventory, subject};
use metrics::counter;
use runtime::log::direct_get::{self, StoredMessage};
use runtime::net::connection::Connection;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::api::problem::Problem;
use runtime::kv::bucket::{Bucket, BucketError};

/// How often a refresh tries to write. Beyond it the refresh is given up. A write can be overtaken,
/// or its acknowledgement lost.
const TRIES: u32 = 5;

/// The sessions of one user at a time. The next one ends those that were refreshed longest ago.
/// Otherwise one user could fill the bucket, and then nobody could log in. Logins at the same
/// moment do not see each other and can be a few more, until the next one.
const MAX_SESSIONS: usize = 16;

/// The bucket `sessions`.
#[derive(Clone)]
pub struct Sessions {
    connection: Connection,
    bucket: Bucket,
    ttl: Duration,
}

/// A login, as the bucket keeps it. The key is `<user>.<session>`.
#[derive(Debug, Serialize, Deserialize)]
struct Session {
    /// The refresh token that is valid.
    current: Id,
    created_at: Timestamp,
    refreshed_at: Timestamp,
}

/// A session and its valid refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The `sid` of all tokens of the session.
    pub session: Id,
    /// The `jti` of the refresh token.
    pub token: Id,
}

/// What a refresh token means for its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// The token is the valid one.
    First,
    /// The token has been used before.
    Again,
    /// The token is replaced already: an earlier try wrote that, and its acknowledgement was lost.
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
    /// A session ends `ttl` after its last refresh.
    pub fn new(connection: Connection, ttl: Duration) -> Sessions {
        Sessions {
            bucket: Bucket::new(connection.clone(), inventory::SESSIONS),
            connection,
            ttl,
        }
    }

    /// Opens a session. It takes the place of the user's oldest if there are [`MAX_SESSIONS`].
    ///
    /// # Errors
    /// The bucket does not answer.
    pub async fn open(&self, user: Id, now: Timestamp) -> Result<Open, BucketError> {
        let all = subject::entry(inventory::SESSIONS, &format!("{user}.*"));
        let stored = direct_get::latest(
            &self.connection,
            &format!("KV_{}", inventory::SESSIONS),
            &[all],
        )
        .await;
        for session in surplus(stored?) {
            counter!("sessions_displaced_total").increment(1);
            self.end(user, session).await?;
        }
        let open = Open {
            session: Id::generate(now),
            token: Id::generate(now),
        };
        let session = Session {
            current: open.token,
            created_at: now,
            refreshed_at: now,
        };
        self.bucket
            .write(&key(user, open.session), &session, 0, self.ttl)
            .await?;
        Ok(open)
    }

    /// Takes a refresh token, and makes the next one valid in its place.
    ///
    /// # Errors
    /// [`Problem::InvalidToken`] if the session has ended, or ends because the token was used
    /// before. Otherwise the bucket does not answer.
    pub async fn rotate(
        &self,
        user: Id,
        Open { session, token }: Open,
        now: Timestamp,
    ) -> Result<Open, Problem> {
        let key = key(user, session);
        let next = Id::generate(now);
        let mut error = BucketError::Overtaken;
        for _ in 0..TRIES {
            let entry = self.bucket.read::<Session>(&key).await?;
            let Some(found) = entry.value else {
                return Err(Problem::InvalidToken);
            };
            let usage = found.usage(token, next);
            let written = match usage {
                Use::First => {
                    let renewed = Session {
                        current: next,
                        refreshed_at: now,
                        ..found
                    };
                    self.bucket
                        .write(&key, &renewed, entry.revision, self.ttl)
                        .await
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
                (Ok(()), _) => {
                    return Ok(Open {
                        session,
                        token: next,
                    });
                }
                (Err(e), _) => error = e,
            }
        }
        Err(error.into())
    }

    /// Ends a session. A session that has ended already is no error.
    ///
    /// # Errors
    /// The bucket does not answer.
    pub async fn end(&self, user: Id, session: Id) -> Result<(), BucketError> {
        self.bucket.remove(&key(user, session), None).await
    }
}

/// The sessions of a user that must end before another one begins.
fn surplus(stored: Vec<StoredMessage>) -> Vec<Id> {
    let session = |entry: &StoredMessage| {
        // The entry of a session that has ended is empty.
        let session: Session = serde_json::from_slice(&entry.payload).ok()?;
        Some((
            session.refreshed_at,
            entry.subject.rsplit('.').next()?.parse().ok()?,
        ))
    };
    let mut open: Vec<(Timestamp, Id)> = stored.iter().filter_map(session).collect();
    open.sort_unstable();
    open.truncate((open.len() + 1).saturating_sub(MAX_SESSIONS));
    open.into_iter().map(|(_, session)| session).collect()
}

fn key(user: Id, session: Id) -> String {
    format!("{user}.{session}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::HeaderMap;

    #[test]
    fn a_token_can_be_used_once_and_a_lost_acknowledgement_is_no_second_use() {
        let now = Timestamp::from_millis(0);
        let [first, second, third] = [1, 2, 3].map(|n| Id::from_bytes([n; 12]));
        let session = |current| Session {
            current,
            created_at: now,
            refreshed_at: now,
        };
        assert_eq!(session(first).usage(first, second), Use::First);
        assert_eq!(session(second).usage(first, second), Use::Done);
        assert_eq!(session(second).usage(first, third), Use::Again);
    }

    #[test]
    fn a_session_too_many_ends_those_that_were_refreshed_longest_ago() {
        let stored = |n: u8, payload: String| StoredMessage {
            seq: u64::from(n),
            subject: subject::entry(
                inventory::SESSIONS,
                &key(Id::from_bytes([0; 12]), Id::from_bytes([n; 12])),
            ),
            stored_at: Timestamp::from_millis(0),
            headers: HeaderMap::new(),
            payload: payload.into(),
        };
        let open = |n: u8, refreshed: i64| {
            let session = Session {
                current: Id::from_bytes([n; 12]),
                created_at: Timestamp::from_millis(0),
                refreshed_at: Timestamp::from_millis(refreshed),
            };
            stored(n, serde_json::to_string(&session).unwrap())
        };
        let most = MAX_SESSIONS as u8;
        let ended = stored(100, String::new());
        assert_eq!(surplus([open(0, 0), ended.clone()].into()), []);
        assert_eq!(
            surplus(
                (1..most)
                    .map(|n| open(n, 0))
                    .chain([ended.clone()])
                    .collect()
            ),
            []
        );
        // Refreshed in the opposite order of their ids; two too many already.
        let many = (1..=most + 2)
            .map(|n| open(n, 1_000 - i64::from(n)))
            .chain([ended])
            .collect();
        assert_eq!(
            surplus(many),
            [2, 1, 0].map(|back| Id::from_bytes([most + back; 12]))
        );
    }
}
