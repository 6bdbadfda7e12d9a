//! Renews one token: looks whether it is still the one that was found, exchanges it, stores the new
//! one. What was entered or removed meanwhile stays: the log takes the new token only in place of
//! the old one. Tokens appear in no log line and no error.

pub mod queue;
pub mod store;

use std::time::Duration;

use contract::dead_letter::Reason;
use contract::domain::{Integration, Provider, Sealed};
use contract::event::{Actor, Envelope, Event, IntegrationRefreshFailed};
use contract::query::{GetIntegration, IntegrationView};
use contract::subject;
use contract::trace::TraceContext;
use contract::{Id, Timestamp};
use metrics::counter;
use runtime::consume::worker::Settle;
use runtime::net::connection::Connection;
use runtime::rpc::query::{QueryError, ask};
use runtime::seal::{Keyring, SealError};
use secrecy::SecretString;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::platforms::google::Google;
use crate::platforms::graph::Graph;
use crate::platforms::verdict::{Fresh, Verdict, judge, pause};
use crate::refresh::store::{Standing, StoreError, standing, store_if_last};

/// How long storing a token that was just given out is tried; after that it is exchanged anew.
const STORE_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between the tries.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// How long an access token of Google's lives where it does not say.
const GOOGLE_LIFE: Duration = Duration::from_secs(3_600);
/// What staff are told where the newest word about a token is a dead letter. To connect again makes
/// it good.
const UNREAD: &str = "a later change of it could not be applied";

/// What the work needs. Cloning is cheap.
#[derive(Clone)]
pub struct Refresher {
    /// For the query, and the log.
    pub connection: Connection,
    /// Opens and seals.
    pub keyring: Keyring,
    /// The other side of Facebook and Instagram; `None` without an app.
    pub graph: Option<Graph>,
    /// How old work for it may get.
    pub deadline: Duration,
    /// The other side of Google; `None` without a client.
    pub google: Option<Google>,
    /// How old work for it may get. The next run hands it out again.
    pub google_deadline: Duration,
    /// The time.
    pub clock: fn() -> Timestamp,
    /// Uniform in 0..1.
    pub jitter: fn() -> f64,
}

/// Which token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which {
    /// The tenant.
    pub company: Id,
    /// With whom.
    pub provider: Provider,
    /// When it was entered or last renewed.
    pub version: Timestamp,
}

/// How often it was tried, and since when.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    /// From 1.
    pub attempt: u64,
    /// When the work was handed out.
    pub since: Timestamp,
}

/// A token as it was found.
struct Found {
    which: Which,
    tried: Tried,
    view: IntegrationView,
    /// The sequence in the log of the last event about it.
    last: u64,
}

/// Why a token is not renewed.
enum Failure {
    /// It may work later.
    Later {
        error: String,
        after: Option<Duration>,
    },
    /// It never will.
    Never { reason: Reason, error: String },
}

impl Refresher {
    /// Renews it, or says what follows. Doing it twice does no harm where both new tokens are good,
    /// of which one is stored. A platform whose refresh tokens are good once would refuse the
    /// second time, and staff would have to connect again.
    pub async fn refresh(&self, which: Which, tried: Tried) -> Settle {
        let question = GetIntegration {
            company_id: which.company,
            provider: which.provider,
        };
        let view = match ask(&self.connection, &question, TraceContext::generate()).await {
            Ok(view) if view.integration.updated_at == which.version => view,
            Ok(_) => return self.settled(which, "replaced", Settle::Done),
            Err(QueryError::NotFound) => return self.settled(which, "removed", Settle::Done),
            Err(e) => return self.unseen(which, tried, &e.to_string()),
        };
        // Before anybody outside is asked: a new token that the log will not take is thrown away.
        let standing = standing(
            &self.connection,
            &subject::integration_of(which.company, which.provider),
            view.seq,
        )
        .await;
        let found = |last| Found {
            which,
            tried,
            view,
            last,
        };
        match standing {
            Ok(Standing::Shown(last)) => self.renew(found(last)).await,
            Ok(Standing::Dead(last)) => {
                self.give_up(&found(last), Reason::Failed, UNREAD.into())
                    .await
            }
            Ok(Standing::Ahead) => self.unseen(
                which,
                tried,
                "the log has a change of it that the view does not show yet",
            ),
            Err(e) => self.unseen(which, tried, &e),
        }
    }

    async fn renew(&self, found: Found) -> Settle {
        match self.exchange(&found.view).await {
            Ok(fresh) => self.keep(&found, fresh).await,
            Err(Failure::Later { error, after }) => self.failed(&found, error, after).await,
            Err(Failure::Never { reason, error }) => self.give_up(&found, reason, error).await,
        }
    }

