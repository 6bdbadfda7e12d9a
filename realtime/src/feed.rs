//! One company's two subscriptions: stored events as the server republishes them, and typing. Each is turned into a frame
//! once and queued for the sockets. It repairs nothing: when the server may have sent what did not arrive here, the sockets
//! are closed, so that their clients know, come back and fetch.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use metrics::{counter, histogram};
use nats::event::Envelope;
use nats::{Id, Timestamp, header, stream, subject};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, warn};

use crate::close::CloseReason;
use crate::company::{Company, FeedState};
use crate::event::{self, Typing};
use crate::frame::Origin;
use crate::hub::Hub;

/// The subscriptions outlive the last socket by so much: a page that reloads finds them standing.
const GRACE: Duration = Duration::from_secs(5);

/// Follows a company until its last socket is gone, or the service stops.
pub async fn run(hub: Hub, company: Arc<Company>) {
    // However this task ends, nobody is left waiting for events that will not come.
    let _end = End { hub: &hub, company: &company };
    let mut gaps = hub.connection().gaps();
    let opened = hub.stop().run_until_cancelled(open(&hub, company.id)).await;
    let Some(Some((mut live, mut typing))) = opened else { return };
    company.feed.send_replace(FeedState::Live);
    debug!(company = %company.id, "feed open");
    let mut empty_until: Option<Instant> = None;
    loop {
        tokio::select! {
            () = hub.stop().cancelled() => break,
            _ = gaps.changed() => break,
            message = live.next() => match message {
                Some(message) => on_live(&company, &message),
                None => break,
            },
            message = typing.next() => match message {
                Some(message) => on_typing(&company, &message),
                None => break,
            },
            () = company.emptied.notified() => empty_until = Some(Instant::now() + GRACE),
            () = sleep_until(empty_until.unwrap_or_else(Instant::now)), if empty_until.is_some() => {
                if hub.forget_if_empty(&company) {
                    debug!(company = %company.id, "feed closed");
                    return;
                }
                empty_until = None;
            }
        }
    }
    if !hub.stop().is_cancelled() {
        counter!("realtime_feeds_lost_total").increment(1);
        error!(company = %company.id, "events may have been missed; the company's sockets are sent away");
    }
}

struct End<'a> {
    hub: &'a Hub,
    company: &'a Arc<Company>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        // At the stop the lifecycle sends the sockets away, with what waits for them.
        if self.hub.stop().is_cancelled() {
            return;
        }
        self.hub.forget(self.company);
        self.company.feed.send_replace(FeedState::Ended);
        self.company.end_all(CloseReason::FeedLost);
    }
}

/// Both subscriptions, known to the server.
async fn open(hub: &Hub, company: Id) -> Option<(Subscriber, Subscriber)> {
    let connection = hub.connection();
    let subscribe = async {
        let live = connection.client.subscribe(subject::live_of_company(company)).await.map_err(|e| e.to_string())?;
        let typing = connection.client.subscribe(subject::typing_of_company(company)).await.map_err(|e| e.to_string())?;
        // The stream's leader answers after the subscriptions have passed it on the same way: what it stores from now on comes.
        // Bounded by the connection's REQUEST_TIMEOUT.
        connection.jetstream.get_stream(stream::EVENTS).await.map_err(|e| e.to_string())?;
        Ok::<_, String>((live, typing))
    };
    let opened = subscribe.await;
    if let Err(e) = &opened {
        counter!("realtime_feed_open_failed_total").increment(1);
        warn!(company = %company, error = e, "the log cannot be followed");
    }
    opened.ok()
}

fn on_live(company: &Company, message: &Message) {
    let Some((stored, seq)) = origin(message) else {
        return skip(company, "not republished", None);
    };
    if !company.advance(seq) {
        return skip(company, "late or repeated", Some(seq));
    }
    if company.sockets() == 0 {
        return;
    }
    // What cannot be read the persister makes a dead letter of, with the reason; here it could show a message's text.
    let Ok(envelope) = Envelope::from_message(stored, &message.payload) else {
        return skip(company, "unreadable", Some(seq));
    };
    let stored_at = envelope.occurred_at;
    match event::of_event(envelope, Origin { seq, stored_at }) {
        Ok(Some(frame)) => {
            counter!("realtime_deliveries_total").increment(company.to_all(&frame) as u64);
            histogram!("realtime_fanout_seconds").record(Timestamp::now().since(stored_at).as_secs_f64());
        }
        Ok(None) => {}
        Err(_) => skip(company, "unwritable", Some(seq)),
    }
}

/// The subject under which a republished message is stored, and its sequence.
fn origin(message: &Message) -> Option<(&str, u64)> {
    let seq = message.headers.as_ref()?.get(header::SEQUENCE)?.as_str().parse().ok()?;
    Some((subject::from_live(&message.subject)?, seq))
}

fn on_typing(company: &Company, message: &Message) {
    let conversation = message.subject.rsplit('.').next().and_then(|token| token.parse::<Id>().ok());
    let typing = serde_json::from_slice::<Typing>(&message.payload).ok();
    let (Some(conversation), Some(typing)) = (conversation, typing) else {
        return skip(company, "unreadable", None);
    };
    match event::of_typing(conversation, typing) {
        Ok(frame) => counter!("realtime_deliveries_total").increment(company.to_joined(conversation, typing.socket, &frame) as u64),
        Err(_) => skip(company, "unwritable", None),
    }
}

fn skip(company: &Company, reason: &'static str, seq: Option<u64>) {
    counter!("realtime_skipped_total", "reason" => reason).increment(1);
    warn!(company = %company.id, reason, seq, "an event was not delivered");
}
