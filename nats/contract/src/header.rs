//! Names of the headers that messages of the log carry. The server's own begin with `Nats-`.

use crate::inventory;

/// Idempotency: the server stores one message of an id within the stream's duplicate window.
pub const MSG_ID: &str = "Nats-Msg-Id";
/// The stream sequence, on a republished (live) message.
pub const SEQUENCE: &str = "Nats-Sequence";
/// On a republished message: the sequence of the one before it on the same subject, 0 if it is the
/// first.
pub const LAST_SEQUENCE: &str = "Nats-Last-Sequence";
/// When the server stored it, on a republished message and on one that is read from the stream.
pub const TIME_STAMP: &str = "Nats-Time-Stamp";
/// How many more there are for the same request, on a message of a batched read.
pub const NUM_PENDING: &str = "Nats-Num-Pending";
/// Groups the messages of an atomic batch (ADR-50).
pub const BATCH_ID: &str = "Nats-Batch-Id";
/// Position in the batch, from 1.
pub const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
/// `1` on the last message of a batch.
pub const BATCH_COMMIT: &str = "Nats-Batch-Commit";

/// With `Nats-Expected-Last-Subject-Sequence`: the filter whose last message is meant, in place of
/// the message's own subject.
pub const EXPECTED_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// Trace context, W3C form.
pub const TRACEPARENT: &str = "traceparent";
/// The envelope's `type`, so that the CLI and filters need not parse the payload.
pub const EVENT_TYPE: &str = "Event-Type";
/// The envelope's `version`.
pub const EVENT_VERSION: &str = "Event-Version";
/// Where the persister answers once the event is applied.
pub const OUTCOME_INBOX: &str = "Outcome-Inbox";

/// Why a message is a dead letter: a [`crate::dead_letter::Reason`].
pub const DEAD_REASON: &str = "Dead-Reason";
/// The error's text.
pub const DEAD_ERROR: &str = "Dead-Error";
/// How often delivery was tried.
pub const DEAD_ATTEMPTS: &str = "Dead-Attempts";
/// The message's sequence in its stream.
pub const DEAD_STREAM_SEQ: &str = "Dead-Stream-Seq";
/// The stream it was consumed from.
pub const DEAD_STREAM: &str = "Dead-Stream";
/// When it became a dead letter, RFC 3339.
pub const DEAD_FIRST_AT: &str = "Dead-First-At";
/// The `Nats-Msg-Id` that it carried.
pub const DEAD_MSG_ID: &str = "Dead-Msg-Id";
/// On a replayed message, and on the dead letter that it becomes if it fails again: the sequence in
/// `DEAD` that it was replayed from.
pub const REPLAY_OF: &str = "Replay-Of";
/// On a dead letter, and on the message that is replayed from it: the sequence in `EVENTS` that its
/// event had first. That is its place in the conversation, and in what the view makes of the log.
pub const EVENT_SEQ: &str = "Event-Seq";
/// Where the server sourced a message from: `<stream> <sequence> …`.
pub const STREAM_SOURCE: &str = "Nats-Stream-Source";

/// The position in the log of the event that a message is about, counting from 1: the sequence in
/// `EVENTS` under which the event was stored first. A replay keeps the position of its original.
/// Returns `None` for a message that is neither an event nor made from one, such as the work of a
/// job.
///
/// `stream` and `seq` say where the message itself is stored, `header` reads its headers.
pub fn log_position<'h>(
    stream: &str,
    seq: u64,
    header: impl Fn(&str) -> Option<&'h str>,
) -> Option<u64> {
    let first = header(EVENT_SEQ).and_then(|first| first.parse().ok());
    if stream == inventory::EVENTS {
        // An event cannot have been stored before its own copy: a header that says so is wrong.
        return Some(first.filter(|first| *first < seq).unwrap_or(seq));
    }
    first.or_else(|| sourced_from_events(header(STREAM_SOURCE)?))
}

/// Reads `EVENTS <sequence> <filter> …`, as the server writes [`STREAM_SOURCE`].
fn sourced_from_events(source: &str) -> Option<u64> {
    let mut words = source.split(' ');
    (words.next()? == inventory::EVENTS).then(|| words.next()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{EVENTS, JOBS, OUTBOUND};

    fn position(stream: &str, seq: u64, headers: &[(&str, &'static str)]) -> Option<u64> {
        log_position(stream, seq, |name| {
            let (_, value) = headers.iter().find(|(own, _)| *own == name)?;
            Some(value)
        })
    }

    #[test]
    fn an_event_has_its_own_sequence_and_a_replay_that_of_its_original() {
        assert_eq!(position(EVENTS, 7, &[]), Some(7));
        assert_eq!(position(EVENTS, 7, &[(EVENT_SEQ, "3")]), Some(3));
        for wrong in ["7", "8", "-1", "x", ""] {
            assert_eq!(
                position(EVENTS, 7, &[(EVENT_SEQ, wrong)]),
                Some(7),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_sourced_message_has_the_position_of_its_event() {
        let source = "EVENTS 41 message.created.*.*.facebook.outbound.operator outbound.> x";
        assert_eq!(position(OUTBOUND, 7, &[(STREAM_SOURCE, source)]), Some(41));
        let replayed = [(STREAM_SOURCE, source), (EVENT_SEQ, "40")];
        assert_eq!(position(OUTBOUND, 7, &replayed), Some(40));
        for other in ["OTHER 41 > >", "EVENTS", "EVENTS x", ""] {
            assert_eq!(
                position(OUTBOUND, 7, &[(STREAM_SOURCE, other)]),
                None,
                "{other}"
            );
        }
        assert_eq!(position(JOBS, 7, &[]), None);
    }
}
