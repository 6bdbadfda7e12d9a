//! Replay: a letter's message is published again on its original subject, once, however often and
//! by whomever it is asked. Whether it can be processed now is seen when it is: if not, it becomes
//! another dead letter that points to this one.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, ErrorCode};
use metrics::counter;
use serde::Serialize;
use tracing::info;

use super::resolution::Decided;
use super::{DeadLetter, DeadLetterError, DeadLetters, Filter, Scope, StateFilter};
use crate::log::direct_get::{self, StoredMessage};
use contract::Timestamp;
use contract::dead_letter::{State, StreamPosition};
use contract::event::MessageDelivery;
use contract::subject::EventSubject;
use contract::{header, inventory, subject};

/// Most letters that one request replays.
pub const MAX_REPLAYS: usize = 100;
/// Publishing one message.
const PUBLISH_WITHIN: Duration = Duration::from_secs(3);
/// Messages looked at, a stream, for the trace of a replay that was begun earlier.
const TRACE_PAGE: usize = 500;
/// Pages of them. A conversation does not have more in the time that it takes to ask again; else
/// asking fails.
const TRACE_PAGES: usize = 20;

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
    /// Replays a letter, or finds that it is replayed.
    ///
    /// # Errors
    /// See [`DeadLetterError`]; after [`DeadLetterError::Unavailable`] asking again completes what
    /// was begun, after [`DeadLetterError::Refused`] the letter is open again.
    pub async fn replay(
        &self,
        scope: Scope,
        seq: u64,
        by: &str,
        clock: fn() -> Timestamp,
    ) -> Result<DeadLetter, DeadLetterError> {
        let (stored, mut letter) = self.get(scope, seq).await?;
        let target = replay_target(scope, &letter)?;
        let Decided {
            mut resolution,
            is_new,
        } = self.begin_replay(seq, by, clock()).await?;
        if resolution.state == State::Replaying {
            // The server's duplicate window alone would not do for one that was begun earlier: a
            // server that was started anew knows only the ids of what it still stores.
            let earlier = if is_new {
                None
            } else {
                self.find_earlier_replay(&letter, target, resolution.at)
                    .await?
            };
            let to = match earlier {
                Some(place) => Ok(place),
                None => self.publish(&stored, &letter).await,
            };
            if let Err(DeadLetterError::Refused(_)) = to {
                self.reopen(seq, &resolution).await?;
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
            resolution = self.end_replay(seq, resolution, to).await?;
        }
        letter.resolution = Some(resolution);
        Ok(letter.for_scope(scope))
    }

    /// What [`DeadLetters::replay`] would find, without doing anything: the letter as it is.
    ///
    /// # Errors
    /// As it would.
    pub async fn try_replay(&self, scope: Scope, seq: u64) -> Result<DeadLetter, DeadLetterError> {
        let (_, mut letter) = self.get(scope, seq).await?;
        replay_target(scope, &letter)?;
        letter.resolution = self.resolution(seq).await?.value;
        match letter.state() {
            State::Discarded => Err(DeadLetterError::Resolved(State::Discarded)),
            _ => Ok(letter.for_scope(scope)),
        }
    }

    /// Replays the open letters after `cursor` that a filter takes, at most `limit` (itself at most
    /// [`MAX_REPLAYS`]). A dry run only says which. See [`DeadLetters::replay_these`].
    ///
    /// # Errors
    /// [`DeadLetterError::Unavailable`]: some may be replayed; asking again goes on.
    pub async fn replay_many(
        &self,
        scope: Scope,
        filter: &Filter,
        cursor: u64,
        limit: usize,
        by: Option<&str>,
        clock: fn() -> Timestamp,
    ) -> Result<Replayed, DeadLetterError> {
        let filter = Filter {
            state: StateFilter::Open,
            ..filter.clone()
        };
        let page = self
            .list(scope, &filter, cursor, limit.clamp(1, MAX_REPLAYS))
            .await?;
        let mut replayed = Replayed {
            next_cursor: page.next_cursor,
            ..Replayed::default()
        };
        self.replay_these(scope, page.dead_letters, by, clock, &mut replayed)
            .await?;
        Ok(replayed)
    }

    /// Replays these letters in the order of the log, whatever their own is: a message that has
    /// failed again has a later letter than those which were behind it. Without `by` it only says
    /// which. What it has come to stands in `replayed`, also where it ends early.
    ///
    /// # Errors
    /// [`DeadLetterError::Unavailable`]; asking again goes on.
    pub async fn replay_these(
        &self,
        scope: Scope,
        mut letters: Vec<DeadLetter>,
        by: Option<&str>,
        clock: fn() -> Timestamp,
        replayed: &mut Replayed,
    ) -> Result<(), DeadLetterError> {
        letters.sort_by_key(|letter| (letter.event_seq.unwrap_or(u64::MAX), letter.seq));
        for letter in letters {
            let result = match by {
                Some(by) => self.replay(scope, letter.seq, by, clock).await.map(drop),
                None => replay_target(scope, &letter).map(drop),
            };
            match result {
                Ok(()) => replayed.sequences.push(letter.seq),
                Err(e @ DeadLetterError::Unavailable(_)) => return Err(e),
                // Somebody has discarded it meanwhile, it is gone, it is not for this caller, or no
                // stream takes it.
                Err(e) => replayed.skipped.push(Skipped {
                    seq: letter.seq,
                    why: e.to_string(),
                }),
            }
        }
        Ok(())
    }

    async fn publish(
        &self,
        stored: &StoredMessage,
        letter: &DeadLetter,
    ) -> Result<StreamPosition, DeadLetterError> {
        let unavailable = |why: String| DeadLetterError::Unavailable(why);
        if !self.connection.is_connected() {
            // It would lie in the client's buffer and be published after the caller was told
            // otherwise.
            return Err(unavailable("not connected to NATS".into()));
        }
        let message = PublishMessage::build()
            .headers(headers(stored))
            .payload(stored.payload.clone())
            .message_id(format!("replay-{}", letter.seq));
        let publish = async {
            self.connection
                .jetstream
                .send_publish(letter.subject.clone(), message)
                .await?
                .await
        };
        match tokio::time::timeout(PUBLISH_WITHIN, publish).await {
            Ok(Ok(ack)) => Ok(StreamPosition {
                stream: ack.stream,
                seq: ack.sequence,
            }),
            Ok(Err(e)) if is_for_good(&e) => Err(DeadLetterError::Refused(e.to_string())),
            Ok(Err(e)) => Err(unavailable(e.to_string())),
            Err(_) => Err(unavailable(format!("{} does not answer", letter.subject))),
        }
    }

    /// Where a replay that was begun at `since` has put the message, if it got so far. In its
    /// stream; and if it is gone from there, because somebody has taken it, in what they have
    /// stored about it: another dead letter, or a step of delivery.
    async fn find_earlier_replay(
        &self,
        letter: &DeadLetter,
        target: &'static str,
        since: Timestamp,
    ) -> Result<Option<StreamPosition>, DeadLetterError> {
        // A clock that differs makes it look at a little more, all of which names the replay
        // exactly.
        let since =
            Timestamp::from_millis(since.millis() - inventory::DUPLICATE_WINDOW.as_millis() as i64);
        let is_replay = |stored: &StoredMessage| {
            stored
                .header(header::REPLAY_OF)
                .and_then(|seq| seq.parse().ok())
                == Some(letter.seq)
        };
        let found = self.find(target, &letter.subject, since, |stored| {
            is_replay(stored).then(|| StreamPosition {
                stream: target.to_owned(),
                seq: stored.seq,
            })
        });
        if let Some(place) = found.await? {
            return Ok(Some(place));
        }
        let again = |stored: &StoredMessage| {
            let next = DeadLetter::of(stored).filter(|_| is_replay(stored))?;
            Some(StreamPosition {
                stream: next.stream,
                seq: next.stream_seq,
            })
        };
        if let Some(place) = self
            .find(
                inventory::DEAD,
                &subject::dead("*", &letter.subject),
                since,
                again,
            )
            .await?
        {
            return Ok(Some(place));
        }
        let (inventory::OUTBOUND, Some(company), Some(contact), Some(message)) = (
            target,
            letter.company_id,
            letter.contact_id,
            letter.message_id,
        ) else {
            return Ok(None);
        };
        let steps = EventSubject::MessageDelivery { company, contact }.to_string();
        self.find(inventory::EVENTS, &steps, since, |stored| {
            let seq = MessageDelivery::outbound_seq(message, stored.header(header::MSG_ID)?)?;
            (seq > letter.stream_seq).then(|| StreamPosition {
                stream: target.to_owned(),
                seq,
            })
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
        let mut page =
            direct_get::page_since(&self.connection, stream, subject, since, TRACE_PAGE).await;
        for _ in 0..TRACE_PAGES {
            let messages = page.map_err(DeadLetterError::Unavailable)?;
            let Some(last) = messages.last() else {
                return Ok(None);
            };
            if let Some(found) = messages.iter().find_map(&look) {
                return Ok(Some(found));
            }
            page =
                direct_get::page(&self.connection, stream, subject, last.seq + 1, TRACE_PAGE).await;
        }
        Err(DeadLetterError::Unavailable(format!(
            "{stream} has too much on {subject} to tell whether it was replayed"
        )))
    }
}

/// The stream that a letter's message goes to, if whoever sees the letter may have it replayed.
fn replay_target(scope: Scope, letter: &DeadLetter) -> Result<&'static str, DeadLetterError> {
    if scope != Scope::All && !letter.about().is_replayable {
        return Err(DeadLetterError::ForOperators);
    }
    target(&letter.subject)
        .ok_or_else(|| DeadLetterError::Refused(format!("no stream takes {}", letter.subject)))
}

/// Whether the server will say the same whenever it is asked.
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

/// The message's own headers, and which letter it comes from.
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

/// The stream that holds a subject.
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
    fn a_replay_has_the_messages_own_headers_and_names_its_letter() {
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
