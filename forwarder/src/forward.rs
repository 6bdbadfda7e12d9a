//! One operator message's way to the bot: read, contact, `sending`, call, result. Says how the message is to be settled; the
//! worker settles it. It keeps no order between messages, holds none and knows no circuit breaker yet.

use std::time::Duration;

use metrics::counter;
use nats::Timestamp;
use nats::dead::Reason;
use nats::domain::{Contact, DeliveryState, Message};
use nats::header;
use nats::query::GetContact;
use nats::runtime::CancellationToken;
use nats::runtime::connection::Connection;
use nats::runtime::publish::Publisher;
use nats::runtime::query::{self, QueryError};
use nats::runtime::worker::{Delivery, Settle};
use nats::trace::TraceContext;
use tokio::time::Instant;
use tracing::{Instrument, info, info_span, warn};

use crate::backoff;
use crate::bot::{Bot, Called};
use crate::outbound::{self, Awaiting};
use crate::report::{self, Step, Subject};
use crate::verdict::{Ending, Verdict, judge};

/// How long a message waits here for the persister to answer. Giving it back would count as an attempt.
const CONTACT_WAIT: Duration = Duration::from_secs(900);
/// Pause between the questions.
const CONTACT_PAUSE: Duration = Duration::from_millis(500);
/// A message comes again after this if the log or the persister cannot serve it.
const GIVE_BACK: Duration = Duration::from_secs(5);
/// At shutdown it is given to another replica almost at once.
const HAND_OVER: Duration = Duration::from_millis(50);

/// What the work needs. Cloning is cheap.
#[derive(Clone)]
pub struct Forwarder {
    /// For queries.
    pub connection: Connection,
    /// For events.
    pub publisher: Publisher,
    /// Where messages go.
    pub bot: Bot,
    /// No call begins once it is cancelled.
    pub stop: CancellationToken,
    /// The time.
    pub clock: fn() -> Timestamp,
    /// Uniform in 0..1, for the pauses between tries.
    pub jitter: fn() -> f64,
}

impl Forwarder {
    /// Takes one message as far as it goes now. It ends within 28 s of a stop.
    pub async fn forward(&self, delivery: &Delivery) -> Settle {
        let trace = delivery.header(header::TRACEPARENT).and_then(|t| t.parse().ok()).unwrap_or_else(TraceContext::generate);
        let awaiting = match outbound::read(&delivery.subject, &delivery.payload) {
            Ok(awaiting) => awaiting,
            Err(e) => return Settle::Reject(e.reason, e.why),
        };
        let message = &awaiting.message;
        let span = info_span!("forward", company = %message.company_id, message_id = %message.id, trace_id = trace.trace_id());
        let subject = Subject { message, stream_seq: delivery.stream_seq, attempt: delivery.attempt, trace };
        self.steps(&awaiting, subject).instrument(span).await
    }

    async fn steps(&self, awaiting: &Awaiting, subject: Subject<'_>) -> Settle {
        let calls_before = subject.attempt - 1;
        if backoff::is_expired(awaiting.accepted_at, (self.clock)()) {
            let why = "older than 24 h".to_owned();
            return self.fail(subject, Step::to(DeliveryState::Failed, calls_before), Reason::Expired, why).await;
        }
        let contact = match self.contact(&awaiting.message, subject.trace).await {
            Ok(contact) => contact,
            Err(NoContact::Missing) => {
                let why = "the contact does not exist".to_owned();
                return self.fail(subject, Step::to(DeliveryState::Failed, calls_before), Reason::MissingData, why).await;
            }
            Err(NoContact::Unanswered(why)) => {
                warn!(why, "the contact cannot be had; the message comes again");
                return Settle::Retry(GIVE_BACK);
            }
        };
        if self.stop.is_cancelled() {
            return Settle::Retry(HAND_OVER);
        }
        let sending = Step::to(DeliveryState::Sending, subject.attempt);
        if let Err(error) = report::publish(&self.publisher, subject, &sending, (self.clock)()).await {
            // Without a trace in the log no call is made.
            warn!(%error, "the log does not take the step `sending`; the message comes again");
            return Settle::Retry(GIVE_BACK);
        }
        let customer = contact.social.on(awaiting.message.platform);
        let called = self.bot.deliver(&awaiting.message, customer, subject.trace).await;
        self.result(awaiting, subject, &called).await
    }

