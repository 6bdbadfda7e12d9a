//! One attempt to deliver a message: ask for contact and token, announce the call, call, apply the
//! verdict. Decides neither what an answer means (see `verdict`) nor when a call may begin (see
//! `bot::admission`).

use std::time::Duration;

use contract::Timestamp;
use contract::dead_letter::Reason;
use contract::domain::{Contact, DeliveryState, ExternalId, Integration, LaneEntry, Message};
use contract::query::{GetContact, GetIntegration};
use contract::trace::TraceContext;
use metrics::counter;
use runtime::rpc::query::{self, QueryError};
use secrecy::SecretString;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::bot::Called;
use crate::bot::admission::Permit;
use crate::bot::answer::{Answer, Ending};
use crate::bot::backoff;
use crate::delivery::forwarder::{Forwarder, LOOK_AGAIN, NotStored, wait};
use crate::delivery::history::{self, Past};
use crate::delivery::outbound::OutboundMessage;
use crate::delivery::refusals::Blame;
use crate::delivery::report::{self, FinalStep, Step, StepContext};
use crate::delivery::token_holds::{TokenState, Version};
use crate::delivery::verdict::{Verdict, judge, signal};
use crate::delivery::work::{After, Content, Outcome, Scope, Work};

/// Calls after which a message is given up whose refusal is about its conversation alone. Fewer could
/// be the bot's passing mistake.
const REFUSED_CALLS: u32 = 3;

/// An attempt to deliver the first message of a lane.
pub struct Attempt<'a> {
    pub forwarder: &'a Forwarder,
    pub work: &'a Work,
    pub content: &'a Content,
    pub outbound: &'a OutboundMessage,
    /// The deadline counts from this time.
    pub since: Timestamp,
    /// Whether the message is the replay of a dead letter.
    pub is_replay: bool,
    /// Whether the bot may have been called for the message before this work: by an earlier owner of
    /// the partition, or before the message was a dead letter.
    pub is_repeated: bool,
    pub trace: TraceContext,
    /// Calls to the bot for this message, the one under way included.
    pub calls: u32,
}

/// What a call needs.
struct Prepared {
    /// What staff have made of the message, if it was edited.
    edited: Option<Message>,
    contact: Contact,
    token: SecretString,
    /// The token that is used.
    version: Version,
    /// Whether the token was refused before, and is tried again.
    is_trial: bool,
}

/// Why there is no call now.
enum Obstacle {
    /// A stop is under way.
    Stopped,
    /// The message has ended before, so nothing is left but to settle this copy.
    Ended,
    /// Staff have deleted the message.
    Deleted,
    /// Something that the message needs does not answer.
    NoAnswer(String),
    /// The message can never be delivered.
    Failed(Reason, String),
    /// The message must wait for another token.
    Held(Version, String),
}

