//! Work on the first message of a conversation: read it, ask for contact and token, `sending`,
//! call, result, settle. Says what becomes of the lane. Which message is the first, and when its
//! turn comes, is the partition's matter.

use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::stream::{RawMessageError, RawMessageErrorKind};
use contract::Timestamp;
use contract::dead_letter::Reason;
use contract::domain::{DeliveryState, Integration, LaneEntry};
use contract::query::{GetContact, GetIntegration};
use contract::trace::TraceContext;
use contract::{header, inventory};
use metrics::counter;
use runtime::CancellationToken;
use runtime::dead_letters::store::{self, Failed};
use runtime::log::publisher::Publisher;
use runtime::net::connection::{Connection, REQUEST_TIMEOUT};
use runtime::rpc::query::{self, QueryError};
use runtime::seal::Keyring;
use secrecy::SecretString;
use tokio::time::Instant;
use tracing::{Instrument, info, info_span, warn};

use crate::bot::admission::Pass;
use crate::bot::backoff;
use crate::bot::{Bot, Called};
use crate::delivery::lane_store::Entries;
use crate::delivery::outbound::{self, Awaiting};
use crate::delivery::report::{self, Ended, Step, Subject};
use crate::delivery::token_holds::{Holds, Leave};
use crate::delivery::verdict::{Ending, Verdict, judge, sign};
use crate::partition::lane::{After, Content, Item, LaneId, Scope};

/// A message whose contact, token or place in the log cannot be had is looked at again after this.
/// No call is counted.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// An acknowledgement that is not confirmed is repeated so often before the message counts as not
/// settled.
const ACK_TRIES: usize = 3;

/// What the work needs. Cloning is cheap.
#[derive(Clone)]
pub struct Forwarder {
    /// For queries.
    pub connection: Connection,
    /// For events.
    pub publisher: Publisher,
    /// Where messages go.
    pub bot: Bot,
    /// Opens tokens.
    pub keyring: Keyring,
    /// Whose messages are held.
    pub holds: Holds,
    /// Why lanes wait.
    pub entries: Entries,
    /// How old a message may get.
    pub deadline: Duration,
    /// The longest pause between two calls for it.
    pub longest_pause: Duration,
    /// No call begins once it is cancelled.
    pub stop: CancellationToken,
    /// The time.
    pub clock: fn() -> Timestamp,
    /// Uniform in 0..1, for the pauses between tries.
    pub jitter: fn() -> f64,
}

/// A piece of work.
#[derive(Clone, Debug)]
pub struct Work {
    /// The partition.
    pub partition: u32,
    /// The lane.
    pub lane: LaneId,
    /// Its first message.
    pub item: Item,
    /// Whether the lane has an entry in the bucket.
    pub has_entry: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What becomes of the lane.
    pub after: After,
    /// Whether the lane has an entry now.
    pub has_entry: bool,
    /// The message is done with, but the server has not confirmed it: if it comes again, only that
    /// is repeated.
    pub unsettled: bool,
}

/// A message at hand, and what is needed to tell of it.
struct Head<'a> {
    work: &'a Work,
    content: &'a Content,
    awaiting: &'a Awaiting,
    /// From when its deadline counts.
    since: Timestamp,
    /// The bot may have been called for it before this work: by an earlier owner, or before it was
    /// a dead letter.
    repeated: bool,
    trace: TraceContext,
}

impl Head<'_> {
    fn subject(&self, calls: u32) -> Subject<'_> {
        Subject {
            message: &self.awaiting.message,
            stream_seq: self.work.item.seq,
            attempt: u64::from(calls),
            trace: self.trace,
        }
    }

    fn scope(&self) -> Scope {
        (self.awaiting.message.company_id, self.awaiting.provider)
    }
}