    /// The contact. While nobody answers it asks again, within a limit.
    async fn contact(&self, message: &Message, trace: TraceContext) -> Result<Contact, NoContact> {
        let question = GetContact { company_id: message.company_id, id: message.contact_id };
        let deadline = Instant::now() + CONTACT_WAIT;
        loop {
            let why = match query::ask(&self.connection, &question, trace).await {
                Ok(contact) => return Ok(contact),
                Err(QueryError::NotFound) => return Err(NoContact::Missing),
                // Another build's contact: as good as no answer, until the builds agree or the message's day is over.
                Err(QueryError::Bad(why)) => return Err(NoContact::Unanswered(why)),
                Err(QueryError::Unavailable(why)) => why,
            };
            counter!("forward_contact_retries_total").increment(1);
            let ended = Instant::now() + CONTACT_PAUSE >= deadline;
            if ended || self.stop.run_until_cancelled(tokio::time::sleep(CONTACT_PAUSE)).await.is_none() {
                return Err(NoContact::Unanswered(why));
            }
        }
    }

    /// Stores what the call has led to, and only then says how the message is to be settled.
    async fn result(&self, awaiting: &Awaiting, subject: Subject<'_>, called: &Called) -> Settle {
        let verdict = judge(&called.ending, subject.attempt > 1);
        counter!("forward_attempts_total", "result" => verdict.label()).increment(1);
        let now = (self.clock)();
        let status = match called.ending {
            Ending::Answered { status, .. } => Some(status),
            _ => None,
        };
        let ended = |state| Step { status, took: Some(called.took), ..Step::to(state, subject.attempt) };
        let (error, after) = match verdict {
            Verdict::Delivered => {
                let mut step = ended(DeliveryState::Delivered);
                step.delivery.delivered_at = Some(now);
                return self.store(subject, &step, Settle::Done).await;
            }
            Verdict::Reject { error } => return self.fail(subject, ended(DeliveryState::Failed), Reason::Refused, error).await,
            Verdict::Retry { error, after } => (error, after),
        };
        match backoff::pause(subject.attempt, after, awaiting.accepted_at, now, (self.jitter)()) {
            Some(pause) => {
                let mut step = ended(DeliveryState::Retrying);
                step.delivery.last_error = Some(error);
                step.delivery.next_attempt_at = Some(now.plus(pause));
                self.store(subject, &step, Settle::Retry(pause)).await
            }
            None => self.fail(subject, ended(DeliveryState::Failed), Reason::Expired, format!("older than 24 h; last: {error}")).await,
        }
    }

    async fn fail(&self, subject: Subject<'_>, mut step: Step, reason: Reason, why: String) -> Settle {
        step.delivery.last_error = Some(why.clone());
        self.store(subject, &step, Settle::Reject(reason, why)).await
    }

    async fn store(&self, subject: Subject<'_>, step: &Step, settle: Settle) -> Settle {
        let delivery = &step.delivery;
        match report::publish_result(&self.publisher, subject, step, (self.clock)()).await {
            Ok(()) => {
                info!(
                    state = delivery.state.as_str(),
                    attempt = subject.attempt,
                    status = step.status,
                    error = delivery.last_error,
                    "step"
                );
                settle
            }
            Err(error) => {
                warn!(%error, state = delivery.state.as_str(), "a result is not in the log; the bot is called again with the same key");
                Settle::Retry(GIVE_BACK)
            }
        }
    }
}

/// Why there is no contact.
enum NoContact {
    /// It does not exist. The persister's answer has waited for what is on the way.
    Missing,
    /// Nobody can tell now.
    Unanswered(String),
}
