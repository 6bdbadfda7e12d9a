//! Writes queued events into the log: what is waiting together shares one atomic batch, and so one
//! fsync. It retries within each caller's deadline, with the same `Nats-Msg-Id`.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::RequestErrorKind;
use async_nats::client::Request;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use futures_util::future::join_all;
use metrics::{counter, histogram};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::log::ordering_key::OrderingKey;
use crate::log::publisher::{Outgoing, PublishError, Receipt, Waiting};
use crate::log::unique::UniqueCheck;
use crate::net::connection::Connection;
use contract::query::UniqueKey;
use contract::{Id, header};

/// The server takes at most 1,000 messages a batch.
const MAX_GROUP: usize = 1_000;
/// And so many bytes, to keep one group's write short.
const MAX_GROUP_BYTES: usize = 4 * 1024 * 1024;
/// Up to here single publishes in flight together beat a batch, whose staging costs about 3 ms
/// (`performance-notes`).
const MAX_SINGLES: usize = 16;
/// One try of a publish; a lost answer is asked for again within the deadline.
const TRY_TIMEOUT: Duration = Duration::from_millis(800);
/// Pause before the next try, while there is no leader.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// JetStream's error codes that matter here.
mod code {
    pub const BATCH_DUPLICATE: u64 = 10_201;
    pub const STORE_FAILED: u64 = 10_077; // with "maximum bytes exceeded" in its text
    pub const INSUFFICIENT_RESOURCES: u64 = 10_023;
}

/// Writes until the last sender is gone and what was waiting is written.
pub(super) async fn write_groups(connection: Connection, mut waiting: mpsc::Receiver<Waiting>) {
    let mut check = UniqueCheck::new();
    while let Some(first) = waiting.recv().await {
        // Two turns of the executor let the requests that are ready join the group; measured, not a
        // delay.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        let mut group = vec![first];
        fill(&mut group, &mut waiting);
        let started = Instant::now();
        let mut group = refuse_taken(&connection, &mut check, group).await;
        // Those whom the last group has answered are back by now, and a batch costs little more
        // with them. Measured at 64 connections: groups of 62 instead of 42.
        let checked = group.len();
        fill(&mut group, &mut waiting);
        let late = group.split_off(checked);
        group.append(&mut refuse_taken(&connection, &mut check, late).await);
        let group: Vec<Waiting> = group.into_iter().filter_map(Waiting::if_wanted).collect();
        if group.is_empty() {
            continue;
        }
        histogram!("publish_group_events").record(group.len() as f64);
        write_group(&connection, group).await;
        histogram!("publish_group_seconds").record(started.elapsed().as_secs_f64());
    }
}

/// Takes what is waiting, as far as the group's bounds allow.
fn fill(group: &mut Vec<Waiting>, waiting: &mut mpsc::Receiver<Waiting>) {
    let mut bytes: usize = group.iter().map(|w| w.event.bytes()).sum();
    while group.len() < MAX_GROUP && bytes < MAX_GROUP_BYTES {
        let Ok(next) = waiting.try_recv() else { return };
        bytes += next.event.bytes();
        group.push(next);
    }
}

/// Answers those whose key is taken, and returns the others. One query a group, made here rather
/// than ahead of the queue: a group half as large would cost the same batch.
async fn refuse_taken(
    connection: &Connection,
    check: &mut UniqueCheck,
    group: Vec<Waiting>,
) -> Vec<Waiting> {
    let keys: Vec<UniqueKey> = group
        .iter()
        .filter_map(|w| w.event.unique.clone())
        .collect();
    let taken = check.holders(connection, keys).await;
    if taken.is_empty() {
        return group;
    }
    let mut free = Vec::with_capacity(group.len());
    for w in group {
        match w.event.unique.as_ref().and_then(|key| taken.get(key)) {
            Some(holder) => {
                let taken = PublishError::Taken(Box::new(holder.clone()));
                w.answer(Err(taken));
            }
            None => free.push(w),
        }
    }
    free
}

