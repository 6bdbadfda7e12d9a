//! Replay: the message of a dead letter is published again on its original subject, once, however
//! often the replay is asked for. Whether the message can be processed now is not decided here: if
//! it cannot, it becomes another dead letter that points to this one.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, ErrorCode};
use metrics::counter;
use serde::Serialize;
use tracing::info;

use super::filter::{Filter, StateFilter};
use super::list::DeadLetters;
use super::model::{DeadLetter, DeadLetterError, Scope};
use super::resolution::Decided;
use crate::log::direct_get::{self, StoredMessage};
use crate::net::connection::SendError;
use contract::Timestamp;
use contract::dead_letter::{State, StreamPosition};
use contract::event::MessageDelivery;
use contract::subject::EventSubject;
use contract::{header, inventory, subject};

/// Dead letters that one request replays at most.
pub const MAX_REPLAYS: usize = 100;
/// The time that publishing one message may take.
const PUBLISH_WITHIN: Duration = Duration::from_secs(3);
/// Messages in one page of the search for an earlier replay.
const SEARCH_PAGE: usize = 500;
/// Pages that the search for an earlier replay reads of a stream. Beyond them the replay fails. A
/// conversation does not have so many messages in the time after which a replay is asked for again.
const SEARCH_PAGES: usize = 20;

/// Whether a replay is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only say which dead letters could be replayed.
    DryRun,
    /// Replay them.
    Replay {
        /// Who asks: `user:<id>`, or `operator`.
        by: String,
    },
}

/// What a replay of many has come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = ReplayedLetters))]
pub struct Replayed {
    /// The letters that are replayed, or would be, in this order.
    pub sequences: Vec<u64>,
    /// Those that match and cannot be.
    pub skipped: Vec<Skipped>,
    /// Where to go on; `None` at the end.
    pub next_cursor: Option<u64>,
}

/// A letter that was passed over.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = SkippedLetter))]
pub struct Skipped {
    /// The letter.
    pub seq: u64,
    /// Why.
    pub why: String,
}

impl DeadLetters {
    /// Replays a dead letter, or finds that it is replayed.
    ///
    /// # Errors
    /// See [`DeadLetterError`]; after [`DeadLetterError::Unavailable`] asking again completes what
    /// was begun, after [`DeadLetterError::Refused`] the dead letter is open again.
    pub async fn replay(
        &self,
        scope: Scope,
        seq: u64,
        by: &str,
    ) -> Result<DeadLetter, DeadLetterError> {
        let (stored, mut dead_letter) = self.get(scope, seq).await?;
        let target = replay_target(scope, &dead_letter)?;
        let Decided {
            mut resolution,
            is_new,
        } = self
            .resolutions
            .begin_replay(seq, by, (self.clock)())
            .await?;
        if resolution.state == State::Replaying {
            // The server's duplicate window alone does not cover a replay that was begun earlier:
            // a server that was started anew knows only the ids of messages that it still stores.
            let earlier = if is_new {
                None
            } else {
                self.find_earlier_replay(&dead_letter, target, resolution.at)
                    .await?
            };
            let to = match earlier {
                Some(position) => Ok(position),
                None => self.publish(&stored, &dead_letter).await,
            };
            if let Err(DeadLetterError::Refused(_)) = to {
                self.resolutions.reopen(seq, &resolution).await?;
            }
            let to = to?;
            counter!("dead_letters_replayed_total").increment(1);
            info!(
                dead_letter = seq,
                stream = to.stream,
                seq = to.seq,
                by,
                "a dead letter is replayed"
            );
            resolution = self.resolutions.end_replay(seq, resolution, to).await?;
        }
        dead_letter.resolution = Some(resolution);
        Ok(dead_letter.for_scope(scope))
    }

    /// Returns the dead letter as it is if [`DeadLetters::replay`] could replay it.
    ///
    /// # Errors
    /// As [`DeadLetters::replay`].
    pub async fn try_replay(&self, scope: Scope, seq: u64) -> Result<DeadLetter, DeadLetterError> {
        let (_, mut dead_letter) = self.get(scope, seq).await?;
        replay_target(scope, &dead_letter)?;
        dead_letter.resolution = self.resolutions.get(seq).await?;
        match dead_letter.current_state() {
            State::Discarded => Err(DeadLetterError::Resolved(State::Discarded)),
            _ => Ok(dead_letter.for_scope(scope)),
        }
    }

    /// Replays the open dead letters after `cursor` that a filter takes, at most `limit` (itself at
    /// most [`MAX_REPLAYS`]). See [`DeadLetters::replay_these`].
    ///
    /// # Errors
    /// [`DeadLetterError::Unavailable`]: some may be replayed; asking again goes on.
    pub async fn replay_many(
        &self,
        scope: Scope,
        filter: &Filter,
        cursor: u64,
        limit: usize,
        mode: &Mode,
    ) -> Result<Replayed, DeadLetterError> {
        let filter = Filter {
            state: StateFilter::Open,
            ..filter.clone()
        };
        let page = self
            .list(scope, &filter, cursor, limit.clamp(1, MAX_REPLAYS))
            .await?;
        let (replayed, result) = self.replay_these(scope, page.dead_letters, mode).await;
        result.map(|()| Replayed {
            next_cursor: page.next_cursor,
            ..replayed
        })
    }

