//! Renews one token: looks whether it is still the one that was found, exchanges it, stores the new one. What was entered or
//! removed meanwhile stays: the log takes the new token only in place of the old one. Tokens appear in no log line and no error.

use std::time::Duration;

use metrics::counter;
use nats::dead::Reason;
use nats::domain::{Integration, Platform};
use nats::event::{Actor, Envelope, Event, IntegrationRefreshFailed};
use nats::query::{GetIntegration, IntegrationView};
use nats::runtime::connection::Connection;
use nats::runtime::query::{QueryError, ask};
use nats::runtime::seal::{Keyring, SealError};
use nats::runtime::worker::Settle;
use nats::trace::TraceContext;
use nats::{Id, Timestamp, subject};
use secrecy::SecretString;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::graph::Graph;
use crate::store::{StoreError, store_if_last};
use crate::verdict::{Fresh, Verdict, judge, pause};

/// How long storing a token that was just given out is tried; after that it is exchanged anew.
const STORE_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between the tries.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// Whatever happened meanwhile is in the view after this, most likely.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What the work needs. Cloning is cheap.
#[derive(Clone)]
pub struct Refresher {
    /// For the query, and the log.
    pub connection: Connection,
    /// Opens and seals.
    pub keyring: Keyring,
    /// The other side; `None` without an app.
    pub graph: Option<Graph>,
    /// How old the work may get.
    pub deadline: Duration,
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
    /// The channel.
    pub platform: Platform,
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

/// Why a token is not renewed.
enum Failure {
    /// It may work later.
    Later { error: String, after: Option<Duration> },
    /// It never will.
    Never { reason: Reason, error: String },
}

impl Refresher {
    /// Renews it, or says what follows. Doing it twice does no harm: of two new tokens one is stored, and both are good.
    pub async fn refresh(&self, which: Which, tried: Tried) -> Settle {
        let question = GetIntegration { company_id: which.company, platform: which.platform };
        let view = match ask(&self.connection, &question, TraceContext::generate()).await {
            Ok(view) if view.integration.updated_at == which.version => view,
            Ok(_) => return self.settled(which, "replaced", Settle::Done),
            Err(QueryError::NotFound) => return self.settled(which, "removed", Settle::Done),
            Err(e) if self.has_time(tried) => return self.later(which, tried, &e.to_string(), None),
            // Staff can be told only of a token that can be looked at; the next run finds it again.
            Err(e) => return self.settled(which, "unseen", Settle::Reject(Reason::Expired, e.to_string())),
        };
        match self.exchange(&view).await {
            Ok(fresh) => self.keep(which, &view, fresh).await,
            Err(Failure::Later { error, after }) if self.has_time(tried) => self.later(which, tried, &error, after),
            Err(Failure::Later { error, .. }) => self.give_up(which, &view, Reason::Expired, error).await,
            Err(Failure::Never { reason, error }) => self.give_up(which, &view, reason, error).await,
        }
    }

    fn has_time(&self, tried: Tried) -> bool {
        (self.clock)().since(tried.since) < self.deadline
    }

    async fn exchange(&self, view: &IntegrationView) -> Result<Fresh, Failure> {
        let Integration { company_id, platform, access_token, token_expires_at, .. } = &view.integration;
        if token_expires_at.is_some_and(|at| at <= (self.clock)()) {
            return Err(Failure::Never { reason: Reason::Expired, error: "the token has expired".into() });
        }
        let token = self.keyring.open(access_token, *company_id, *platform).map_err(shut)?;
        let Some(graph) = &self.graph else {
            return Err(Failure::Later { error: "this scheduler has no FACEBOOK_APP_ID and FACEBOOK_APP_SECRET".into(), after: None });
        };
        match judge(&graph.exchange(&token).await) {
            Verdict::Renewed(fresh) => Ok(fresh),
            Verdict::Retry { error, after } => Err(Failure::Later { error, after }),
            Verdict::Reject { error } => Err(Failure::Never { reason: Reason::Refused, error }),
        }
    }