impl Forwarder {
    /// Takes the message as far as it goes now. Ends within 25 s of a stop.
    pub async fn forward(&self, work: &Work, pass: Pass) -> Outcome {
        let content = match &work.item.content {
            Some(content) => content.clone(),
            None => match self.read(work.item.seq).await {
                Ok(content) => content,
                // An operator has removed it.
                Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => {
                    return self.next(work, true).await;
                }
                Err(error) => return self.again(work, work.item.calls, &error.to_string()),
            },
        };
        // A message that was replayed into the log, for the persister: its first copy has come here
        // too.
        let replayed = content.headers.get(header::REPLAY_OF).is_some();
        if replayed && content.headers.get(header::STREAM_SOURCE).is_some() {
            return self.settle(work).await;
        }
        let trace = content
            .headers
            .get(header::TRACEPARENT)
            .and_then(|t| t.as_str().parse().ok())
            .unwrap_or_else(TraceContext::generate);
        let awaiting = match outbound::read(&content.subject, &content.payload) {
            Ok(awaiting) => awaiting,
            Err(e) => {
                return self
                    .bury(work, &content, u64::from(work.item.calls), e.reason, &e.why)
                    .await;
            }
        };
        let message = &awaiting.message;
        let span = info_span!("forward", company = %message.company_id, message_id = %message.id, trace_id = trace.trace_id());
        // Who replays a message wants it delivered now, however old it is.
        let since = if replayed {
            content.stored_at
        } else {
            awaiting.accepted_at
        };
        let repeated = work.item.repeated || replayed;
        let head = Head {
            work,
            content: &content,
            awaiting: &awaiting,
            since,
            repeated,
            trace,
        };
        self.steps(&head, pass).instrument(span).await
    }

    async fn read(&self, seq: u64) -> Result<Content, RawMessageError> {
        let stream = self
            .connection
            .jetstream
            .get_stream_no_info(inventory::OUTBOUND)
            .await
            .map_err(|_| RawMessageErrorKind::Other)?;
        let stored = stream.get_raw_message(seq).await?;
        Ok(Content {
            subject: stored.subject,
            headers: stored.headers,
            payload: stored.payload,
            stored_at: stored.time.into(),
        })
    }

    async fn steps(&self, head: &Head<'_>, pass: Pass) -> Outcome {
        let (item, message) = (&head.work.item, &head.awaiting.message);
        if let Some(ended) = &item.ended {
            return self.conclude(head, Ended::clone(ended)).await;
        }
        if backoff::is_expired(head.since, (self.clock)(), self.deadline) {
            let why = format!("older than {}", text(self.deadline));
            return self
                .fail(
                    head,
                    Step::to(DeliveryState::Failed, u64::from(item.calls)),
                    Reason::Expired,
                    why,
                )
                .await;
        }
        let contact = GetContact {
            company_id: message.company_id,
            id: message.contact_id,
        };
        let integration = GetIntegration {
            company_id: message.company_id,
            provider: head.awaiting.provider,
        };
        let (contact, integration) = tokio::join!(
            query::ask(&self.connection, &contact, head.trace),
            query::ask(&self.connection, &integration, head.trace)
        );
        let contact = match contact {
            Ok(contact) => contact,
            Err(QueryError::NotFound) => {
                let why = "the contact does not exist".to_owned();
                return self
                    .fail(
                        head,
                        Step::to(DeliveryState::Failed, u64::from(item.calls)),
                        Reason::MissingData,
                        why,
                    )
                    .await;
            }
            // Another build's contact: as good as no answer, until the builds agree or the
            // message's day is over.
            Err(QueryError::Bad(why) | QueryError::Unavailable(why)) => {
                return self.again(head.work, item.calls, &why);
            }
        };
        let integration = match integration {
            Ok(found) => Some(found.integration),
            Err(QueryError::NotFound) => None,
            Err(QueryError::Bad(why) | QueryError::Unavailable(why)) => {
                return self.again(head.work, item.calls, &why);
            }
        };
        let version = integration.as_ref().map(|i| i.updated_at);
        let (token, is_trial) = match self.token(head.scope(), integration.as_ref()) {
            Ok(found) => found,
            Err(why) => {
                return self
                    .hold(
                        head,
                        Step::to(DeliveryState::Held, u64::from(item.calls)),
                        version,
                        why,
                    )
                    .await;
            }
        };
        if self.stop.is_cancelled() {
            return again(head.work, item.calls);
        }
        let calls = item.calls.saturating_add(1);
        let sending = Step::to(DeliveryState::Sending, u64::from(calls));
        if let Err(error) = report::publish(
            &self.publisher,
            head.subject(calls),
            &sending,
            (self.clock)(),
        )
        .await
        {
            // Without a trace in the log no call is made.
            return self.again(head.work, item.calls, &error.to_string());
        }
        let called = self
            .bot
            .deliver(
                message,
                contact.social.on(message.platform),
                &token,
                head.trace,
            )
            .await;
        pass.tell(sign(&called.ending, calls), message.contact_id);
        if is_trial
            && matches!(
                called.ending,
                Ending::Answered {
                    status: 200..=299,
                    ..
                }
            )
        {
            self.holds.works(head.scope(), version);
        }
        self.result(head, calls, version, &called).await
    }