    /// Replays these dead letters in the order of their events in the log. Their own sequences do
    /// not say that order: a message that has failed again has a later dead letter than the
    /// messages that were behind it. Returns what was done, also where an error ends the replay
    /// early.
    ///
    /// # Errors
    /// [`DeadLetterError::Unavailable`]; asking again goes on.
    pub async fn replay_these(
        &self,
        scope: Scope,
        mut dead_letters: Vec<DeadLetter>,
        mode: &Mode,
    ) -> (Replayed, Result<(), DeadLetterError>) {
        dead_letters.sort_by_key(|found| (found.event_seq.unwrap_or(u64::MAX), found.seq));
        let mut replayed = Replayed::default();
        for dead_letter in dead_letters {
            let seq = dead_letter.seq;
            let result = match mode {
                Mode::Replay { by } => self.replay(scope, seq, by).await.map(drop),
                Mode::DryRun => replay_target(scope, &dead_letter).map(drop),
            };
            match result {
                Ok(()) => replayed.sequences.push(seq),
                Err(e @ DeadLetterError::Unavailable(_)) => return (replayed, Err(e)),
                // The dead letter was discarded meanwhile, it is gone, it is not for this caller,
                // or no stream takes its message.
                Err(e) => replayed.skipped.push(Skipped {
                    seq,
                    why: e.to_string(),
                }),
            }
        }
        (replayed, Ok(()))
    }

    /// Decides that a dead letter is not to be replayed. Deciding so again changes nothing: the
    /// first reason stays.
    ///
    /// # Errors
    /// [`DeadLetterError::NotFound`]; [`DeadLetterError::Resolved`] if it is replayed;
    /// [`DeadLetterError::Unavailable`].
    pub async fn discard(
        &self,
        scope: Scope,
        seq: u64,
        by: &str,
        reason: &str,
    ) -> Result<DeadLetter, DeadLetterError> {
        let (_, mut dead_letter) = self.get(scope, seq).await?;
        let resolution = self
            .resolutions
            .discard(seq, by, reason, (self.clock)())
            .await?;
        dead_letter.resolution = Some(resolution);
        Ok(dead_letter.for_scope(scope))
    }

    async fn publish(
        &self,
        stored: &StoredMessage,
        dead_letter: &DeadLetter,
    ) -> Result<StreamPosition, DeadLetterError> {
        let unavailable = |why: String| DeadLetterError::Unavailable(why);
        let message = PublishMessage::build()
            .headers(headers(stored))
            .payload(stored.payload.clone())
            .message_id(format!("replay-{}", dead_letter.seq));
        let subject = dead_letter.subject.clone();
        match self
            .connection
            .store_now(subject, message, PUBLISH_WITHIN)
            .await
        {
            Ok(ack) => Ok(StreamPosition {
                stream: ack.stream,
                seq: ack.sequence,
            }),
            Err(SendError::Failed(e)) if is_for_good(&e) => {
                Err(DeadLetterError::Refused(e.to_string()))
            }
            Err(SendError::NoAnswer(_)) => Err(unavailable(format!(
                "{} does not answer",
                dead_letter.subject
            ))),
            Err(e) => Err(unavailable(e.to_string())),
        }
    }

    /// Where a replay that was begun at `since` has put the message, if the replay got so far. The
    /// message may be gone from its stream again, because a service has taken it. Then the service
    /// has stored something about it: another dead letter, or a step of delivery.
    async fn find_earlier_replay(
        &self,
        dead_letter: &DeadLetter,
        target: &'static str,
        since: Timestamp,
    ) -> Result<Option<StreamPosition>, DeadLetterError> {
        // Clocks may differ. A search that begins earlier only looks at a little more: the headers
        // name the replay exactly.
        let window = inventory::DUPLICATE_WINDOW.as_millis() as i64;
        let since = Timestamp::from_millis(since.millis() - window);
        let is_replay = |stored: &StoredMessage| {
            let of = stored.header(header::REPLAY_OF);
            of.and_then(|seq| seq.parse().ok()) == Some(dead_letter.seq)
        };
        let in_target = |seq| StreamPosition {
            stream: target.to_owned(),
            seq,
        };
        let subject = &dead_letter.subject;
        let found = self.find(target, subject, since, |stored| {
            is_replay(stored).then(|| in_target(stored.seq))
        });
        if let Some(position) = found.await? {
            return Ok(Some(position));
        }
        let of_any_service = subject::dead("*", subject);
        let died_again = self.find(inventory::DEAD, &of_any_service, since, |stored| {
            let next = DeadLetter::of(stored).filter(|_| is_replay(stored))?;
            Some(StreamPosition {
                stream: next.stream,
                seq: next.stream_seq,
            })
        });
        if let Some(position) = died_again.await? {
            return Ok(Some(position));
        }
        let (inventory::OUTBOUND, Some(company), Some(contact), Some(message)) = (
            target,
            dead_letter.company_id,
            dead_letter.contact_id,
            dead_letter.message_id,
        ) else {
            return Ok(None);
        };
        let steps = EventSubject::MessageDelivery { company, contact }.to_string();
        self.find(inventory::EVENTS, &steps, since, |stored| {
            let seq = MessageDelivery::outbound_seq(message, stored.header(header::MSG_ID)?)?;
            (seq > dead_letter.stream_seq).then(|| in_target(seq))
        })
        .await
    }

