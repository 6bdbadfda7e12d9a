//! Renews one token: looks whether it is still the one that was found, exchanges it, stores the new one. What was entered or
//! removed meanwhile stays: the log takes the new token only in place of the old one. Tokens appear in no log line and no error.

use std::time::Duration;

use metrics::counter;
use nats::dead::Reason;
use nats::domain::{Integration, Provider, Sealed};
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

use crate::google::Google;
use crate::graph::Graph;
use crate::store::{StoreError, store_if_last};
use crate::verdict::{Fresh, Verdict, judge, pause};

/// How long storing a token that was just given out is tried; after that it is exchanged anew.
const STORE_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between the tries.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// How long an access token of Google's lives where it does not say.
const GOOGLE_LIFE: Duration = Duration::from_secs(3_600);
/// Whatever happened meanwhile is in the view after this, most likely.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

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
        let question = GetIntegration { company_id: which.company, provider: which.provider };
        let view = match ask(&self.connection, &question, TraceContext::generate()).await {
            Ok(view) if view.integration.updated_at == which.version => view,
            Ok(_) => return self.settled(which, "replaced", Settle::Done),
            Err(QueryError::NotFound) => return self.settled(which, "removed", Settle::Done),
            Err(e) if self.has_time(which, tried) => return self.later(which, tried, &e.to_string(), None),
            Err(e) if which.provider == Provider::Google => return self.put_off(which, &e.to_string()),
            // Staff can be told only of a token that can be looked at; the next run finds it again.
            Err(e) => return self.settled(which, "unseen", Settle::Reject(Reason::Expired, e.to_string())),
        };
        match self.exchange(&view).await {
            Ok(fresh) => self.keep(which, &view, fresh).await,
            Err(Failure::Later { error, after }) if self.has_time(which, tried) => self.later(which, tried, &error, after),
            Err(Failure::Later { error, .. }) if which.provider == Provider::Google => self.put_off(which, &error),
            Err(Failure::Later { error, .. }) => self.give_up(which, &view, Reason::Expired, error).await,
            Err(Failure::Never { reason, error }) => self.give_up(which, &view, reason, error).await,
        }
    }

    fn has_time(&self, which: Which, tried: Tried) -> bool {
        let deadline = if which.provider == Provider::Google { self.google_deadline } else { self.deadline };
        (self.clock)().since(tried.since) < deadline
    }

    async fn exchange(&self, view: &IntegrationView) -> Result<Fresh, Failure> {
        let Integration { provider, access_token, refresh_token, token_expires_at, .. } = &view.integration;
        if *provider == Provider::Google {
            let token = self.open(view, refresh_token.as_ref())?;
            let google = self.google.as_ref().ok_or_else(|| unset("GOOGLE_CLIENT_ID and GOOGLE_CLIENT_SECRET"))?;
            let Fresh { token: access, refresh_token, lives } = renewed(judge(&google.refresh(&token).await))?;
            // Without an end it would count as due for ever.
            return Ok(Fresh { token: access, refresh_token: refresh_token.or(Some(token)), lives: lives.or(Some(GOOGLE_LIFE)) });
        }
        if token_expires_at.is_some_and(|at| at <= (self.clock)()) {
            return Err(Failure::Never { reason: Reason::Expired, error: "the token has expired".into() });
        }
        let token = self.open(view, access_token.as_ref())?;
        let graph = self.graph.as_ref().ok_or_else(|| unset("FACEBOOK_APP_ID and FACEBOOK_APP_SECRET"))?;
        Ok(Fresh { refresh_token: None, ..renewed(judge(&graph.exchange(&token).await))? })
    }

    fn open(&self, view: &IntegrationView, token: Option<&Sealed>) -> Result<SecretString, Failure> {
        let Integration { company_id, provider, .. } = &view.integration;
        let token =
            token.ok_or_else(|| Failure::Never { reason: Reason::MissingData, error: "there is no token to renew it with".into() })?;
        self.keyring.open(token, *company_id, *provider).map_err(shut)
    }

    /// Stores the new token in place of the old one.
    async fn keep(&self, which: Which, view: &IntegrationView, fresh: Fresh) -> Settle {
        let Which { company, provider, version } = which;
        // The refresh token too, if it is the same: so both are sealed with the newest key.
        let seal = |token: &SecretString| self.keyring.seal(token, company, provider);
        let (access_token, refresh_token) = match (seal(&fresh.token), fresh.refresh_token.as_ref().map(seal).transpose()) {
            (Ok(access_token), Ok(refresh_token)) => (Some(access_token), refresh_token),
            (Err(e), _) | (_, Err(e)) => return Settle::Reject(Reason::Failed, e.to_string()),
        };
        let now = (self.clock)();
        // The time is the token's version, so it must be another one.
        let updated_at = now.max(version.plus(Duration::from_millis(1)));
        let token_expires_at = fresh.lives.map(|lives| now.plus(lives));
        let integration = Integration { access_token, refresh_token, token_expires_at, updated_at, ..view.integration.clone() };
        let envelope = Envelope::new(now, Actor::System, company, Event::IntegrationUpdated(integration));
        let msg_id = format!("token-refresh-{company}-{provider}-{}", version.millis());
        let deadline = Instant::now() + STORE_DEADLINE;
        loop {
            match store_if_last(&self.connection, &envelope, &msg_id, &subject::integration_of(company, provider), view.seq).await {
                Ok(()) => return self.settled(which, "renewed", Settle::Done),
                // Or an earlier try was stored although its answer was lost: the next look tells.
                Err(StoreError::Overtaken) => return self.settled(which, "overtaken", Settle::Retry(LOOK_AGAIN)),
                Err(StoreError::Unavailable(error)) if Instant::now() + STORE_PAUSE >= deadline => {
                    warn!(%company, platform = %provider, error, "a new token could not be stored; the old one is exchanged again");
                    return self.settled(which, "retry", Settle::Retry(LOOK_AGAIN));
                }
                Err(StoreError::Unavailable(_)) => tokio::time::sleep(STORE_PAUSE).await,
            }
        }
    }

    fn later(&self, which: Which, tried: Tried, error: &str, after: Option<Duration>) -> Settle {
        let wait = pause(tried.attempt, after, (self.jitter)());
        warn!(company = %which.company, platform = %which.provider, error, attempt = tried.attempt, ?wait, "a token could not be renewed yet");
        self.settled(which, "retry", Settle::Retry(wait))
    }

    /// The next run, minutes from now, hands it out again. Staff are not told: they could do nothing about it.
    fn put_off(&self, which: Which, error: &str) -> Settle {
        warn!(company = %which.company, platform = %which.provider, error, "a token could not be renewed before the next run");
        self.settled(which, "put_off", Settle::Done)
    }

    /// Tells staff, and operators by a dead letter; both once for a token, although each run of the job tries it again.
    async fn give_up(&self, which: Which, view: &IntegrationView, reason: Reason, error: String) -> Settle {
        let Which { company, provider, version } = which;
        warn!(%company, platform = %provider, error, known = view.refresh_error.is_some(), "a token could not be renewed");
        if view.refresh_error.is_some() {
            return self.settled(which, "refused", Settle::Done);
        }
        let token_expires_at = view.integration.token_expires_at;
        let event = IntegrationRefreshFailed { provider, error: error.clone(), token_expires_at };
        let envelope = Envelope::new((self.clock)(), Actor::System, company, Event::IntegrationRefreshFailed(event));
        let msg_id = format!("token-refresh-failed-{company}-{provider}-{}", version.millis());
        match store_if_last(&self.connection, &envelope, &msg_id, &subject::integration_of(company, provider), view.seq).await {
            Ok(()) => self.settled(which, "refused", Settle::Reject(reason, error)),
            Err(StoreError::Overtaken) => self.settled(which, "overtaken", Settle::Retry(LOOK_AGAIN)),
            Err(StoreError::Unavailable(_)) => self.settled(which, "retry", Settle::Retry(STORE_PAUSE)),
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
        Verdict::Reject { error } => Err(Failure::Never { reason: Reason::Refused, error }),
    }
}

/// Another scheduler may have it.
fn unset(what: &str) -> Failure {
    Failure::Later { error: format!("this scheduler has no {what}"), after: None }
}

/// A key that is missing can be put back; a text that does not open never will.
fn shut(error: SealError) -> Failure {
    match &error {
        SealError::UnknownKey(_) => Failure::Later { error: error.to_string(), after: None },
        SealError::Broken => Failure::Never { reason: Reason::Failed, error: error.to_string() },
    }
}