    /// What may work later is tried again until the deadline. Then staff are told, but not of what
    /// the next run tries anyway.
    async fn failed(&self, found: &Found, error: String, after: Option<Duration>) -> Settle {
        let Found { which, tried, .. } = *found;
        match which.provider {
            Provider::Google if after.is_some_and(|after| !self.lasts(which, tried, after)) => {
                self.postpone(which, tried, &error, after).await
            }
            _ if self.has_time(which, tried) => self.later(which, tried, &error, after),
            Provider::Google => self.put_off(which, &error),
            _ => self.give_up(found, Reason::Expired, error).await,
        }
    }

    /// The same for a token that staff cannot be told of: it cannot be looked at, or the log does
    /// not take it. Operators are told; the next run finds it again.
    fn unseen(&self, which: Which, tried: Tried, error: &str) -> Settle {
        match which.provider {
            _ if self.has_time(which, tried) => self.later(which, tried, error, None),
            Provider::Google => self.put_off(which, error),
            _ => self.settled(
                which,
                "unseen",
                Settle::Reject(Reason::Expired, error.to_owned()),
            ),
        }
    }

    fn has_time(&self, which: Which, tried: Tried) -> bool {
        self.lasts(which, tried, Duration::ZERO)
    }

    /// Whether its deadline has not passed after so long.
    fn lasts(&self, which: Which, tried: Tried, wait: Duration) -> bool {
        let deadline = if which.provider == Provider::Google {
            self.google_deadline
        } else {
            self.deadline
        };
        (self.clock)().plus(wait).since(tried.since) < deadline
    }

    async fn exchange(&self, view: &IntegrationView) -> Result<Fresh, Failure> {
        let Integration {
            provider,
            access_token,
            refresh_token,
            token_expires_at,
            ..
        } = &view.integration;
        if *provider == Provider::Google {
            let token = self.open(view, refresh_token.as_ref())?;
            let google = self
                .google
                .as_ref()
                .ok_or_else(|| unset("GOOGLE_CLIENT_ID and GOOGLE_CLIENT_SECRET"))?;
            let Fresh {
                token: access,
                refresh_token,
                lives,
            } = renewed(judge(&google.refresh(&token).await))?;
            // Without an end it would count as due for ever.
            return Ok(Fresh {
                token: access,
                refresh_token: refresh_token.or(Some(token)),
                lives: lives.or(Some(GOOGLE_LIFE)),
            });
        }
        if token_expires_at.is_some_and(|at| at <= (self.clock)()) {
            return Err(Failure::Never {
                reason: Reason::Expired,
                error: "the token has expired".into(),
            });
        }
        let token = self.open(view, access_token.as_ref())?;
        let graph = self
            .graph
            .as_ref()
            .ok_or_else(|| unset("FACEBOOK_APP_ID and FACEBOOK_APP_SECRET"))?;
        Ok(Fresh {
            refresh_token: None,
            ..renewed(judge(&graph.exchange(&token).await))?
        })
    }

    fn open(
        &self,
        view: &IntegrationView,
        token: Option<&Sealed>,
    ) -> Result<SecretString, Failure> {
        let Integration {
            company_id,
            provider,
            ..
        } = &view.integration;
        let token = token.ok_or_else(|| Failure::Never {
            reason: Reason::MissingData,
            error: "there is no token to renew it with".into(),
        })?;
        self.keyring
            .open(token, *company_id, *provider)
            .map_err(shut)
    }

    /// Stores the new token in place of the old one.
    async fn keep(&self, found: &Found, fresh: Fresh) -> Settle {
        let Found { which, view, .. } = found;
        let Which {
            company,
            provider,
            version,
        } = *which;
        // The refresh token too, if it is the same: so both are sealed with the newest key.
        let seal = |token: &SecretString| self.keyring.seal(token, company, provider);
        let (access_token, refresh_token) = match (
            seal(&fresh.token),
            fresh.refresh_token.as_ref().map(seal).transpose(),
        ) {
            (Ok(access_token), Ok(refresh_token)) => (Some(access_token), refresh_token),
            (Err(e), _) | (_, Err(e)) => return Settle::Reject(Reason::Failed, e.to_string()),
        };
        let now = (self.clock)();
        // The time is the token's version, so it must be another one.
        let updated_at = now.max(version.plus(Duration::from_millis(1)));
        let token_expires_at = fresh.lives.map(|lives| now.plus(lives));
        let integration = Integration {
            access_token,
            refresh_token,
            token_expires_at,
            updated_at,
            ..view.integration.clone()
        };
        let envelope = Envelope::new(
            now,
            Actor::System,
            company,
            Event::IntegrationUpdated(integration),
        );
        let msg_id = format!("token-refresh-{company}-{provider}-{}", version.millis());
        let deadline = Instant::now() + STORE_DEADLINE;
        loop {
            match self.store(found, &envelope, &msg_id).await {
                Ok(()) => return self.settled(*which, "renewed", Settle::Done),
                Err(StoreError::Unavailable(_)) if Instant::now() + STORE_PAUSE < deadline => {
                    tokio::time::sleep(STORE_PAUSE).await
                }
                // Or an earlier try was stored although its answer was lost: the next look tells.
                Err(e) => {
                    return self
                        .failed(
                            found,
                            format!("the new token could not be stored: {e}"),
                            None,
                        )
                        .await;
                }
            }
        }
    }

