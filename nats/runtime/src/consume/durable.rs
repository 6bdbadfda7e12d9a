//! Durable consumers as the server has them: making a deleted one anew, and how far one is behind.
//! Consumes nothing.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream::ConsumerError;
use metrics::gauge;
use serde_json::json;
use tracing::warn;

use crate::CancellationToken;
use crate::net::connection::Connection;
use crate::service::health::Health;
use crate::setup;

/// How often [`watch_lag`] asks. The health check goes stale after a few missing answers.
const LAG_EVERY: Duration = Duration::from_secs(2);

/// A durable consumer, and how much of it is asked for at once.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The stream.
    pub stream: &'static str,
    /// The durable consumer, made by `runtime::setup`.
    pub consumer: &'static str,
    /// Messages that are asked of the server ahead of need. Because their ack wait runs meanwhile,
    /// a slow handler needs a small number.
    pub prefetch: usize,
}

/// Returns the consumer. A consumer that was deleted is made anew, as `setup` makes it. It then
/// begins with the stream's first message, which idempotent handlers bear.
pub async fn find_or_make(
    jetstream: &Context,
    stream: &str,
    consumer: &str,
) -> Result<PullConsumer, ConsumerError> {
    let missing = match jetstream.get_consumer_from_stream(consumer, stream).await {
        Err(e) if setup::is_not_found(&e) => e,
        found_or_failed => return found_or_failed,
    };
    let Some((stream, config)) = setup::consumers()
        .into_iter()
        .find(|(_, c)| c.durable_name.as_deref() == Some(consumer))
    else {
        return Err(missing);
    };
    warn!(
        consumer,
        "the consumer was deleted; it is made anew and begins with the first message"
    );
    jetstream.create_consumer_on_stream(config, stream).await
}

/// How far a consumer is behind its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Messages that were never delivered.
    pub pending: u64,
    /// Messages that were delivered and are not settled.
    pub in_work: u64,
    /// Every message up to this stream sequence is settled.
    pub settled_to: u64,
    /// The stream sequence that was delivered last.
    pub delivered_to: u64,
}

/// Asks the server, whose answer covers all replicas together.
///
/// # Errors
/// The server does not answer.
pub async fn lag(connection: &Connection, source: Source) -> Result<Lag, ConsumerError> {
    let consumer: PullConsumer = connection
        .jetstream
        .get_consumer_from_stream(source.consumer, source.stream)
        .await?;
    let info = consumer.cached_info();
    let lag = Lag {
        pending: info.num_pending,
        in_work: info.num_ack_pending as u64,
        settled_to: info.ack_floor.stream_sequence,
        delivered_to: info.delivered.stream_sequence,
    };
    gauge!("consumer_pending_messages", "consumer" => source.consumer).set(lag.pending as f64);
    gauge!("consumer_in_work_messages", "consumer" => source.consumer).set(lag.in_work as f64);
    Ok(lag)
}

/// Confirms the check `lag` while the server answers. A consumer that is more than `limit` messages
/// behind makes the service unready.
pub async fn watch_lag(
    connection: Connection,
    source: Source,
    health: Health,
    limit: u64,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(LAG_EVERY);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        match lag(&connection, source).await {
            Ok(lag) => {
                let detail =
                    json!({"pending": lag.pending, "in_work": lag.in_work, "limit": limit});
                if lag.pending <= limit {
                    health.good("lag", detail)
                } else {
                    health.bad("lag", detail)
                }
            }
            Err(e) => health.bad("lag", json!(e.to_string())),
        }
    }
}
