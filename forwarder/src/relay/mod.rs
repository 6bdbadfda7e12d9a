//! Copies operators' messages from `EVENTS` into `OUTBOUND`, in the order of the log. One forwarder
//! at a time does so: two could store a conversation's messages in reverse. After some faults a
//! message is copied once more. Whether it was delivered before is not asked here; see
//! `delivery::history`.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::{HeaderMap, header::IntoHeaderName};
use contract::dead_letter::Reason;
use contract::subject::{EventSubject, Outbound};
use contract::{Timestamp, header, inventory};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, OptionFuture};
use metrics::counter;
use runtime::CancellationToken;
use runtime::consume::pinned_consumer::{Arrival, PinnedConsumer};
use runtime::consume::worker::{Source, lag};
use runtime::dead_letters::store::{self, Failed};
use runtime::log::ordering_key::OrderingKey;
use runtime::log::publisher::{Outgoing, PublishError, Publisher};
use runtime::net::connection::Connection;
use runtime::service::Service;
use runtime::service::health::Health;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

/// Messages that wait in memory for their copying. The relay asks for no more before some are
/// copied.
const MAX_WAITING: usize = 256;
/// First and longest pause before the consumer is asked for again after a failure. The pause
/// doubles, because a full `OUTBOUND` fails every time.
const REOPEN_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Work for this long without a failure ends the doubling.
const RECOVERED_AFTER: Duration = Duration::from_secs(10);
/// How often the server is asked how far the relay is behind.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Messages that await the relay. Beyond this number the forwarder is not ready.
const READY_PENDING: u64 = 10_000;
/// The name of the relay's check in the health report.
const CHECK: &str = "relay";

/// The relay's own consumer.
const SOURCE: Source = Source {
    stream: inventory::EVENTS,
    consumer: inventory::RELAY,
    prefetch: 0,
};

/// The relay. Every forwarder has one, and the server pins the consumer to one of them.
struct Relay {
    connection: Connection,
    /// Writes `OUTBOUND` and nothing else, because an atomic batch belongs to one stream.
    publisher: Publisher,
    stop: CancellationToken,
}

impl Relay {
    /// Copies nothing yet.
    fn new(connection: Connection, publisher: Publisher, stop: CancellationToken) -> Relay {
        Relay {
            connection,
            publisher,
            stop,
        }
    }

    /// Copies whenever the consumer is pinned to this replica, until the stop.
    async fn run(self) {
        let mut pause = REOPEN_PAUSE.0;
        while !self.stop.is_cancelled() {
            let begun = Instant::now();
            let worked = match self.open().await {
                Ok(pinned) => self.own(pinned).await,
                Err(why) => Err(why),
            };
            if let Err(why) = worked {
                counter!("relay_lost_total").increment(1);
                warn!(why, "the relay begins again");
                if begun.elapsed() >= RECOVERED_AFTER {
                    pause = REOPEN_PAUSE.0;
                }
                let sleep = tokio::time::sleep(pause);
                let _ = self.stop.run_until_cancelled(sleep).await;
                pause = (pause * 2).min(REOPEN_PAUSE.1);
            }
        }
    }

    async fn open(&self) -> Result<PinnedConsumer, String> {
        PinnedConsumer::open(
            &self.connection,
            inventory::EVENTS,
            inventory::RELAY.to_owned(),
            inventory::FORWARDER_GROUP,
        )
        .await
        .map_err(|e| e.to_string())
    }

    /// Waits for the pin and copies, until the stop. The next owner copies again what was being
    /// copied at the stop, and the stream stores it once.
    ///
    /// # Errors
    /// Why this replica copies no more for now.
    async fn own(&self, mut pinned: PinnedConsumer) -> Result<(), String> {
        let mut waiting: VecDeque<Message> = VecDeque::new();
        let mut copying: Option<BoxFuture<'_, Result<Vec<Message>, String>>> = None;
        let order = OrderingKey::default();
        let result = loop {
            if copying.is_none() && !waiting.is_empty() {
                let batch = std::mem::take(&mut waiting);
                copying = Some(self.copy(batch.into(), order.clone()).boxed());
            }
            tokio::select! {
                () = self.stop.cancelled() => break Ok(()),
                arrival = pinned.next(), if waiting.len() < MAX_WAITING => match arrival {
                    Ok(Arrival::Message(message)) => waiting.push_back(*message),
                    Ok(Arrival::Pin) => match pinned.take_over().await {
                        Ok(takeover) => info!(?takeover, "the relay is this replica's"),
                        Err(e) => break Err(e.to_string()),
                    },
                    Err(e) => break Err(e.to_string()),
                },
                Some(copied) = OptionFuture::from(copying.as_mut()) => {
                    copying = None;
                    match copied {
                        Ok(messages) => settle(&messages).await,
                        Err(why) => break Err(why),
                    }
                }
            }
        };
        drop(copying);
        pinned.release().await;
        result
    }

