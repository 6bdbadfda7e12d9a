//! One company's subscriptions: stored events as the server republishes them, and typing. Each is turned into a frame once and
//! queued for the sockets. Where something may not have arrived here it is read from the log before anything newer is handed
//! out. What tells of it:
//! - the connection was made anew since the last message (counted before the subscriptions are, so nothing slips by);
//! - the client says that the connection is lost, or that a subscription was too slow for it;
//! - a message names the one before it on its subject, and that was not handed out;
//! - every few seconds the log is asked for the company's last sequence: this finds what a server that died had stored and not
//!   passed on.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use metrics::counter;
use nats::runtime::connection::Connection;
use nats::runtime::direct;
use nats::{Id, header, stream, subject};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, info, warn};

use crate::close::CloseReason;
use crate::company::{Company, FeedState};
use crate::event::{self, Typing};
use crate::hub::Hub;
use crate::merge::{self, Merged};

/// The subscriptions outlive the last socket by so much: a page that reloads finds them standing.
const GRACE: Duration = Duration::from_secs(5);
/// How often the log is asked whether something has not arrived.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// So long the sockets wait while NATS is away or what was missed cannot be read; then they are sent away with 1013.
const REPAIR_DEADLINE: Duration = Duration::from_secs(60);
/// Pause between tries.
const REPAIR_PAUSE: Duration = Duration::from_millis(100);
/// Events of one read.
const PAGE_EVENTS: usize = 500;

/// Follows a company until its last socket is gone, or the service stops.
pub async fn run(hub: Hub, company: Arc<Company>) {
    // However this task ends, nobody is left waiting for events that will not come.
    let end = End { hub: &hub, company: &company };
    let opened = hub.stop().run_until_cancelled(Feed::open(&hub, &company)).await;
    let Some(Some(mut feed)) = opened else { return };
    company.feed.send_replace(FeedState::Live);
    debug!(company = %company.id, "feed open");
    match hub.stop().run_until_cancelled(feed.follow()).await {
        // The lifecycle sends the sockets away, with what waits for them.
        None => std::mem::forget(end),
        Some(Ok(())) => debug!(company = %company.id, "feed closed"),
        Some(Err(Lost)) => {
            counter!("realtime_feeds_lost_total").increment(1);
            error!(company = %company.id, "the log cannot be followed; the company's sockets are sent away");
        }
    }
}

/// The company's events cannot be had any more.
struct Lost;

struct End<'a> {
    hub: &'a Hub,
    company: &'a Arc<Company>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.hub.forget(self.company);
        self.company.feed.send_replace(FeedState::Ended);
        self.company.end_all(CloseReason::FeedLost);
    }
}

/// What the log keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The first sequence that may be there.
    pub first: u64,
    /// The last one, as the leader knows it.
    pub last: u64,
}

/// Asks the stream's leader. Bounded by the connection's `REQUEST_TIMEOUT`.
///
/// # Errors
/// It does not answer.
pub async fn kept(connection: &Connection) -> Result<Kept, String> {
    let stream = connection.jetstream.get_stream(stream::EVENTS).await.map_err(|e| e.to_string())?;
    let state = &stream.cached_info().state;
    Ok(Kept { first: state.first_sequence, last: state.last_sequence })
}

struct Feed<'a> {
    hub: &'a Hub,
    company: &'a Arc<Company>,
    live: Merged,
    typing: Subscriber,
    gaps: watch::Receiver<u64>,
    /// The connection that everything up to now has come by.
    connects: u64,
}

