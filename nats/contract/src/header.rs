//! Names of the headers that messages of the log carry, and what several headers say together. The
//! server's own begin with `Nats-`.

use crate::inventory;

/// The id of a message: the server stores one message of an id within the stream's duplicate
/// window.
pub const MSG_ID: &str = "Nats-Msg-Id";
/// On a republished (live) message: the sequence in the stream.
pub const SEQUENCE: &str = "Nats-Sequence";
/// On a republished message: the sequence of the message before it on the same subject, 0 if there
/// is none.
pub const LAST_SEQUENCE: &str = "Nats-Last-Sequence";
/// On a republished message, and on one that is read from the stream: when the server stored the
/// message.
pub const TIME_STAMP: &str = "Nats-Time-Stamp";
/// On a message of a batched read: how many more messages answer the same request.
pub const NUM_PENDING: &str = "Nats-Num-Pending";
/// The id of an atomic batch, the same on all its messages.
pub const BATCH_ID: &str = "Nats-Batch-Id";
/// The position of a message in its batch, counting from 1.
pub const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
/// `1` on the last message of a batch.
pub const BATCH_COMMIT: &str = "Nats-Batch-Commit";

/// With `Nats-Expected-Last-Subject-Sequence`: the filter whose last message must have that
/// sequence, in place of the message's own subject.
pub const EXPECTED_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// The trace context in W3C form, as `TraceContext` prints it.
pub const TRACEPARENT: &str = "traceparent";
/// The envelope's `type`, so that the CLI and filters need not parse the payload.
pub const EVENT_TYPE: &str = "Event-Type";
/// The envelope's `version`, a whole number.
pub const EVENT_VERSION: &str = "Event-Version";
/// The subject at which the persister answers once the event is applied.
pub const OUTCOME_INBOX: &str = "Outcome-Inbox";

/// Why a message is a dead letter, as `dead_letter::Reason` prints it.
pub const DEAD_REASON: &str = "Dead-Reason";
/// The error's text on one line, at most 1,000 characters.
pub const DEAD_ERROR: &str = "Dead-Error";
/// How often the message was tried.
pub const DEAD_ATTEMPTS: &str = "Dead-Attempts";
/// The sequence of the message in the stream of [`DEAD_STREAM`].
pub const DEAD_STREAM_SEQ: &str = "Dead-Stream-Seq";
/// The stream that the message was consumed from.
pub const DEAD_STREAM: &str = "Dead-Stream";
/// When the message became a dead letter, RFC 3339.
pub const DEAD_FIRST_AT: &str = "Dead-First-At";
/// The `Nats-Msg-Id` that the message carried.
pub const DEAD_MSG_ID: &str = "Dead-Msg-Id";
/// On a replayed message, and on the dead letter that the message becomes if it fails again: the
/// sequence in `DEAD` of the dead letter that was replayed.
pub const REPLAY_OF: &str = "Replay-Of";
/// On a message of `OUTBOUND`, on a dead letter, and on a message that is replayed from one: the
/// [`log_position`] of its event.
pub const EVENT_SEQ: &str = "Event-Seq";
/// On a message that a server stored before the relay: the stream and the sequence that the server
/// sourced the message from, `<stream> <sequence> …`.
pub const STREAM_SOURCE: &str = "Nats-Stream-Source";

/// The position in the log of the event that a message is about, counting from 1: the sequence in
/// `EVENTS` under which the event was stored first. The position says where the event belongs in
/// its conversation, and in what the view makes of the log. A replay keeps the position of its
/// original.
///
/// `stream` and `seq` say where the message itself is stored, `header` reads its headers. Returns
/// `None` for a message that is neither an event nor made from one, such as the work of a job.
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
