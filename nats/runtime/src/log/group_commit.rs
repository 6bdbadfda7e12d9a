//! Writes queued events into the log. Events that wait at the same time share one atomic batch, and
//! so one fsync. A lost answer is asked for again within each caller's deadline, with the same
//! `Nats-Msg-Id`. Which events may be written is not decided here; see `pre_commit`.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::RequestErrorKind;
use async_nats::client::Request;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, ErrorCode};
use futures_util::future::join_all;
use metrics::{counter, histogram};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::log::group::{chains, fill, halves, has_repeated_id};
use crate::log::pre_commit::PreCommit;
use crate::log::queue::{Outgoing, PublishError, Receipt, Waiting};
use crate::net::connection::Connection;
use contract::{Id, header};

/// Events up to which single publishes in flight together are used instead of a batch. The staging
/// of a batch costs about 3 ms, which so few events do not win back.
const MAX_SINGLES: usize = 16;
/// The time that one try of a publish may take. A lost answer is asked for again, until the
/// caller's deadline.
const TRY_TIMEOUT: Duration = Duration::from_millis(800);
/// First and longest pause before an event is published again whose outcome is open. The pause
/// doubles, because a whole batch of events may ask again at the same time.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(320));
/// What [`ErrorCode::STREAM_STORE_FAILED`] says of a stream at one of its limits. The code alone
/// does not tell a full stream from one that is being closed, which a retry outlasts.
const LIMIT_REACHED: &str = "exceeded";

/// Writes until the last handle of the publisher is gone and the queue is empty.
pub(super) async fn write_groups(
    connection: Connection,
    mut hook: Option<Box<dyn PreCommit>>,
    mut waiting: mpsc::Receiver<Waiting>,
) {
    while let Some(first) = waiting.recv().await {
        // Two turns of the executor let the requests that are ready join the group. Measured: they
        // cost no time.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        let mut group = vec![first];
        fill(&mut group, &mut waiting);
        let started = Instant::now();
        let mut group = check(&mut hook, group).await;
        // The callers whom the last group has answered have queued their next events by now, and a
        // batch costs little more with those. Measured at 64 connections: groups of 62 instead
        // of 42.
        let checked = group.len();
        fill(&mut group, &mut waiting);
        let late = group.split_off(checked);
        group.append(&mut check(&mut hook, late).await);
        let group: Vec<Waiting> = group.into_iter().filter_map(Waiting::if_wanted).collect();
        if group.is_empty() {
            continue;
        }
        histogram!("publish_group_events").record(group.len() as f64);
        write_group(&connection, group).await;
        histogram!("publish_group_seconds").record(started.elapsed().as_secs_f64());
    }
}

/// Answers the events that the hook refuses, and returns the others. The hook is asked here rather
/// than ahead of the queue. Otherwise groups would be half as large, at the same price a batch.
async fn check(hook: &mut Option<Box<dyn PreCommit>>, group: Vec<Waiting>) -> Vec<Waiting> {
    let Some(hook) = hook.as_mut().filter(|_| !group.is_empty()) else {
        return group;
    };
    let events: Vec<&Outgoing> = group.iter().map(|w| &w.event).collect();
    let refused = hook.check(&events).await;
    if refused.is_empty() {
        return group;
    }
    let mut refused: HashMap<usize, PublishError> = refused.into_iter().collect();
    let mut wanted = Vec::with_capacity(group.len());
    for (index, w) in group.into_iter().enumerate() {
        match refused.remove(&index) {
            Some(error) => w.answer(Err(error)),
            None => wanted.push(w),
        }
    }
    wanted
}

