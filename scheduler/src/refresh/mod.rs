//! Renews one token: checks that the token is still the one that was found, exchanges it, and
//! stores the new one. A change that staff made meanwhile stays, because the log takes the new
//! token only in place of the old one. Tokens appear in no log line and in no error.

pub mod queue;
pub mod store;
pub mod worker;

use std::time::Duration;

use contract::dead_letter::Reason;
use contract::domain::{Integration, Provider, Sealed};
use contract::event::{Actor, Envelope, Event, IntegrationRefreshFailed};
use contract::query::{GetIntegration, IntegrationView};
use contract::trace::TraceContext;
use contract::{Timestamp, subject};
use metrics::counter;
use runtime::consume::worker::Settle;
use runtime::net::connection::Connection;
use runtime::rpc::query::{QueryError, ask};
use runtime::seal::{Keyring, SealError};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::platforms::google::Google;
use crate::platforms::graph::Graph;
use crate::platforms::verdict::{RenewedToken, Verdict, judge, pause};
use crate::refresh::queue::TokenRef;
use crate::refresh::store::{StoreError, ViewState, store_if_last, view_state};

/// How long the storing of a new token is retried. After that the old token is exchanged again.
const STORE_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two tries to store a token.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// Lifetime of an access token of Google whose answer names none. Without a lifetime the token
/// would always count as due.
const GOOGLE_LIFETIME: Duration = Duration::from_secs(3_600);
/// The error that staff see if the last event about a token is a dead letter. Connecting the
/// platform again repairs that.
const UNREAD: &str = "a later change of it could not be applied";

/// Renews tokens. Cloning is cheap.
#[derive(Clone)]
pub struct Refresher {
    pub connection: Connection,
    pub keyring: Keyring,
    /// Facebook and Instagram; `None` without an app.
    pub graph: Option<Graph>,
    /// How long a token of Facebook or Instagram is tried.
    pub deadline: Duration,
    /// `None` without a client.
    pub google: Option<Google>,
    /// How long a token of Google is tried. The next run enqueues it again.
    pub google_deadline: Duration,
    pub clock: fn() -> Timestamp,
    /// Uniform in 0..1.
    pub jitter: fn() -> f64,
}

/// One of the attempts to renew a token.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// From 1.
    pub number: u64,
    /// When the first attempt was due.
    pub since: Timestamp,
}

/// A token as the view shows it.
struct FoundToken {
    token: TokenRef,
    attempt: Attempt,
    view: IntegrationView,
    /// The sequence of the last event about the token in the log.
    last_seq: u64,
}

/// Why a token is not renewed.
enum Failure {
    /// A later attempt may succeed.
    Temporary {
        error: String,
        retry_after: Option<Duration>,
    },
    /// No later attempt can succeed.
    Permanent { reason: Reason, error: String },
}

impl Refresher {
    /// Renews a token. A repetition does no harm if the platform accepts the old token twice: only
    /// one of the two new tokens is stored. A platform whose refresh tokens can be used once would
    /// refuse the repetition, and staff would have to connect it again.
    pub async fn refresh(&self, token: TokenRef, attempt: Attempt) -> Settle {
        let question = GetIntegration {
            company_id: token.company,
            provider: token.provider,
        };
        let view = match ask(&self.connection, &question, TraceContext::generate()).await {
            Ok(view) if view.integration.updated_at == token.version => view,
            Ok(_) => return self.finish(token, "replaced", Settle::Done),
            Err(QueryError::NotFound) => return self.finish(token, "removed", Settle::Done),
            Err(e) => return self.unseen(token, attempt, &e.to_string()),
        };
        // The log is asked before the platform. Otherwise a new token that the log refuses would be
        // thrown away.
        let filter = subject::integration_of(token.company, token.provider);
        let state = view_state(&self.connection, &filter, view.seq).await;
        let found = |last_seq| FoundToken {
            token,
            attempt,
            view,
            last_seq,
        };
        match state {
            Ok(ViewState::Current(last_seq)) => self.renew(found(last_seq)).await,
            Ok(ViewState::DeadLettered(last_seq)) => {
                self.give_up(&found(last_seq), Reason::Failed, UNREAD.into())
                    .await
            }
            Ok(ViewState::Behind) => self.unseen(
                token,
                attempt,
                "the log has a change of it that the view does not show yet",
            ),
            Err(e) => self.unseen(token, attempt, &e),
        }
    }

    async fn renew(&self, found: FoundToken) -> Settle {
        match self.exchange(&found.view).await {
            Ok(renewed) => self.keep(&found, renewed).await,
            Err(Failure::Temporary { error, retry_after }) => {
                self.failed(&found, error, retry_after).await
            }
            Err(Failure::Permanent { reason, error }) => self.give_up(&found, reason, error).await,
        }
    }