    /// The token, and whether it was refused and is tried again; or why the message must wait for
    /// another.
    fn token(
        &self,
        scope: Scope,
        integration: Option<&Integration>,
    ) -> Result<(SecretString, bool), String> {
        let version = integration.map(|i| i.updated_at);
        let is_trial = match self.holds.ask(scope, version) {
            Leave::Free => false,
            Leave::Trial => true,
            Leave::Held(why) => return Err(why),
        };
        let token = integration.and_then(|i| i.access_token.as_ref());
        let Some(token) = token else {
            return Err(format!("the company has no access token for {}", scope.1));
        };
        let token = self
            .keyring
            .open(token, scope.0, scope.1)
            .map_err(|e| format!("the access token cannot be opened: {e}"))?;
        Ok((token, is_trial))
    }

    /// Stores what the call has led to, and only then says what becomes of the lane.
    async fn result(
        &self,
        head: &Head<'_>,
        calls: u32,
        version: Option<Timestamp>,
        called: &Called,
    ) -> Outcome {
        let verdict = judge(&called.ending, calls > 1 || head.repeated);
        counter!("forward_attempts_total", "result" => verdict.label()).increment(1);
        let now = (self.clock)();
        let status = match called.ending {
            Ending::Answered { status, .. } => Some(status),
            _ => None,
        };
        let ended = |state| Step {
            status,
            took: Some(called.took),
            ..Step::to(state, u64::from(calls))
        };
        let (error, after) = match verdict {
            Verdict::Delivered => {
                let mut step = ended(DeliveryState::Delivered);
                step.delivery.delivered_at = Some(now);
                return self.conclude(head, Ended { step, letter: None }).await;
            }
            Verdict::Reject { error } => {
                return self
                    .fail(head, ended(DeliveryState::Failed), Reason::Refused, error)
                    .await;
            }
            Verdict::Hold { error } => {
                return self
                    .hold(head, ended(DeliveryState::Held), version, error)
                    .await;
            }
            Verdict::Retry { error, after } => (error, after),
        };
        let pause = backoff::pause(u64::from(calls), after, self.longest_pause, (self.jitter)());
        if backoff::is_expired(head.since, now.plus(pause), self.deadline) {
            let why = format!("older than {}; last: {error}", text(self.deadline));
            return self
                .fail(head, ended(DeliveryState::Failed), Reason::Expired, why)
                .await;
        }
        let mut step = ended(DeliveryState::Retrying);
        step.delivery.last_error = Some(error);
        step.delivery.next_attempt_at = Some(now.plus(pause));
        self.store(head, calls, &step).await;
        let has_entry = self.note(head, calls, &step, now).await;
        Outcome {
            after: After::Wait {
                until: Instant::now() + pause,
                calls,
            },
            has_entry,
            unsettled: false,
        }
    }

    /// The message waits for another token, or for its deadline.
    async fn hold(
        &self,
        head: &Head<'_>,
        mut step: Step,
        version: Option<Timestamp>,
        why: String,
    ) -> Outcome {
        self.holds.hold(head.scope(), version, &why);
        step.delivery.last_error = Some(why);
        let (calls, now) = (step.delivery.attempts, (self.clock)());
        self.store(head, calls, &step).await;
        let has_entry = self.note(head, calls, &step, now).await;
        let left = self.deadline.saturating_sub(now.since(head.since));
        Outcome {
            after: After::Hold {
                scope: head.scope(),
                until: Instant::now() + left,
                calls,
            },
            has_entry,
            unsettled: false,
        }
    }

    /// It is given up.
    async fn fail(&self, head: &Head<'_>, mut step: Step, reason: Reason, why: String) -> Outcome {
        step.delivery.last_error = Some(why);
        self.conclude(
            head,
            Ended {
                step,
                letter: Some(reason),
            },
        )
        .await
    }