async fn write_group(connection: &Connection, group: Vec<Waiting>) {
    if !connection.is_connected() {
        // A publish now would lie in the client's buffer and be stored after the caller was told
        // otherwise.
        for w in group {
            w.answer(Err(PublishError::Unavailable("not connected".into())));
        }
        return;
    }
    // The last one is the next: what was queued first is stored first.
    let mut parts = vec![group];
    while let Some(part) = parts.pop() {
        let part: Vec<Waiting> = part.into_iter().filter_map(Waiting::if_wanted).collect();
        if part.len() <= MAX_SINGLES {
            write_singles(connection, part).await;
            continue;
        }
        // Each caller is answered within their own; the batch must not time out for the one who has
        // waited longest.
        let deadline = part
            .iter()
            .map(|w| w.deadline)
            .max()
            .unwrap_or_else(Instant::now);
        let written = if has_repeated_id(&part) {
            Err(BatchError::Duplicate)
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
            // The server does not say which one. Halves find it in a few batches; one by one,
            // everybody behind would wait.
            Err(BatchError::Duplicate) => {
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

/// The second half, then the first.
fn halves(mut part: Vec<Waiting>) -> [Vec<Waiting>; 2] {
    let second = part.split_off(part.len() / 2);
    [second, part]
}

/// A batch with the same id twice is refused whole.
fn has_repeated_id(group: &[Waiting]) -> bool {
    let mut seen = HashSet::with_capacity(group.len());
    !group.iter().all(|w| seen.insert(w.event.msg_id.as_str()))
}

enum BatchError {
    /// The log, or the batch itself, has one of the ids already. Nothing was stored.
    Duplicate,
    /// The batch is out, or its fate is unknown; each event with its `Nats-Msg-Id` settles it.
    OneByOne(String),
}

/// The sequence of the last event. The server stores all or none, contiguously.
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
            Ok(Response::Err { error }) if error.error_code().0 == code::BATCH_DUPLICATE => {
                Err(BatchError::Duplicate)
            }
            Ok(Response::Err { error }) => {
                warn!(%error, "the log refused a batch");
                Err(fail(&error))
            }
            Err(e) => Err(fail(&e)),
        };
    }
    Err(BatchError::OneByOne("empty".into()))
}

/// All at once, except that those of one order follow each other: what is in flight together may be
/// stored in any order.
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

/// The group's events by their order; one without is by itself.
fn chains(group: Vec<Waiting>) -> Vec<Vec<Waiting>> {
    let mut chains: Vec<Vec<Waiting>> = Vec::with_capacity(group.len());
    let mut ordered: Vec<(OrderingKey, usize)> = Vec::new();
    for w in group {
        let order = w.event.ordering_key.clone();
        let chain = order
            .as_ref()
            .and_then(|order| ordered.iter().find(|(known, _)| known.is_same(order)));
        match (chain, order) {
            (Some((_, chain)), _) => chains[*chain].push(w),
            (None, order) => {
                ordered.extend(order.map(|order| (order, chains.len())));
                chains.push(vec![w]);
            }
        }
    }
    chains
}

async fn write_single(
    connection: &Connection,
    event: &Outgoing,
    deadline: Instant,
) -> Result<Receipt, PublishError> {
    let mut headers = event.headers.clone();
    headers.insert(header::MSG_ID, event.msg_id.as_str());
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
            Ok(reply) => match settle(&reply.payload) {
                Err(PublishError::Unavailable(e)) => e,
                settled => return settled,
            },
            Err(e) => match e.kind() {
                RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
                    return Err(PublishError::Refused(e.to_string()));
                }
                _ => e.to_string(),
            },
        };
        if Instant::now() + RETRY_PAUSE >= deadline {
            return Err(PublishError::Unavailable(error));
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// What a publish acknowledgement says.
fn settle(payload: &[u8]) -> Result<Receipt, PublishError> {
    match serde_json::from_slice::<Response<PublishAck>>(payload) {
        Ok(Response::Ok(ack)) => Ok(Receipt {
            seq: ack.sequence,
            duplicate: ack.duplicate,
        }),
        Ok(Response::Err { error }) => match error.error_code().0 {
            code::STORE_FAILED | code::INSUFFICIENT_RESOURCES
                if error.to_string().contains("exceeded")
                    || error.to_string().contains("resources") =>
            {
                Err(PublishError::Full)
            }
            _ if error.code() >= 500 || error.code() == 429 => {
                Err(PublishError::Unavailable(error.to_string()))
            }
            _ => Err(PublishError::Refused(error.to_string())),
        },
        Err(e) => Err(PublishError::Unavailable(format!(
            "unreadable acknowledgement: {e}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::publisher::{Publisher, tests::event};

    #[tokio::test]
    async fn events_of_one_order_follow_each_other_and_others_do_not_wait() {
        let (publisher, mut waiting) = Publisher::new();
        let (a, b) = (OrderingKey::default(), OrderingKey::default());
        let mut group = Vec::new();
        let mut queued = Vec::new();
        for (n, order) in [Some(&a), None, Some(&b), Some(&a), None, Some(&b)]
            .into_iter()
            .enumerate()
        {
            queued.push(
                publisher
                    .queue(Outgoing {
                        msg_id: n.to_string(),
                        ..event(order)
                    })
                    .unwrap(),
            );
            group.push(waiting.recv().await.unwrap());
        }
        let chains: Vec<String> = chains(group)
            .iter()
            .map(|c| c.iter().map(|w| w.event.msg_id.as_str()).collect())
            .collect();
        assert_eq!(chains, ["03", "1", "25", "4"]);
    }

    #[tokio::test]
    async fn halves_keep_the_order_when_the_last_is_taken_first() {
        let (publisher, mut waiting) = Publisher::new();
        let (mut group, mut queued) = (Vec::new(), Vec::new());
        for n in 0..5 {
            queued.push(
                publisher
                    .queue(Outgoing {
                        msg_id: n.to_string(),
                        ..event(None)
                    })
                    .unwrap(),
            );
            group.push(waiting.recv().await.unwrap());
        }
        let (mut parts, mut order) = (vec![group], String::new());
        while let Some(part) = parts.pop() {
            match part.as_slice() {
                [one] => order.push_str(&one.event.msg_id),
                _ => parts.extend(halves(part)),
            }
        }
        assert_eq!(order, "01234");
    }

    #[test]
    fn acknowledgements_are_told_apart() {
        assert_eq!(
            settle(br#"{"stream":"EVENTS","seq":7}"#),
            Ok(Receipt {
                seq: 7,
                duplicate: false
            })
        );
        assert_eq!(
            settle(br#"{"stream":"EVENTS","seq":7,"duplicate":true}"#),
            Ok(Receipt {
                seq: 7,
                duplicate: true
            })
        );
        let error = |code: u16, err_code: u64, text: &str| {
            settle(
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
        assert!(matches!(settle(b"?"), Err(PublishError::Unavailable(_))));
    }
}