    /// Retries a temporary failure until the deadline. After the deadline staff are told, except
    /// about a token of Google, which the next run tries again.
    async fn failed(
        &self,
        found: &FoundToken,
        error: String,
        retry_after: Option<Duration>,
    ) -> Settle {
        let FoundToken { token, attempt, .. } = *found;
        let is_too_late = |wait| !self.is_before_deadline(token, attempt, wait);
        match token.provider {
            Provider::Google if retry_after.is_some_and(is_too_late) => {
                self.postpone(token, attempt, &error, retry_after).await
            }
            _ if !is_too_late(Duration::ZERO) => self.retry(token, attempt, &error, retry_after),
            Provider::Google => self.leave_to_next_run(token, &error),
            _ => self.give_up(found, Reason::Expired, error).await,
        }
    }

    /// Retries a failure that staff cannot be told about: the token cannot be read, or the log
    /// does not take an event about it. After the deadline operators are told by a dead letter,
    /// and the next run finds the token again.
    fn unseen(&self, token: TokenRef, attempt: Attempt, error: &str) -> Settle {
        match token.provider {
            _ if self.is_before_deadline(token, attempt, Duration::ZERO) => {
                self.retry(token, attempt, error, None)
            }
            Provider::Google => self.leave_to_next_run(token, error),
            _ => self.finish(
                token,
                "unseen",
                Settle::Reject(Reason::Expired, error.to_owned()),
            ),
        }
    }

    /// Whether the token's deadline is still ahead after `wait`.
    fn is_before_deadline(&self, token: TokenRef, attempt: Attempt, wait: Duration) -> bool {
        let deadline = if token.provider == Provider::Google {
            self.google_deadline
        } else {
            self.deadline
        };
        (self.clock)().plus(wait).since(attempt.since) < deadline
    }

    async fn exchange(&self, view: &IntegrationView) -> Result<RenewedToken, Failure> {
        let Integration {
            provider,
            access_token,
            refresh_token,
            token_expires_at,
            ..
        } = &view.integration;
        if *provider == Provider::Google {
            let old = self.open(view, refresh_token.as_ref())?;
            let google = self
                .google
                .as_ref()
                .ok_or_else(|| no_credentials("GOOGLE_CLIENT_ID and GOOGLE_CLIENT_SECRET"))?;
            let renewed = outcome_of(judge(&google.refresh(&old).await, &[old.expose_secret()]))?;
            return Ok(RenewedToken {
                refresh_token: renewed.refresh_token.or(Some(old)),
                lifetime: renewed.lifetime.or(Some(GOOGLE_LIFETIME)),
                ..renewed
            });
        }
        if token_expires_at.is_some_and(|at| at <= (self.clock)()) {
            return Err(Failure::Permanent {
                reason: Reason::Expired,
                error: "the token has expired".into(),
            });
        }
        let old = self.open(view, access_token.as_ref())?;
        let graph = self
            .graph
            .as_ref()
            .ok_or_else(|| no_credentials("FACEBOOK_APP_ID and FACEBOOK_APP_SECRET"))?;
        Ok(RenewedToken {
            refresh_token: None,
            ..outcome_of(judge(&graph.exchange(&old).await, &[old.expose_secret()]))?
        })
    }

    fn open(
        &self,
        view: &IntegrationView,
        sealed: Option<&Sealed>,
    ) -> Result<SecretString, Failure> {
        let Integration {
            company_id,
            provider,
            ..
        } = &view.integration;
        let sealed = sealed.ok_or_else(|| Failure::Permanent {
            reason: Reason::MissingData,
            error: "there is no token to renew it with".into(),
        })?;
        self.keyring
            .open(sealed, *company_id, *provider)
            .map_err(not_opened)
    }