    /// Stores what has become of a token, if nothing else has meanwhile.
    async fn store(
        &self,
        found: &Found,
        envelope: &Envelope,
        msg_id: &str,
    ) -> Result<(), StoreError> {
        let filter = subject::integration_of(found.which.company, found.which.provider);
        store_if_last(&self.connection, envelope, msg_id, &filter, found.last).await
    }

    fn later(&self, which: Which, tried: Tried, error: &str, after: Option<Duration>) -> Settle {
        let wait = pause(tried.attempt, after, (self.jitter)());
        warn!(company = %which.company, platform = %which.provider, error, attempt = tried.attempt, ?wait, "a token could not be renewed yet");
        self.settled(which, "retry", Settle::Retry(wait))
    }

    /// The next run, minutes from now, hands it out again. Staff are not told: they could do
    /// nothing about it.
    fn put_off(&self, which: Which, error: &str) -> Settle {
        warn!(company = %which.company, platform = %which.provider, error, "a token could not be renewed before the next run");
        self.settled(which, "put_off", Settle::Done)
    }

    /// The platform wants to be left alone beyond the deadline: the next run would ask it too soon,
    /// so it hands out nothing till then.
    async fn postpone(
        &self,
        which: Which,
        tried: Tried,
        error: &str,
        after: Option<Duration>,
    ) -> Settle {
        // No longer than it asks for: by then its token has expired, most likely.
        let wait = pause(1, after, 0.0);
        match queue::hand_out_later(&self.connection, which, (self.clock)().plus(wait)).await {
            Ok(()) => {
                warn!(company = %which.company, platform = %which.provider, error, ?wait, "a token's platform wants to be left alone");
                self.settled(which, "postponed", Settle::Done)
            }
            // Then this piece waits, and the runs' are in vain.
            Err(_) => self.later(which, tried, error, after),
        }
    }

    /// Tells staff, and operators by a dead letter; both once for a token, although each run of the
    /// job tries it again.
    async fn give_up(&self, found: &Found, reason: Reason, error: String) -> Settle {
        let Found {
            which, tried, view, ..
        } = found;
        let Which {
            company,
            provider,
            version,
        } = *which;
        warn!(%company, platform = %provider, error, known = view.refresh_error.is_some(), "a token could not be renewed");
        if view.refresh_error.is_some() {
            // The letter is stored after the event, so it may be missing still.
            return match queue::has_letter(&self.connection, *which).await {
                Ok(true) => self.settled(*which, "refused", Settle::Done),
                Ok(false) => self.settled(*which, "refused", Settle::Reject(reason, error)),
                Err(e) => self.unseen(
                    *which,
                    *tried,
                    &format!("{error}; is there a dead letter of it? {e}"),
                ),
            };
        }
        let token_expires_at = view.integration.token_expires_at;
        let event = IntegrationRefreshFailed {
            provider,
            error: error.clone(),
            token_expires_at,
        };
        let envelope = Envelope::new(
            (self.clock)(),
            Actor::System,
            company,
            Event::IntegrationRefreshFailed(event),
        );
        let msg_id = format!(
            "token-refresh-failed-{company}-{provider}-{}",
            version.millis()
        );
        match self.store(found, &envelope, &msg_id).await {
            Ok(()) => self.settled(*which, "refused", Settle::Reject(reason, error)),
            Err(e) => self.unseen(
                *which,
                *tried,
                &format!("{error}; staff could not be told: {e}"),
            ),
        }
    }

    fn settled(&self, which: Which, result: &'static str, settle: Settle) -> Settle {
        counter!("token_refreshes_total", "platform" => which.provider.as_str(), "result" => result).increment(1);
        info!(company = %which.company, platform = %which.provider, result, "token refresh");
        settle
    }
}

fn renewed(verdict: Verdict) -> Result<Fresh, Failure> {
    match verdict {
        Verdict::Renewed(fresh) => Ok(fresh),
        Verdict::Retry { error, after } => Err(Failure::Later { error, after }),
        Verdict::Reject { error } => Err(Failure::Never {
            reason: Reason::Refused,
            error,
        }),
    }
}

/// Another scheduler may have it.
fn unset(what: &str) -> Failure {
    Failure::Later {
        error: format!("this scheduler has no {what}"),
        after: None,
    }
}