    /// Stores the new token in place of the old one.
    async fn keep(&self, which: Which, view: &IntegrationView, fresh: Fresh) -> Settle {
        let Which { company, platform, version } = which;
        let access_token = match self.seal(&fresh.token, which) {
            Ok(sealed) => sealed,
            Err(e) => return Settle::Reject(Reason::Failed, e.to_string()),
        };
        let now = (self.clock)();
        // The time is the token's version, so it must be another one.
        let updated_at = now.max(version.plus(Duration::from_millis(1)));
        let token_expires_at = fresh.lives.map(|lives| now.plus(lives));
        let integration = Integration { access_token, token_expires_at, updated_at, ..view.integration.clone() };
        let envelope = Envelope::new(now, Actor::System, company, Event::IntegrationUpdated(integration));
        let msg_id = format!("token-refresh-{company}-{platform}-{}", version.millis());
        let deadline = Instant::now() + STORE_DEADLINE;
        loop {
            match store_if_last(&self.connection, &envelope, &msg_id, &subject::integration_of(company, platform), view.seq).await {
                Ok(()) => return self.settled(which, "renewed", Settle::Done),
                // Or an earlier try was stored although its answer was lost: the next look tells.
                Err(StoreError::Overtaken) => return self.settled(which, "overtaken", Settle::Retry(LOOK_AGAIN)),
                Err(StoreError::Unavailable(error)) if Instant::now() + STORE_PAUSE >= deadline => {
                    warn!(%company, %platform, error, "a new token could not be stored; the old one is exchanged again");
                    return self.settled(which, "retry", Settle::Retry(LOOK_AGAIN));
                }
                Err(StoreError::Unavailable(_)) => tokio::time::sleep(STORE_PAUSE).await,
            }
        }
    }

    fn seal(&self, token: &SecretString, which: Which) -> Result<nats::domain::Sealed, SealError> {
        self.keyring.seal(token, which.company, which.platform)
    }

    fn later(&self, which: Which, tried: Tried, error: &str, after: Option<Duration>) -> Settle {
        let wait = pause(tried.attempt, after, (self.jitter)());
        warn!(company = %which.company, platform = %which.platform, error, attempt = tried.attempt, ?wait, "a token could not be renewed yet");
        self.settled(which, "retry", Settle::Retry(wait))
    }

    /// Tells staff, and operators by a dead letter; both once for a token, although each run of the job tries it again.
    async fn give_up(&self, which: Which, view: &IntegrationView, reason: Reason, error: String) -> Settle {
        let Which { company, platform, version } = which;
        warn!(%company, %platform, error, known = view.refresh_error.is_some(), "a token could not be renewed");
        if view.refresh_error.is_some() {
            return self.settled(which, "refused", Settle::Done);
        }
        let token_expires_at = view.integration.token_expires_at;
        let event = IntegrationRefreshFailed { platform, error: error.clone(), token_expires_at };
        let envelope = Envelope::new((self.clock)(), Actor::System, company, Event::IntegrationRefreshFailed(event));
        let msg_id = format!("token-refresh-failed-{company}-{platform}-{}", version.millis());
        match store_if_last(&self.connection, &envelope, &msg_id, &subject::integration_of(company, platform), view.seq).await {
            Ok(()) => self.settled(which, "refused", Settle::Reject(reason, error)),
            Err(StoreError::Overtaken) => self.settled(which, "overtaken", Settle::Retry(LOOK_AGAIN)),
            Err(StoreError::Unavailable(_)) => self.settled(which, "retry", Settle::Retry(STORE_PAUSE)),
        }
    }

    fn settled(&self, which: Which, result: &'static str, settle: Settle) -> Settle {
        counter!("token_refreshes_total", "platform" => which.platform.as_str(), "result" => result).increment(1);
        info!(company = %which.company, platform = %which.platform, result, "token refresh");
        settle
    }
}

/// A key that is missing can be put back; a text that does not open never will.
fn shut(error: SealError) -> Failure {
    match &error {
        SealError::UnknownKey(_) => Failure::Later { error: error.to_string(), after: None },
        SealError::Broken => Failure::Never { reason: Reason::Failed, error: error.to_string() },
    }
}
