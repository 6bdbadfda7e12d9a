//! Sessions: which refresh token of a login is good. Each is good once; one that comes again was
//! copied, and ends its whole session. Access tokens are not looked up here: they are good until
//! they expire.

use std::time::Duration;

use contract::{Id, Timestamp, inventory, subject};
use metrics::counter;
use runtime::log::direct_get::{self, StoredMessage};
use runtime::net::connection::Connection;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::api::problem::Problem;
use runtime::kv::bucket::{Bucket, BucketError};

/// Writes that may be overtaken, or their acknowledgement lost, before a refresh is given up.
const TRIES: u32 = 5;

/// Logins of one user at a time; the next one ends those that were refreshed longest ago. So nobody
/// fills the bucket, without which nobody can log in. Logins at the same moment do not see each
/// other and can be a few more, until the next one.
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
        Sessions {
            bucket: Bucket::new(connection.clone(), inventory::SESSIONS),
            connection,
            ttl,
        }
    }

    /// A new one, in the place of the user's oldest if there are [`MAX_SESSIONS`].
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

    /// Takes a refresh token and makes the next one good in its place.
    ///
    /// # Errors
    /// [`Problem::InvalidToken`] if the session has ended, or ends because the token was used
    /// before; else the bucket's.
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

    /// Ends a session; one that has ended stays so.
    ///
    /// # Errors
    /// The bucket does not answer.
    pub async fn end(&self, user: Id, session: Id) -> Result<(), BucketError> {
        self.bucket.remove(&key(user, session), None).await
    }
}

/// Which sessions of a user must end before another one begins.
fn surplus(stored: Vec<StoredMessage>) -> Vec<Id> {
    let session = |entry: &StoredMessage| {
        // The marker of one that has ended is empty.
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
    fn a_token_is_good_once_and_a_lost_acknowledgement_is_no_second_use() {
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
    fn one_more_than_so_many_sessions_ends_the_ones_that_were_refreshed_longest_ago() {
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