impl<'a> Feed<'a> {
    /// The subscriptions, known to the server.
    async fn open(hub: &'a Hub, company: &'a Arc<Company>) -> Option<Feed<'a>> {
        let (connection, id) = (hub.connection(), company.id);
        let mut gaps = connection.gaps();
        gaps.mark_unchanged();
        let connects = connection.connects();
        let subscribe = |subject: String| async { connection.client.subscribe(subject).await.map_err(|e| e.to_string()) };
        let opened = async {
            let messages = subscribe(subject::live_of_company(id)).await?;
            let refreshes = subscribe(subject::live_refresh_failed_of_company(id)).await?;
            let typing = subscribe(subject::typing_of_company(id)).await?;
            // The stream's leader answers after the subscriptions have passed it on the same way: what it stores from now on comes.
            company.begin(kept(connection).await?.last);
            Ok::<_, String>(Feed { hub, company, live: Merged::new(messages, refreshes), typing, gaps, connects })
        };
        let opened = opened.await;
        if let Err(e) = &opened {
            counter!("realtime_feed_open_failed_total").increment(1);
            warn!(company = %id, error = e, "the log cannot be followed");
        }
        opened.ok()
    }

    /// Until nobody is in any more.
    async fn follow(&mut self) -> Result<(), Lost> {
        let mut empty_until: Option<Instant> = None;
        let mut next_check = Instant::now() + CHECK_INTERVAL;
        loop {
            tokio::select! {
                _ = self.gaps.changed() => self.repair("connection").await?,
                message = self.live.next() => self.on_live(&message.ok_or(Lost)?).await?,
                message = self.typing.next() => on_typing(self.hub, self.company, &message.ok_or(Lost)?),
                () = sleep_until(next_check) => {
                    self.check().await?;
                    next_check = Instant::now() + CHECK_INTERVAL;
                }
                () = self.company.emptied.notified() => empty_until = Some(Instant::now() + GRACE),
                () = sleep_until(empty_until.unwrap_or_else(Instant::now)), if empty_until.is_some() => {
                    if self.hub.forget_if_empty(self.company) {
                        return Ok(());
                    }
                    empty_until = None;
                }
            }
        }
    }

    async fn on_live(&mut self, message: &Message) -> Result<(), Lost> {
        let Some(seq) = merge::seq(message) else {
            skip(self.company, "not republished", None);
            return Ok(());
        };
        if self.gaps.has_changed().unwrap_or(true) || self.connects != self.hub.connection().connects() {
            self.repair("connection").await?;
        } else if before(message).is_some_and(|before| before > self.company.last_seq()) {
            self.repair("subject").await?;
        }
        self.deliver(seq, event::of_live(message));
        Ok(())
    }

    fn deliver(&self, seq: u64, frame: Option<crate::frame::Frame>) -> bool {
        let reached = self.company.deliver(seq, frame);
        self.hub.metrics().delivered(reached.unwrap_or(0));
        reached.is_some()
    }

    /// Asks the log whether it has something that should have come by now.
    async fn check(&mut self) -> Result<(), Lost> {
        let filter = subject::of_company(self.company.id);
        let last = direct::last_seq_of_a_replica(self.hub.connection(), stream::EVENTS, &filter).await;
        match last {
            // It may only be on its way; reading it does no harm then.
            Ok(last) if last > self.company.last_seq() => self.repair("check").await,
            // Without an answer there is a gap of the connection, or the next check.
            _ => Ok(()),
        }
    }

    /// Hands out what the log has beyond what was handed out. What comes again by the subscriptions later is passed over.
    async fn repair(&mut self, reason: &'static str) -> Result<(), Lost> {
        let deadline = Instant::now() + REPAIR_DEADLINE;
        loop {
            match self.try_repair().await {
                Ok(0) => return Ok(()),
                Ok(found) => {
                    counter!("realtime_repaired_total", "reason" => reason).increment(found);
                    info!(company = %self.company.id, reason, found, "events that had not arrived were read from the log");
                    return Ok(());
                }
                Err(error) if Instant::now() >= deadline => {
                    error!(company = %self.company.id, error, "what was missed cannot be read");
                    return Err(Lost);
                }
                Err(_) => sleep(REPAIR_PAUSE).await,
            }
            if self.company.sockets() == 0 && self.hub.forget_if_empty(self.company) {
                return Err(Lost);
            }
        }
    }

    /// One try; how many events were handed out.
    async fn try_repair(&mut self) -> Result<u64, String> {
        let connection = self.hub.connection();
        if !connection.is_connected() {
            return Err("not connected to NATS".into());
        }
        // What changes from here on is looked at again.
        self.gaps.mark_unchanged();
        self.connects = connection.connects();
        let filter = subject::of_company(self.company.id);
        let target = direct::last_seq(connection, stream::EVENTS, &filter).await?;
        let mut found = 0;
        while self.company.last_seq() < target {
            let _turn = self.hub.reading().await;
            let from = self.company.last_seq() + 1;
            let page = direct::page(connection, stream::EVENTS, &filter, from, PAGE_EVENTS).await?;
            if page.is_empty() {
                return Err("a replica is behind".into());
            }
            found += page.iter().filter(|stored| self.deliver(stored.seq, event::of_stored(stored))).count() as u64;
        }
        Ok(found)
    }
}

/// The sequence of the message before this one on the same subject.
fn before(message: &Message) -> Option<u64> {
    message.headers.as_ref()?.get(header::LAST_SEQUENCE)?.as_str().parse().ok()
}

fn on_typing(hub: &Hub, company: &Company, message: &Message) {
    let conversation = message.subject.rsplit('.').next().and_then(|token| token.parse::<Id>().ok());
    let typing = serde_json::from_slice::<Typing>(&message.payload).ok();
    let (Some(conversation), Some(typing)) = (conversation, typing) else {
        return skip(company, "unreadable", None);
    };
    match event::of_typing(conversation, typing) {
        Ok(frame) => hub.metrics().delivered(company.to_joined(conversation, typing.socket, &frame)),
        Err(_) => skip(company, "unwritable", None),
    }
}

fn skip(company: &Company, reason: &'static str, seq: Option<u64>) {
    counter!("realtime_skipped_total", "reason" => reason).increment(1);
    warn!(company = %company.id, reason, seq, "an event was not delivered");
}