async fn write_group(connection: &Connection, group: Vec<Waiting>) {
    if let Err(e) = connection.require() {
        for w in group {
            w.answer(Err(PublishError::Unavailable(e.to_string())));
        }
        return;
    }
    // A stack: the part on top holds the events that were queued first, and they are stored first.
    let mut parts = vec![group];
    while let Some(part) = parts.pop() {
        let part: Vec<Waiting> = part.into_iter().filter_map(Waiting::if_wanted).collect();
        if part.len() <= MAX_SINGLES {
            write_singles(connection, part).await;
            continue;
        }
        // The latest deadline of the part: each caller is answered at the caller's own deadline
        // anyway, and the batch must not time out because one caller has waited for long.
        let deadline = part
            .iter()
            .map(|w| w.deadline)
            .max()
            .unwrap_or_else(Instant::now);
        let written = if has_repeated_id(&part) {
            Err(BatchError::KnownId)
        } else {
            write_batch(connection, &part, deadline).await
        };
        match written {
            Ok(last) => {
                let first = last + 1 - part.len() as u64;
                for (seq, w) in (first..).zip(part) {
                    w.answer(Ok(Receipt {
                        seq,
                        duplicate: false,
                    }));
                }
            }
            // The server does not say which event it knows. Halves find it in a few batches.
            // Otherwise every event behind would wait for single publishes.
            Err(BatchError::KnownId) => {
                counter!("publish_batch_halved_total").increment(1);
                parts.extend(halves(part));
            }
            Err(BatchError::OneByOne(why)) => {
                debug!(
                    why,
                    events = part.len(),
                    "batch falls back to single publishes"
                );
                counter!("publish_batch_fallback_total").increment(1);
                write_singles(connection, part).await;
            }
        }
    }
}

enum BatchError {
    /// The log, or the batch itself, has one of the ids already, or the log is about to store one.
    /// Nothing of the batch was stored.
    KnownId,
    /// The batch was refused, or nobody knows what became of it. Each event is published by itself:
    /// its `Nats-Msg-Id` tells whether the log has it.
    OneByOne(String),
}

/// Returns the sequence of the last event. The server stores all events or none, contiguously.
async fn write_batch(
    connection: &Connection,
    group: &[Waiting],
    deadline: Instant,
) -> Result<u64, BatchError> {
    let batch = Id::generate(contract::Timestamp::now()).to_string();
    let last = group.len();
    let fail = |e: &dyn std::fmt::Display| BatchError::OneByOne(e.to_string());
    for (position, w) in (1..).zip(group) {
        let mut headers = w.event.headers.clone();
        headers.insert(header::MSG_ID, w.event.msg_id.as_str());
        headers.insert(header::BATCH_ID, batch.as_str());
        headers.insert(header::BATCH_SEQUENCE, position.to_string());
        let (subject, payload) = (w.event.subject.clone(), w.event.payload.clone());
        if position < last {
            connection
                .client
                .publish_with_headers(subject, headers, payload)
                .await
                .map_err(|e| fail(&e))?;
            continue;
        }
        headers.insert(header::BATCH_COMMIT, "1");
        let timeout = TRY_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()));
        let request = Request::new()
            .headers(headers)
            .payload(payload)
            .timeout(Some(timeout));
        let reply = connection
            .client
            .send_request(subject, request)
            .await
            .map_err(|e| fail(&e))?;
        return match serde_json::from_slice::<Response<PublishAck>>(&reply.payload) {
            Ok(Response::Ok(ack)) => Ok(ack.sequence),
            Ok(Response::Err { error }) if is_known_id(&error) => Err(BatchError::KnownId),
            Ok(Response::Err { error }) => {
                warn!(%error, "the log refused a batch");
                Err(fail(&error))
            }
            Err(e) => Err(fail(&e)),
        };
    }
    Err(BatchError::OneByOne("empty".into()))
}

/// Publishes all chains at once, the events of a chain one after another. Otherwise the server
/// could store events with one ordering key in any order.
async fn write_singles(connection: &Connection, group: Vec<Waiting>) {
    join_all(chains(group).into_iter().map(|chain| async move {
        for w in chain {
            let Some(w) = w.if_wanted() else { continue };
            let result = write_single(connection, &w.event, w.deadline).await;
            if let Err(e) = &result {
                counter!("publish_failed_total").increment(1);
                debug!(error = %e, "publish failed");
            }
            w.answer(result);
        }
    }))
    .await;
}