    /// It has ended: dead letter, event, settled, in this order. What cannot be stored now is all
    /// that is tried again.
    async fn conclude(&self, head: &Head<'_>, mut ended: Ended) -> Outcome {
        let delivery = &ended.step.delivery;
        let (calls, why) = (
            delivery.attempts,
            delivery.last_error.as_deref().unwrap_or_default(),
        );
        if let Some(reason) = ended.letter
            && self
                .dead_letter(head.work, head.content, u64::from(calls), reason, why)
                .await
        {
            ended.letter = None;
        }
        if ended.letter.is_none() && self.store(head, calls, &ended.step).await {
            return self.settle(head.work).await;
        }
        counter!("forward_again_total").increment(1);
        warn!(
            seq = head.work.item.seq,
            "how the message has ended is not in the log; that is tried again"
        );
        let after = After::Conclude {
            until: Instant::now() + LOOK_AGAIN,
            ended: Box::new(ended),
        };
        Outcome {
            after,
            has_entry: head.work.has_entry,
            unsettled: false,
        }
    }

    /// It is given up, and is no message, so has no event.
    async fn bury(
        &self,
        work: &Work,
        content: &Content,
        calls: u64,
        reason: Reason,
        why: &str,
    ) -> Outcome {
        match self.dead_letter(work, content, calls, reason, why).await {
            true => self.settle(work).await,
            false => self.again(work, work.item.calls, "the dead letter is not stored"),
        }
    }

    async fn dead_letter(
        &self,
        work: &Work,
        content: &Content,
        calls: u64,
        reason: Reason,
        why: &str,
    ) -> bool {
        let Content {
            subject,
            headers,
            payload,
            ..
        } = content;
        let failed = Failed {
            subject,
            headers,
            payload,
            stream: inventory::OUTBOUND,
            stream_seq: work.item.seq,
            attempts: calls,
        };
        store::store(&self.connection, failed, reason, why, (self.clock)()).await
    }

    /// Stores a result; false if it is not known to be in the log.
    async fn store(&self, head: &Head<'_>, calls: u32, step: &Step) -> bool {
        let delivery = &step.delivery;
        match report::publish_result(&self.publisher, head.subject(calls), step, (self.clock)())
            .await
        {
            Ok(()) => {
                info!(
                    state = delivery.state.as_str(),
                    attempt = calls,
                    status = step.status,
                    error = delivery.last_error,
                    "step"
                );
                true
            }
            Err(error) => {
                warn!(%error, state = delivery.state.as_str(), "a result is not in the log");
                false
            }
        }
    }

    /// Writes into the bucket why the lane waits.
    async fn note(&self, head: &Head<'_>, calls: u32, step: &Step, now: Timestamp) -> bool {
        let entry = LaneEntry {
            state: step.delivery.state,
            message_id: head.awaiting.message.id,
            seq: head.work.item.seq,
            attempts: calls,
            error: step.delivery.last_error.clone(),
            since: now,
            next_attempt_at: step.delivery.next_attempt_at,
        };
        self.entries
            .put(head.work.partition, head.work.lane, &entry)
            .await
            || head.work.has_entry
    }

    /// Something that the message needs does not answer: again later. A call that was made counts,
    /// for the bot may have the message.
    fn again(&self, work: &Work, calls: u32, why: &str) -> Outcome {
        counter!("forward_again_total").increment(1);
        warn!(why, seq = work.item.seq, "the message is looked at again");
        again(work, calls)
    }

    /// The message is done with.
    pub async fn settle(&self, work: &Work) -> Outcome {
        for _ in 0..ACK_TRIES {
            let ack = self
                .connection
                .client
                .request(work.item.ack.clone(), AckKind::Ack.into());
            if matches!(tokio::time::timeout(REQUEST_TIMEOUT, ack).await, Ok(Ok(_))) {
                return self.next(work, true).await;
            }
        }
        warn!(
            seq = work.item.seq,
            "an acknowledgement is not confirmed; it is repeated if the message comes again"
        );
        self.next(work, false).await
    }

    async fn next(&self, work: &Work, settled: bool) -> Outcome {
        if work.has_entry {
            self.entries.remove(work.partition, work.lane).await;
        }
        Outcome {
            after: After::Next,
            has_entry: false,
            unsettled: !settled,
        }
    }
}

fn again(work: &Work, calls: u32) -> Outcome {
    let after = After::Wait {
        until: Instant::now() + LOOK_AGAIN,
        calls,
    };
    Outcome {
        after,
        has_entry: work.has_entry,
        unsettled: false,
    }
}

fn text(deadline: Duration) -> String {
    let seconds = deadline.as_secs();
    match (seconds % 3_600, seconds % 60) {
        (0, _) => format!("{} h", seconds / 3_600),
        (_, 0) => format!("{} min", seconds / 60),
        _ => format!("{seconds} s"),
    }
}
