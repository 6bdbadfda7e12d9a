//! Takes batches from the log into the view, retries while MongoDB is away, and sends outcomes to the
//! callers that wait for them. Decides nothing about an event; see `view`.

use std::sync::Arc;
use std::time::Duration;

use contract::{Timestamp, header, inventory};
use metrics::{counter, histogram};
use runtime::CancellationToken;
use runtime::consume::worker::{self, Delivery, Settle, Source, Worker};
use runtime::net::connection::Connection;
use runtime::rpc::outcome;
use runtime::service::health::Health;
use tokio::time::Instant;
use tracing::warn;

use crate::mongo::client::{DatabaseError, limited};
use crate::view::{Stored, Verdict, View};

/// Events of one batch at most.
const MAX_BATCH: usize = 2_000;
/// How long a batch is gathered under load. Many messages of a conversation then share one write of
/// the conversation.
const GATHER: Duration = Duration::from_millis(250);
/// The consumer that all replicas share.
pub const SOURCE: Source = Source {
    stream: inventory::EVENTS,
    consumer: inventory::PERSISTER,
    prefetch: 2 * MAX_BATCH,
};
/// How long a batch is kept and tried again here. Beyond that the batch is given back. This time is
/// shorter than the consumer's ack wait.
const KEEP: Duration = Duration::from_secs(12);
/// The pause between tries while MongoDB is away.
const PAUSE: Duration = Duration::from_millis(500);
/// When a batch that was given back comes again.
const GIVE_BACK: Duration = Duration::from_secs(1);

/// Consumes until the stop. Begins once the unique indexes are there. Otherwise a repeated key would
/// be stored twice.
pub async fn run(connection: Connection, health: Health, view: View, stop: CancellationToken) {
    while let Err(e) = limited(view.create_indexes()).await {
        warn!(error = %e, "nothing is consumed before the indexes are made");
        if stop
            .run_until_cancelled(tokio::time::sleep(PAUSE))
            .await
            .is_none()
        {
            return;
        }
    }
    let worker = Worker::new(connection.clone(), SOURCE, health, stop.clone());
    worker
        .run_batches(MAX_BATCH, GATHER, |batch| {
            let (connection, view, stop) = (connection.clone(), view.clone(), stop.clone());
            async move { write(&connection, &view, &batch, &stop).await }
        })
        .await;
}

async fn write(
    connection: &Connection,
    view: &View,
    batch: &Arc<Vec<Delivery>>,
    stop: &CancellationToken,
) -> Vec<Settle> {
    let stored: Vec<Stored> = batch.iter().map(stored).collect();
    // Without an answer, 0 is safe: conversations are only compacted later. The floor that `Progress`
    // keeps would not be safe. Right after a reset of the consumer, for a rebuild, `Progress` still
    // has the floor from before the reset. After compacting up to that floor, events that other
    // replicas have not applied yet would never be counted.
    let settled_to = worker::lag(connection, SOURCE)
        .await
        .map_or(0, |lag| lag.settled_to);
    let started = Instant::now();
    let verdicts = loop {
        let applied = match view.apply(&stored, settled_to).await {
            Err(DatabaseError::Refused(_)) => {
                // The error may quote the document. So it goes into the header of the dead letter,
                // and not into this log line.
                warn!(
                    events = stored.len(),
                    "MongoDB will never take something in this batch; each event by itself"
                );
                view.apply_one_by_one(&stored, settled_to).await
            }
            other => other,
        };
        match applied {
            Ok(verdicts) => break verdicts,
            Err(e) => {
                counter!("persister_retries_total").increment(1);
                warn!(error = %e, events = stored.len(), "a batch could not be written");
                if started.elapsed() > KEEP
                    || stop
                        .run_until_cancelled(tokio::time::sleep(PAUSE))
                        .await
                        .is_none()
                {
                    return vec![Settle::Retry(GIVE_BACK); batch.len()];
                }
            }
        }
    };
    histogram!("persister_write_seconds").record(started.elapsed().as_secs_f64());
    let now = Timestamp::now();
    let mut settles = Vec::with_capacity(batch.len());
    for (delivery, verdict) in batch.iter().zip(verdicts) {
        histogram!("persister_behind_seconds").record(now.since(delivery.stored_at).as_secs_f64());
        settles.push(match verdict {
            Verdict::Applied(result) => {
                if let Some(inbox) = delivery.header(header::OUTCOME_INBOX) {
                    outcome::send(connection, inbox, &result).await;
                }
                Settle::Done
            }
            Verdict::Rejected(reason, why) => Settle::Reject(reason, why),
        });
    }
    settles
}

fn stored(d: &Delivery) -> Stored {
    let log_position = header::log_position(&d.stream, d.stream_seq, |name| d.header(name));
    Stored {
        seq: d.stream_seq,
        log_position: log_position.unwrap_or(d.stream_seq),
        subject: d.subject.to_string(),
        payload: d.payload.clone(),
    }
}