    /// Copies messages in their order, and returns them to be acknowledged.
    ///
    /// # Errors
    /// A message is not known to be copied. Later ones may not be copied either.
    async fn copy(
        &self,
        messages: Vec<Message>,
        order: OrderingKey,
    ) -> Result<Vec<Message>, String> {
        let mut queued = Vec::with_capacity(messages.len());
        for message in &messages {
            // The persister's. The first copy of the message has been in `OUTBOUND`.
            if has(message, header::REPLAY_OF) {
                continue;
            }
            match self.copy_of(message, &order) {
                Ok(copy) => match self.publisher.queue(copy) {
                    Ok(receipt) => queued.push((message, receipt)),
                    Err(e) => return Err(e.to_string()),
                },
                Err(why) => self.give_up(message, &why).await?,
            }
        }
        for (message, receipt) in queued {
            match receipt.receipt().await {
                Ok(receipt) => {
                    let copy = if receipt.duplicate { "known" } else { "new" };
                    counter!("relay_copied_total", "copy" => copy).increment(1);
                }
                Err(PublishError::Refused(why)) => self.give_up(message, &why).await?,
                Err(PublishError::Full) => return Err("OUTBOUND is full".to_owned()),
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(messages)
    }

    /// The message as `OUTBOUND` stores it.
    fn copy_of(&self, message: &Message, order: &OrderingKey) -> Result<Outgoing, String> {
        let seq = message.info().map_err(|e| e.to_string())?.stream_sequence;
        let subject = outbound_subject(&message.subject)?;
        let original = message.headers.clone().unwrap_or_default();
        let position = header::log_position(inventory::EVENTS, seq, |name| {
            original.get(name).map(|value| value.as_str())
        });
        let mut headers = without_servers(&original);
        headers.insert(header::EVENT_SEQ, position.unwrap_or(seq).to_string());
        Ok(Outgoing {
            subject: subject.to_string(),
            payload: message.payload.clone(),
            msg_id: format!("relay-{seq}"),
            headers,
            ordering_key: Some(order.clone()),
        })
    }

    /// Stores a dead letter of a message that can never be copied.
    async fn give_up(&self, message: &Message, why: &str) -> Result<(), String> {
        let info = message.info().map_err(|e| e.to_string())?;
        let headers = message.headers.clone().unwrap_or_default();
        let failed = Failed {
            subject: &message.subject,
            headers: &headers,
            payload: &message.payload,
            stream: inventory::EVENTS,
            stream_seq: info.stream_sequence,
            attempts: 0,
        };
        let now = Timestamp::now();
        match store::store(&self.connection, failed, Reason::Malformed, why, now).await {
            true => Ok(()),
            false => Err("the dead letter is not stored".to_owned()),
        }
    }
}

/// Acknowledges messages that are copied. If an acknowledgement is lost, its message is copied
/// again.
async fn settle(messages: &[Message]) {
    for message in messages {
        if let Err(error) = message.ack().await {
            warn!(%error, "a relayed message could not be settled");
        }
    }
}

fn has(message: &Message, header: impl IntoHeaderName) -> bool {
    let headers = message.headers.as_ref();
    headers.is_some_and(|headers| headers.get(header).is_some())
}

/// The subject in `OUTBOUND` of a forwardable event.
fn outbound_subject(event: &str) -> Result<Outbound, String> {
    match event.parse() {
        Ok(EventSubject::MessageCreated {
            company,
            contact,
            facets,
        }) => Ok(Outbound::of(company, contact, facets.platform)),
        Ok(_) => Err(format!("{event} is no message")),
        Err(e) => Err(e.to_string()),
    }
}

/// The headers without those that tell the server of one stream what to do.
fn without_servers(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, values) in headers.iter() {
        let name_text: &str = name.as_ref();
        if !name_text.starts_with("Nats-") {
            values
                .iter()
                .for_each(|value| kept.append(name.clone(), value.clone()));
        }
    }
    kept
}

/// Shows in health and metrics how far the relay is behind the log, until the stop.
async fn watch(connection: Connection, health: Health, stop: CancellationToken) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        match lag(&connection, SOURCE).await {
            Ok(lag) => {
                let pending = lag.pending + lag.in_work;
                let detail = json!({"pending": pending, "limit": READY_PENDING});
                match pending <= READY_PENDING {
                    true => health.good(CHECK, detail),
                    false => health.bad(CHECK, detail),
                }
            }
            Err(e) => health.bad(CHECK, json!(e.to_string())),
        }
    }
}

/// Starts the relay of a forwarder.
pub fn start(service: &mut Service) {
    let (connection, stop) = (service.connection.clone(), service.stop.clone());
    service.health.expect(&[CHECK]);
    service.spawn(
        "relay watch",
        watch(connection.clone(), service.health.clone(), stop.clone()),
    );
    let publisher = Publisher::start(service, None);
    service.spawn("relay", Relay::new(connection, publisher, stop).run());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_goes_to_the_partition_of_its_conversation() {
        let subject = "message.created.aaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbb.facebook.outbound.operator";
        let outbound = outbound_subject(subject).unwrap();
        assert_eq!(outbound.platform.as_str(), "facebook");
        assert!(outbound_subject("message.created.a.b.facebook.outbound.operator").is_err());
        assert!(
            outbound_subject("message.read.aaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbb")
                .is_err()
        );
    }

    #[test]
    fn headers_for_the_server_of_the_first_stream_are_not_copied() {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", "m");
        headers.insert("Nats-Expected-Last-Subject-Sequence", "3");
        headers.insert("traceparent", "t");
        let kept = without_servers(&headers);
        assert_eq!(kept.len(), 1);
        assert_eq!(kept.get("traceparent").unwrap().as_str(), "t");
    }
}
