//! Names of the headers that messages of the log carry. The server's own begin with `Nats-`.

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