    async fn find<T>(
        &self,
        stream: &str,
        subject: &str,
        since: Timestamp,
        look: impl Fn(&StoredMessage) -> Option<T>,
    ) -> Result<Option<T>, DeadLetterError> {
        let connection = &self.connection;
        let mut page =
            direct_get::page_since(connection, stream, subject, since, SEARCH_PAGE).await?;
        for _ in 0..SEARCH_PAGES {
            let Some(last) = page.last() else {
                return Ok(None);
            };
            if let Some(found) = page.iter().find_map(&look) {
                return Ok(Some(found));
            }
            let next = last.seq + 1;
            page = direct_get::page(connection, stream, subject, next, SEARCH_PAGE).await?;
        }
        Err(DeadLetterError::Unavailable(format!(
            "{stream} has too much on {subject} to tell whether it was replayed"
        )))
    }
}

/// The stream that a dead letter's message goes to, if a caller of this scope may have the message
/// replayed.
fn replay_target(scope: Scope, dead_letter: &DeadLetter) -> Result<&'static str, DeadLetterError> {
    if scope != Scope::All && !dead_letter.subject_info().is_replayable {
        return Err(DeadLetterError::ForOperators);
    }
    let subject = &dead_letter.subject;
    target(subject).ok_or_else(|| DeadLetterError::Refused(format!("no stream takes {subject}")))
}

/// Whether the server would refuse the message again.
fn is_for_good(error: &PublishError) -> bool {
    let answer = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<jetstream::Error>());
    let is_too_large = |code| {
        [
            ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM,
            ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM,
        ]
        .contains(&code)
    };
    error.kind() == PublishErrorKind::MaxPayloadExceeded
        || answer.is_some_and(|answer| is_too_large(answer.error_code()))
}

/// The message's own headers, and the dead letter that the message is replayed from.
fn headers(stored: &StoredMessage) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in stored.headers.iter() {
        let text: &str = name.as_ref();
        if text.starts_with("Dead-") || text.starts_with("Nats-") {
            continue;
        }
        for value in values {
            headers.append(name.clone(), value.clone());
        }
    }
    headers.insert(header::REPLAY_OF, stored.seq.to_string());
    headers
}

/// The stream that stores a subject; `None` if no stream does.
fn target(subject: &str) -> Option<&'static str> {
    let is_event = || {
        subject::EVENTS
            .iter()
            .any(|filter| subject.starts_with(filter.trim_end_matches('>')))
    };
    match subject.split('.').next() {
        Some("outbound") => Some(inventory::OUTBOUND),
        Some("jobs") => Some(inventory::JOBS),
        _ => is_event().then_some(inventory::EVENTS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_has_the_headers_of_its_message_and_names_its_dead_letter() {
        let mut given = HeaderMap::new();
        for (name, value) in [
            ("Dead-Reason", "refused"),
            ("Dead-Msg-Id", "x"),
            ("Nats-Sequence", "9"),
            ("Replay-Of", "3"),
            ("Event-Seq", "41"),
            ("traceparent", "00-x"),
        ] {
            given.insert(name, value);
        }
        let (subject, stored_at) = (
            "dead.forwarder.outbound.1.a.b.facebook".into(),
            Timestamp::from_millis(0),
        );
        let headers = headers(&StoredMessage {
            seq: 9,
            subject,
            stored_at,
            headers: given,
            payload: Vec::new().into(),
        });
        let mut names: Vec<String> = headers.iter().map(|(name, _)| name.to_string()).collect();
        names.sort();
        assert_eq!(names, ["Event-Seq", "Replay-Of", "traceparent"]);
        assert_eq!(headers.get("Replay-Of").map(|v| v.as_str()), Some("9"));
    }

    #[test]
    fn every_subject_has_its_stream() {
        for (subject, stream) in [
            ("outbound.1.a", "OUTBOUND"),
            ("jobs.work.x", "JOBS"),
            ("message.created.x", "EVENTS"),
            ("user.created.x", "EVENTS"),
        ] {
            assert_eq!(target(subject), Some(stream));
        }
        for subject in ["", "messages.created.x", "later.kind.x", "dead.x"] {
            assert_eq!(target(subject), None, "{subject}");
        }
    }
}