/// A key that is missing can be put back; a text that does not open never will.
fn shut(error: SealError) -> Failure {
    match &error {
        SealError::UnknownKey(_) => Failure::Later {
            error: error.to_string(),
            after: None,
        },
        SealError::Broken => Failure::Never {
            reason: Reason::Failed,
            error: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::query::RefreshError;
    use runtime::service::settings::{NatsSettings, Settings};

    const NOW: Timestamp = Timestamp::from_millis(1_760_000_000_000);
    const DEADLINE: Duration = Duration::from_secs(3_600);

    /// One that reaches no server.
    async fn cut_off() -> Refresher {
        let settings = NatsSettings {
            url: "nats://127.0.0.1:1".into(),
            user: "scheduler".into(),
            password: "n".into(),
        };
        let keys = [(
            "ENCRYPTION_KEYS".into(),
            "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into(),
        )];
        Refresher {
            connection: Connection::open(&settings, "scheduler", Id::from_bytes([1; 12]))
                .await
                .unwrap(),
            keyring: Keyring::read(&mut Settings::of(keys)),
            graph: None,
            deadline: DEADLINE,
            google: None,
            google_deadline: DEADLINE,
            clock: || NOW,
            jitter: || 1.0,
        }
    }

    fn found(provider: Provider, attempt: u64, ago: Duration) -> Found {
        let company = Id::from_bytes([2; 12]);
        let integration = Integration {
            company_id: company,
            provider,
            account_id: None,
            account_name: None,
            access_token: None,
            refresh_token: None,
            token_expires_at: None,
            updated_at: NOW,
        };
        Found {
            which: Which {
                company,
                provider,
                version: NOW,
            },
            tried: Tried {
                attempt,
                since: Timestamp::from_millis(NOW.millis() - ago.as_millis() as i64),
            },
            view: IntegrationView {
                integration,
                refresh_error: None,
                seq: 7,
                changed_at: NOW,
            },
            last: 7,
        }
    }

    fn fresh() -> Fresh {
        Fresh {
            token: "EAAB-new".into(),
            refresh_token: None,
            lives: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_log_does_not_take_waits_longer_each_time() {
        let refresher = cut_off().await;
        for provider in [Provider::Facebook, Provider::Google] {
            for (attempt, seconds) in [(1, 1), (4, 8), (20, 1_800)] {
                let (found, wait) = (
                    found(provider, attempt, DEADLINE / 2),
                    Settle::Retry(Duration::from_secs(seconds)),
                );
                assert_eq!(
                    refresher.keep(&found, fresh()).await,
                    wait,
                    "{provider}, a new token, attempt {attempt}"
                );
                let refused = refresher
                    .give_up(&found, Reason::Refused, "HTTP 400".into())
                    .await;
                assert_eq!(refused, wait, "{provider}, a refusal, attempt {attempt}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_log_does_not_take_until_the_deadline_ends_as_a_dead_letter_or_with_the_next_run()
     {
        let refresher = cut_off().await;
        for settle in [
            refresher
                .keep(&found(Provider::Facebook, 9, DEADLINE), fresh())
                .await,
            refresher
                .give_up(
                    &found(Provider::Facebook, 9, DEADLINE),
                    Reason::Refused,
                    "HTTP 400".into(),
                )
                .await,
        ] {
            let Settle::Reject(Reason::Expired, why) = settle else {
                panic!("{settle:?}")
            };
            assert!(why.contains("staff could not be told"), "{why}");
        }
        let google = found(Provider::Google, 9, DEADLINE);
        assert_eq!(refresher.keep(&google, fresh()).await, Settle::Done);
        assert_eq!(
            refresher
                .give_up(&google, Reason::Refused, "HTTP 400".into())
                .await,
            Settle::Done
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_staff_know_already_is_not_done_before_the_dead_letter_is_seen() {
        let (refresher, mut known) = (
            cut_off().await,
            found(Provider::Facebook, 1, Duration::ZERO),
        );
        known.view.refresh_error = Some(RefreshError {
            error: "HTTP 400".into(),
            at: NOW,
        });
        let settle = refresher
            .give_up(&known, Reason::Refused, "HTTP 400".into())
            .await;
        assert_eq!(settle, Settle::Retry(Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn google_is_left_alone_for_as_long_as_it_asks_also_beyond_the_deadline() {
        let (refresher, google) = (cut_off().await, found(Provider::Google, 9, DEADLINE));
        // Nothing can be handed out for later, so the piece itself waits.
        let settle = refresher
            .failed(&google, "HTTP 429".into(), Some(2 * DEADLINE))
            .await;
        assert_eq!(settle, Settle::Retry(2 * DEADLINE));
        assert_eq!(
            refresher.failed(&google, "HTTP 503".into(), None).await,
            Settle::Done
        );
    }
}