async fn write_single(
    connection: &Connection,
    event: &Outgoing,
    deadline: Instant,
) -> Result<Receipt, PublishError> {
    let mut headers = event.headers.clone();
    headers.insert(header::MSG_ID, event.msg_id.as_str());
    let mut pause = RETRY_PAUSE.0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !connection.is_connected() {
            return Err(PublishError::Unavailable(
                "no acknowledgement in time".into(),
            ));
        }
        let request = Request::new()
            .headers(headers.clone())
            .payload(event.payload.clone())
            .timeout(Some(TRY_TIMEOUT.min(left)));
        let error = match connection
            .client
            .send_request(event.subject.clone(), request)
            .await
        {
            Ok(reply) => match read_ack(&reply.payload) {
                Err(PublishError::Unavailable(e)) => e,
                known => return known,
            },
            Err(e) => match e.kind() {
                RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
                    return Err(PublishError::Refused(e.to_string()));
                }
                _ => e.to_string(),
            },
        };
        if Instant::now() + pause >= deadline {
            return Err(PublishError::Unavailable(error));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_PAUSE.1);
    }
}

/// Whether the server refuses a batch because of an id that it has, or that the stream's replicas
/// are just storing.
fn is_known_id(error: &jetstream::Error) -> bool {
    [
        ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE,
        ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT,
    ]
    .contains(&error.error_code())
}

/// Reads a publish acknowledgement. Only the codes that are named here are final. Any other code,
/// such as that of an id in process, leaves open whether the event is stored: the caller asks
/// again with the same id.
fn read_ack(payload: &[u8]) -> Result<Receipt, PublishError> {
    match serde_json::from_slice::<Response<PublishAck>>(payload) {
        Ok(Response::Ok(ack)) => Ok(Receipt {
            seq: ack.sequence,
            duplicate: ack.duplicate,
        }),
        Ok(Response::Err { error }) => match error.error_code() {
            ErrorCode::INSUFFICIENT_RESOURCES => Err(PublishError::Full),
            ErrorCode::STREAM_STORE_FAILED if error.to_string().contains(LIMIT_REACHED) => {
                Err(PublishError::Full)
            }
            ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM
            | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => {
                Err(PublishError::Refused(error.to_string()))
            }
            _ => Err(PublishError::Unavailable(error.to_string())),
        },
        Err(e) => Err(PublishError::Unavailable(format!(
            "unreadable acknowledgement: {e}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_are_told_apart() {
        assert_eq!(
            read_ack(br#"{"stream":"EVENTS","seq":7}"#),
            Ok(Receipt {
                seq: 7,
                duplicate: false
            })
        );
        assert_eq!(
            read_ack(br#"{"stream":"EVENTS","seq":7,"duplicate":true}"#),
            Ok(Receipt {
                seq: 7,
                duplicate: true
            })
        );
        let error = |code: u16, err_code: u64, text: &str| {
            read_ack(
                format!(
                    r#"{{"error":{{"code":{code},"err_code":{err_code},"description":"{text}"}}}}"#
                )
                .as_bytes(),
            )
        };
        assert_eq!(
            error(503, 10_077, "maximum bytes exceeded"),
            Err(PublishError::Full)
        );
        assert!(matches!(
            error(503, 10_008, "JetStream system temporarily unavailable"),
            Err(PublishError::Unavailable(_))
        ));
        assert!(matches!(
            error(400, 10_054, "message size exceeds maximum allowed"),
            Err(PublishError::Refused(_))
        ));
        for open in [
            error(409, 10_158, "duplicate message id is in process"),
            error(400, 19_999, "a code of a later version"),
            read_ack(b"?"),
        ] {
            assert!(
                matches!(open, Err(PublishError::Unavailable(_))),
                "{open:?}"
            );
        }
    }
}