impl Attempt<'_> {
    /// Takes the message as far as it goes now.
    pub async fn run(mut self, permit: Permit) -> Outcome {
        if let Some(final_step) = &self.work.item.final_step {
            return self.finish(FinalStep::clone(final_step)).await;
        }
        match self.prepare().await {
            Ok(prepared) => self.call(prepared, permit).await,
            Err(Obstacle::Stopped) => wait(self.work),
            Err(Obstacle::Ended) => {
                counter!("forward_known_total").increment(1);
                info!(
                    seq = self.work.item.seq,
                    "the message had ended before; only settled"
                );
                self.forwarder.done(self.work).await
            }
            Err(Obstacle::Deleted) => {
                let final_step = FinalStep {
                    step: self.step(DeliveryState::Cancelled),
                    dead_letter: None,
                };
                self.finish(final_step).await
            }
            Err(Obstacle::NoAnswer(why)) => self.forwarder.look_again(self.work, &why),
            Err(Obstacle::Failed(reason, why)) => {
                let step = self.step(DeliveryState::Failed);
                self.fail(step, reason, why).await
            }
            Err(Obstacle::Held(version, why)) => {
                let step = self.step(DeliveryState::Held);
                self.hold(step, version, why).await
            }
        }
    }

    fn step(&self, state: DeliveryState) -> Step {
        Step::to(state, self.calls)
    }

    fn context(&self) -> StepContext<'_> {
        StepContext {
            message: &self.outbound.message,
            stream_seq: self.work.item.seq,
            position: self.work.item.log_position.filter(|_| !self.is_replay),
            trace: self.trace,
        }
    }

    fn scope(&self) -> Scope {
        (self.outbound.message.company_id, self.outbound.provider)
    }

    fn now(&self) -> Timestamp {
        (self.forwarder.clock)()
    }

    async fn prepare(&mut self) -> Result<Prepared, Obstacle> {
        let (past, asked) = tokio::join!(self.look_back(), self.ask());
        // First: a message that has ended does not expire.
        let edited = match past? {
            Past::Ended => return Err(Obstacle::Ended),
            Past::Deleted => return Err(Obstacle::Deleted),
            Past::Open { calls, edited } => {
                self.calls = self.calls.max(calls);
                self.is_repeated |= calls > 0;
                edited
            }
        };
        let edited = edited.map(|(content, attachments)| Message {
            content,
            attachments,
            ..self.outbound.message.clone()
        });
        let deadline = self.forwarder.deadline;
        if is_expired(self.since, self.now(), deadline) {
            let why = format!("older than {}", text(deadline));
            return Err(Obstacle::Failed(Reason::Expired, why));
        }
        let (contact, integration) = asked?;
        let version = integration.as_ref().map(|i| i.updated_at);
        let (token, is_trial) = self
            .token(integration.as_ref())
            .map_err(|why| Obstacle::Held(version, why))?;
        if self.forwarder.stop.is_cancelled() {
            return Err(Obstacle::Stopped);
        }
        Ok(Prepared {
            edited,
            contact,
            token,
            version,
            is_trial,
        })
    }

    /// Asks what has become of the message already.
    async fn look_back(&self) -> Result<Past, Obstacle> {
        let copy = history::Copy {
            message: &self.outbound.message,
            position: self.work.item.log_position,
            outbound_seq: self.work.item.seq,
            is_replay: self.is_replay,
        };
        let past = history::ask(&self.forwarder.connection, copy, self.trace).await;
        past.map_err(Obstacle::NoAnswer)
    }

    /// Asks the persister for the contact and the company's access to the platform.
    async fn ask(&self) -> Result<(Contact, Option<Integration>), Obstacle> {
        let message = &self.outbound.message;
        let contact = GetContact {
            company_id: message.company_id,
            id: message.contact_id,
        };
        let integration = GetIntegration {
            company_id: message.company_id,
            provider: self.outbound.provider,
        };
        let connection = &self.forwarder.connection;
        let (contact, integration) = tokio::join!(
            query::ask(connection, &contact, self.trace),
            query::ask(connection, &integration, self.trace)
        );
        let contact = match contact {
            Ok(contact) => contact,
            Err(QueryError::NotFound) => {
                let why = "the contact does not exist".to_owned();
                return Err(Obstacle::Failed(Reason::MissingData, why));
            }
            // A contact that this build cannot read is as good as no answer, until the builds agree
            // or the message's deadline has passed.
            Err(QueryError::Bad(why) | QueryError::Unavailable(why)) => {
                return Err(Obstacle::NoAnswer(why));
            }
        };
        match integration {
            Ok(found) => Ok((contact, Some(found.integration))),
            Err(QueryError::NotFound) => Ok((contact, None)),
            Err(QueryError::Bad(why) | QueryError::Unavailable(why)) => {
                Err(Obstacle::NoAnswer(why))
            }
        }
    }

    /// The token, and whether it was refused before and is tried again.
    ///
    /// # Errors
    /// Why the message must wait for another token.
    fn token(&self, integration: Option<&Integration>) -> Result<(SecretString, bool), String> {
        let scope = self.scope();
        let version = integration.map(|i| i.updated_at);
        let is_trial = match self.forwarder.holds.check(scope, version) {
            TokenState::Free => false,
            TokenState::Trial => true,
            TokenState::Held(why) => return Err(why),
        };
        let token = integration
            .and_then(|i| i.access_token.as_ref())
            .ok_or_else(|| format!("the company has no access token for {}", scope.1))?;
        let token = self
            .forwarder
            .keyring
            .open(token, scope.0, scope.1)
            .map_err(|e| format!("the access token cannot be opened: {e}"))?;
        Ok((token, is_trial))
    }

    /// Announces the call, calls the bot, and applies the verdict.
    async fn call(&mut self, prepared: Prepared, permit: Permit) -> Outcome {
        let Prepared {
            edited,
            contact,
            token,
            version,
            is_trial,
        } = prepared;
        let forwarder = self.forwarder;
        let message = edited.as_ref().unwrap_or(&self.outbound.message);
        self.calls = self.calls.saturating_add(1);
        let sending = self.step(DeliveryState::Sending);
        let announced =
            report::publish(&forwarder.publisher, self.context(), &sending, self.now()).await;
        if let Err(error) = announced {
            // Without the announcement in the log no call is made.
            return forwarder.look_again(self.work, &error.to_string());
        }
        let customer = contact.social.on(message.platform);
        let called = forwarder
            .bot
            .deliver(message, customer, &token, self.trace)
            .await;
        permit.report(signal(&called.ending, self.calls), message.contact_id);
        let verdict = judge(&called.ending, self.calls > 1 || self.is_repeated);
        if verdict == Verdict::Delivered {
            let (scope, conversation) = (self.scope(), message.contact_id);
            forwarder.refusals.delivered(scope, version, conversation);
            if is_trial {
                forwarder.holds.accept(scope, version);
            }
        }
        self.apply_verdict(version, &called, verdict).await
    }

    /// Stores the result of a call, and only then says what becomes of the lane.
    async fn apply_verdict(&self, version: Version, called: &Called, verdict: Verdict) -> Outcome {
        let forwarder = self.forwarder;
        counter!("forward_attempts_total", "result" => verdict.label()).increment(1);
        let now = self.now();
        let status = match &called.ending {
            Ending::Answered(answer) => Some(answer.status),
            _ => None,
        };
        let ended = |state| Step {
            status,
            took: Some(called.took),
            ..self.step(state)
        };
        let (error, after) = match verdict {
            Verdict::Delivered => {
                let mut step = ended(DeliveryState::Delivered);
                step.delivery.delivered_at = Some(now);
                step.delivery.external_message_id = match &called.ending {
                    Ending::Answered(answer) => given_id(answer),
                    _ => None,
                };
                let final_step = FinalStep {
                    step,
                    dead_letter: None,
                };
                return self.finish(final_step).await;
            }
            Verdict::Reject { error } => {
                let step = ended(DeliveryState::Failed);
                return self.fail(step, Reason::Refused, error).await;
            }
            Verdict::Hold { error } => {
                return self.hold(ended(DeliveryState::Held), version, error).await;
            }
            Verdict::Unclear { error } => {
                let conversation = self.outbound.message.contact_id;
                let refusals = &forwarder.refusals;
                match refusals.refused(self.scope(), version, conversation) {
                    Blame::Company => {
                        return self.hold(ended(DeliveryState::Held), version, error).await;
                    }
                    Blame::Conversation if self.calls >= REFUSED_CALLS => {
                        let step = ended(DeliveryState::Failed);
                        return self.fail(step, Reason::Refused, error).await;
                    }
                    // The message waits, until another conversation tells.
                    Blame::Conversation | Blame::Open => (error, None),
                }
            }
            Verdict::Retry { error, after } => (error, after),
        };
        let jitter = (forwarder.jitter)();
        let pause = backoff::pause(self.calls.into(), after, forwarder.longest_pause, jitter);
        if is_expired(self.since, now.plus(pause), forwarder.deadline) {
            let why = format!("older than {}; last: {error}", text(forwarder.deadline));
            let step = ended(DeliveryState::Failed);
            return self.fail(step, Reason::Expired, why).await;
        }
        let mut step = ended(DeliveryState::Retrying);
        step.delivery.last_error = Some(error);
        step.delivery.next_attempt_at = Some(now.plus(pause));
        // If the step is not stored, the message waits all the same. The next step tells the rest.
        let _ = self.store(&step).await;
        let has_entry = self.write_entry(&step, now).await;
        Outcome {
            after: After::Wait {
                until: Instant::now() + pause,
                calls: self.calls,
            },
            has_entry,
        }
    }

    /// Lets the message wait for another token, or for its deadline.
    async fn hold(&self, mut step: Step, version: Version, why: String) -> Outcome {
        let forwarder = self.forwarder;
        forwarder.holds.hold(self.scope(), version, &why);
        step.delivery.last_error = Some(why);
        let now = self.now();
        // As in `apply_verdict`, the message waits also if the step is not stored.
        let _ = self.store(&step).await;
        let has_entry = self.write_entry(&step, now).await;
        let left = forwarder.deadline.saturating_sub(now.since(self.since));
        Outcome {
            after: After::Hold {
                scope: self.scope(),
                until: Instant::now() + left,
                calls: self.calls,
            },
            has_entry,
        }
    }

    /// Gives the message up.
    async fn fail(&self, mut step: Step, reason: Reason, why: String) -> Outcome {
        step.delivery.last_error = Some(why);
        let final_step = FinalStep {
            step,
            dead_letter: Some(reason),
        };
        self.finish(final_step).await
    }

    /// Ends the message: stores the dead letter, stores the step, and settles, in this order. If
    /// something cannot be stored, only that and what follows is tried again.
    async fn finish(&self, mut final_step: FinalStep) -> Outcome {
        match self.store_final(&mut final_step).await {
            Ok(()) => self.forwarder.done(self.work).await,
            Err(NotStored) => {
                counter!("forward_again_total").increment(1);
                warn!(
                    seq = self.work.item.seq,
                    "how the message has ended is not in the log; that is tried again"
                );
                Outcome {
                    after: After::Finish {
                        until: Instant::now() + LOOK_AGAIN,
                        final_step: Box::new(final_step),
                    },
                    has_entry: self.work.has_entry,
                }
            }
        }
    }

    async fn store_final(&self, final_step: &mut FinalStep) -> Result<(), NotStored> {
        let FinalStep { step, dead_letter } = final_step;
        if let Some(reason) = *dead_letter {
            let why = step.delivery.last_error.as_deref().unwrap_or_default();
            let calls = step.delivery.attempts;
            self.forwarder
                .dead_letter(self.work, self.content, calls, reason, why)
                .await?;
            *dead_letter = None;
        }
        self.store(step).await
    }

    /// Stores a step that ends a call, or that no call follows.
    async fn store(&self, step: &Step) -> Result<(), NotStored> {
        let delivery = &step.delivery;
        let publisher = &self.forwarder.publisher;
        match report::publish_result(publisher, self.context(), step, self.now()).await {
            Ok(()) => {
                info!(
                    state = delivery.state.as_str(),
                    attempt = delivery.attempts,
                    status = step.status,
                    error = delivery.last_error,
                    "step"
                );
                Ok(())
            }
            Err(error) => {
                warn!(%error, state = delivery.state.as_str(), "a result is not in the log");
                Err(NotStored)
            }
        }
    }

    /// Writes into the bucket `lanes` why the lane waits. Returns whether the lane has an entry now.
    async fn write_entry(&self, step: &Step, now: Timestamp) -> bool {
        let work = self.work;
        let entry = LaneEntry {
            state: step.delivery.state,
            message_id: self.outbound.message.id,
            seq: work.item.seq,
            attempts: step.delivery.attempts,
            error: step.delivery.last_error.clone(),
            since: now,
            next_attempt_at: step.delivery.next_attempt_at,
        };
        let store = &self.forwarder.lane_store;
        store.put(work.partition, work.lane, &entry).await || work.has_entry
    }
}

/// Whether a message is too old to be sent.
fn is_expired(since: Timestamp, now: Timestamp, deadline: Duration) -> bool {
    now.since(since) >= deadline
}

/// The id that the platform gave the message. An id that no message can have is left out.
fn given_id(answer: &Answer) -> Option<ExternalId> {
    ExternalId::new(answer.reply.message_id.as_deref()?).ok()
}

fn text(deadline: Duration) -> String {
    let seconds = deadline.as_secs();
    match (seconds % 3_600, seconds % 60) {
        (0, _) => format!("{} h", seconds / 3_600),
        (_, 0) => format!("{} min", seconds / 60),
        _ => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_expires_at_its_deadline() {
        let since = Timestamp::from_millis(1_760_000_000_000);
        let day = Duration::from_secs(86_400);
        let before = since.plus(day - Duration::from_secs(1));
        assert!(!is_expired(since, before, day) && is_expired(since, since.plus(day), day));
    }
}