    /// Stores the new token in place of the old one.
    async fn keep(&self, found: &FoundToken, renewed: RenewedToken) -> Settle {
        let FoundToken { token, view, .. } = found;
        let TokenRef {
            company,
            provider,
            version,
        } = *token;
        // An unchanged refresh token is sealed again too, so that both tokens are sealed with the
        // newest key.
        let seal = |token: &SecretString| self.keyring.seal(token, company, provider);
        let (access_token, refresh_token) = match (
            seal(&renewed.token),
            renewed.refresh_token.as_ref().map(seal).transpose(),
        ) {
            (Ok(access_token), Ok(refresh_token)) => (Some(access_token), refresh_token),
            (Err(e), _) | (_, Err(e)) => return Settle::Reject(Reason::Failed, e.to_string()),
        };
        let now = (self.clock)();
        // The time is the token's version, so two versions must not have the same time.
        let updated_at = now.max(version.plus(Duration::from_millis(1)));
        let token_expires_at = renewed.lifetime.map(|lifetime| now.plus(lifetime));
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
                Ok(()) => return self.finish(*token, "renewed", Settle::Done),
                Err(StoreError::Unavailable(_)) if Instant::now() + STORE_PAUSE < deadline => {
                    tokio::time::sleep(STORE_PAUSE).await
                }
                // The log may have stored an earlier try whose answer was lost. The next attempt
                // sees that.
                Err(e) => {
                    let error = format!("the new token could not be stored: {e}");
                    return self.failed(found, error, None).await;
                }
            }
        }
    }

    /// Stores an event about the token, unless another event about it was stored since.
    async fn store(
        &self,
        found: &FoundToken,
        envelope: &Envelope,
        msg_id: &str,
    ) -> Result<(), StoreError> {
        let about = (found.token.company, found.token.provider);
        store_if_last(&self.connection, envelope, msg_id, about, found.last_seq).await
    }

    fn retry(
        &self,
        token: TokenRef,
        attempt: Attempt,
        error: &str,
        retry_after: Option<Duration>,
    ) -> Settle {
        let wait = pause(attempt.number, retry_after, (self.jitter)());
        warn!(
            company = %token.company,
            platform = %token.provider,
            error,
            attempt = attempt.number,
            ?wait,
            "a token could not be renewed yet"
        );
        self.finish(token, "retry", Settle::Retry(wait))
    }

    /// Ends the attempts. The next run, minutes from now, enqueues the token again. Staff are not
    /// told, because they could do nothing about it.
    fn leave_to_next_run(&self, token: TokenRef, error: &str) -> Settle {
        warn!(
            company = %token.company,
            platform = %token.provider,
            error,
            "a token could not be renewed before the next run"
        );
        self.finish(token, "put_off", Settle::Done)
    }

    /// Enqueues the token for later, because the platform wants no calls beyond the deadline.
    /// Otherwise the next run would call the platform too soon.
    async fn postpone(
        &self,
        token: TokenRef,
        attempt: Attempt,
        error: &str,
        retry_after: Option<Duration>,
    ) -> Settle {
        // Without jitter: at that time the token has probably expired.
        let wait = pause(1, retry_after, 0.0);
        match queue::enqueue_later(&self.connection, token, (self.clock)().plus(wait)).await {
            Ok(()) => {
                warn!(
                    company = %token.company,
                    platform = %token.provider,
                    error,
                    ?wait,
                    "a token's platform wants to be left alone"
                );
                self.finish(token, "postponed", Settle::Done)
            }
            // Then this task itself waits, although later runs may enqueue the token again.
            Err(_) => self.retry(token, attempt, error, retry_after),
        }
    }

    /// Tells staff by an event, and operators by a dead letter. Each is told once about a token,
    /// although each run tries the token again.
    async fn give_up(&self, found: &FoundToken, reason: Reason, error: String) -> Settle {
        let FoundToken {
            token,
            attempt,
            view,
            ..
        } = found;
        let TokenRef {
            company,
            provider,
            version,
        } = *token;
        warn!(
            %company,
            platform = %provider,
            error,
            known = view.refresh_error.is_some(),
            "a token could not be renewed"
        );
        if view.refresh_error.is_some() {
            // The dead letter is stored after the event, so it may still be missing.
            return match queue::has_dead_letter(&self.connection, *token).await {
                Ok(true) => self.finish(*token, "refused", Settle::Done),
                Ok(false) => self.finish(*token, "refused", Settle::Reject(reason, error)),
                Err(e) => self.unseen(
                    *token,
                    *attempt,
                    &format!("{error}; is there a dead letter of it? {e}"),
                ),
            };
        }
        let event = IntegrationRefreshFailed {
            provider,
            error: error.clone(),
            token_expires_at: view.integration.token_expires_at,
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
            Ok(()) => self.finish(*token, "refused", Settle::Reject(reason, error)),
            Err(e) => self.unseen(
                *token,
                *attempt,
                &format!("{error}; staff could not be told: {e}"),
            ),
        }
    }

    /// Counts and logs the result of an attempt.
    fn finish(&self, token: TokenRef, result: &'static str, settle: Settle) -> Settle {
        let platform = token.provider.as_str();
        counter!("token_refreshes_total", "platform" => platform, "result" => result).increment(1);
        info!(company = %token.company, platform = %token.provider, result, "token refresh");
        settle
    }
}

fn outcome_of(verdict: Verdict) -> Result<RenewedToken, Failure> {
    match verdict {
        Verdict::Renewed(renewed) => Ok(renewed),
        Verdict::Retry { error, retry_after } => Err(Failure::Temporary { error, retry_after }),
        Verdict::Reject { error } => Err(Failure::Permanent {
            reason: Reason::Refused,
            error,
        }),
    }
}

/// The failure is temporary, because another scheduler may have the credentials.
fn no_credentials(names: &str) -> Failure {
    Failure::Temporary {
        error: format!("this scheduler has no {names}"),
        retry_after: None,
    }
}

/// A missing key can be added again, so that failure is temporary. A broken text stays broken.
fn not_opened(error: SealError) -> Failure {
    match &error {
        SealError::UnknownKey(_) => Failure::Temporary {
            error: error.to_string(),
            retry_after: None,
        },
        SealError::Broken => Failure::Permanent {
            reason: Reason::Failed,
            error: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests;
