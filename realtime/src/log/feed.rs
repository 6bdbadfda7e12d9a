//! Follows one company for its room: stored events as the NATS server republishes them, typing, and
//! presence. Each becomes a frame once and is queued for the sockets. Reads no event for a single
//! socket; see `catch_up`.
//!
//! If an event may not have arrived, the feed reads the log before it delivers anything newer. It
//! does so in these cases:
//! - The connection was made again since the last message. The client counts connections before it
//!   makes the subscriptions again, so no message slips by.
//! - The client reports that the connection is lost, or that a subscription was too slow for it.
//! - A message names the message before it on its subject, and that one was not delivered.
//! - The log has a newer event of the company when the feed looks, which it does from time to time.
//!
//! At each such look the feed also compares what was delivered with the log. A republished message
//! is only a hint: a leader that dies, or a broken route between two NATS servers, loses some
//! without any client noticing. An event that was passed over can no longer be delivered in order,
//! so the clients are told to fetch.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use contract::{Id, header, inventory, subject};
use futures_util::StreamExt;
use metrics::counter;
use runtime::log::direct_get;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, info, warn};

use super::merge::{self, Merged};
use crate::cluster::presence_exchange::{self, PresenceExchange};
use crate::metrics::count_skipped;
use crate::node::Node;
use crate::room::close_reason::CloseReason;
use crate::room::frame::Frame;
use crate::room::payload::{self, ResyncReason};
use crate::room::typing::{Typing, Typists};
use crate::room::{FeedState, Room};

/// How long the subscriptions outlive the last socket. A page that reloads within this time finds
/// them open.
const GRACE: Duration = Duration::from_secs(5);
/// How often the delivered events are compared with the log. An event that was lost on its way is
/// found within this time.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// When the first such look comes after the subscriptions were made or made again. The NATS server
/// may have had them a little later than it seemed.
const FIRST_CHECK: Duration = Duration::from_secs(1);
/// How long the sockets wait while NATS is away or missed events cannot be read. Beyond it, they
/// are closed with 1013.
const REPAIR_DEADLINE: Duration = Duration::from_secs(60);
/// Pause between tries to repair.
const REPAIR_PAUSE: Duration = Duration::from_millis(100);
/// Events of one read. Further events are read in the next one.
const PAGE_EVENTS: usize = 500;

/// Follows a company until its last socket is gone or the service stops.
pub async fn run(node: Node, room: Arc<Room>) {
    // However this task ends, no socket is left waiting for events that will not come.
    let guard = EndGuard {
        node: &node,
        room: &room,
        is_armed: true,
    };
    let opened = node
        .stop()
        .run_until_cancelled(Feed::open(&node, &room))
        .await;
    let Some(Some(mut feed)) = opened else { return };
    room.feed.send_replace(FeedState::Live);
    debug!(company = %room.id, "feed open");
    match node.stop().run_until_cancelled(feed.follow()).await {
        // `lifecycle` closes the sockets, after they were given what waits for them.
        None => guard.disarm(),
        Some(Ok(())) => debug!(company = %room.id, "feed closed"),
        Some(Err(FeedLost)) => {
            counter!("realtime_feeds_lost_total").increment(1);
            error!(
                company = %room.id,
                "the log cannot be followed; the company's sockets are sent away"
            );
            // The node and its heartbeats go on. Without this message the other nodes would keep the
            // users of this company as online here.
            presence_exchange::publish_no_users(&node, &room).await;
        }
    }
}

/// The company's events cannot be followed any more.
struct FeedLost;

/// The result of a comparison with the log.
enum Verified {
    /// The log has nothing that was not delivered.
    Complete,
    /// The log has events that are newer than the last delivered one.
    Newer,
    /// An event was passed over: it was not delivered, but newer ones were.
    Missed,
}

/// Ends the room and its sockets when it is dropped.
struct EndGuard<'a> {
    node: &'a Node,
    room: &'a Arc<Room>,
    is_armed: bool,
}

impl EndGuard<'_> {
    /// Leaves the room and its sockets as they are.
    fn disarm(mut self) {
        self.is_armed = false;
    }
}

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.node.hub().remove(self.room);
            self.room.feed.send_replace(FeedState::Ended);
            self.room.end_all(CloseReason::FeedLost);
        }
    }
}

struct Feed<'a> {
    node: &'a Node,
    room: &'a Arc<Room>,
    live: Merged,
    typing: Subscriber,
    typists: Typists,
    presence: PresenceExchange,
    check_at: Instant,
    /// When the feed ends, if the room is empty and stays so.
    ends_at: Option<Instant>,
    gaps: watch::Receiver<u64>,
    /// The number of the connection by which everything up to now has come.
    connects: u64,
}

impl<'a> Feed<'a> {
    /// Subscribes, and waits until the NATS server has the subscriptions.
    async fn open(node: &'a Node, room: &'a Arc<Room>) -> Option<Feed<'a>> {
        let opened = async {
            let feed = Feed::subscribe(node, room).await?;
            // In a cluster the answer may be faster than the subscriptions, by another way. What is
            // lost between the two is found at the first check.
            let bounds = direct_get::bounds(node.connection(), inventory::EVENTS)
                .await
                .map_err(|e| e.to_string())?;
            room.begin(bounds.last_seq);
            Ok::<_, String>(feed)
        };
        let opened = opened.await;
        if let Err(e) = &opened {
            counter!("realtime_feed_open_failed_total").increment(1);
            warn!(company = %room.id, error = e, "the log cannot be followed");
        }
        opened.ok()
    }

    /// Sends the subscriptions to the NATS server without waiting for it.
    async fn subscribe(node: &'a Node, room: &'a Arc<Room>) -> Result<Feed<'a>, String> {
        let (connection, id) = (node.connection(), room.id);
        let mut gaps = connection.gaps();
        gaps.mark_unchanged();
        let connects = connection.connects();
        let subscribe = |subject: String| async {
            connection
                .subscribe(subject)
                .await
                .map_err(|e| e.to_string())
        };
        let messages = subscribe(subject::live_of_company(id)).await?;
        let refreshes = subscribe(subject::live_refresh_failed_of_company(id)).await?;
        let typing = subscribe(subject::typing_of_company(id)).await?;
        let presence = PresenceExchange::subscribe(node, room).await?;
        Ok(Feed {
            node,
            room,
            live: Merged::new(messages, refreshes),
            typing,
            typists: Typists::default(),
            presence,
            check_at: Instant::now() + FIRST_CHECK,
            ends_at: None,
            gaps,
            connects,
        })
    }

    /// Follows the company until the room is empty.
    async fn follow(&mut self) -> Result<(), FeedLost> {
        while !self.is_over() {
            let due = self.due();
            tokio::select! {
                _ = self.gaps.changed() => self.repair("connection").await?,
                message = self.live.next() => self.on_live(&message.ok_or(FeedLost)?).await?,
                message = self.typing.next() => self.on_typing(&message.ok_or(FeedLost)?),
                message = self.presence.next() => {
                    let message = message.ok_or(FeedLost)?;
                    self.presence.on_message(self.node, self.room, &message);
                }
                () = self.room.presence_wanted.notified() => self.presence.ask(),
                () = self.room.users_changed.notified() => self.presence.users_changed(),
                () = self.room.emptied.notified() => self.ends_at = Some(Instant::now() + GRACE),
                () = sleep_until(due) => self.on_time(Instant::now()).await?,
            }
        }
        Ok(())
    }

    /// Whether no socket has come since the last one left, for [`GRACE`]. Then the room is closed.
    fn is_over(&mut self) -> bool {
        let is_due = self.ends_at.is_some_and(|at| at <= Instant::now());
        if is_due {
            self.ends_at = None;
        }
        is_due && self.node.hub().remove_if_empty(self.room)
    }

    fn due(&self) -> Instant {
        let sooner = [
            Some(self.presence.due()),
            self.ends_at,
            self.typists.next_stop(),
        ];
        sooner
            .into_iter()
            .flatten()
            .fold(self.check_at, Instant::min)
    }

    async fn on_time(&mut self, now: Instant) -> Result<(), FeedLost> {
        for (conversation, typing) in self.typists.stopped(now) {
            self.deliver_typing(conversation, typing);
        }
        self.presence
            .publish_if_due(self.node, self.room, now)
            .await;
        if now >= self.check_at {
            self.check_at = now + CHECK_INTERVAL;
            self.check().await?;
        }
        Ok(())
    }

    async fn on_live(&mut self, message: &Message) -> Result<(), FeedLost> {
        let Some(seq) = merge::seq(message) else {
            count_skipped(self.room.id, "not republished", None);
            return Ok(());
        };
        if self.gaps.has_changed().unwrap_or(true)
            || self.connects != self.node.connection().connects()
        {
            self.repair("connection").await?;
        } else if before(message).is_some_and(|before| before > self.room.last_seq()) {
            self.repair("subject").await?;
        }
        self.deliver(seq, payload::of_live(message));
        Ok(())
    }

    /// Delivers an event. Says whether it was new.
    fn deliver(&self, seq: u64, frame: Option<Frame>) -> bool {
        let reached = self.room.deliver(seq, frame);
        self.node.metrics().delivered(reached.unwrap_or(0));
        reached.is_some()
    }

    fn on_typing(&mut self, message: &Message) {
        let conversation = message
            .subject
            .rsplit('.')
            .next()
            .and_then(|token| token.parse::<Id>().ok());
        let typing = serde_json::from_slice::<Typing>(&message.payload).ok();
        let (Some(conversation), Some(typing)) = (conversation, typing) else {
            return count_skipped(self.room.id, "unreadable", None);
        };
        if self.typists.hear(conversation, typing, Instant::now()) {
            self.deliver_typing(conversation, typing);
        }
    }

    fn deliver_typing(&self, conversation: Id, typing: Typing) {
        match payload::of_typing(conversation, typing) {
            Ok(frame) => {
                let reached = self
                    .room
                    .deliver_to_joined(conversation, typing.socket, &frame);
                self.node.metrics().delivered(reached);
            }
            Err(_) => count_skipped(self.room.id, "unwritable", None),
        }
    }

    /// Compares the delivered events with the log, and repairs if the log has newer ones.
    async fn check(&mut self) -> Result<(), FeedLost> {
        match self.verify().await {
            Ok(Verified::Newer) => self.repair("check").await,
            Ok(Verified::Missed) => {
                error!(
                    company = %self.room.id,
                    "an event was passed over; the clients have to fetch"
                );
                counter!("realtime_resyncs_total", "reason" => ResyncReason::Late.as_str())
                    .increment(1);
                self.room.resync_all(ResyncReason::Late);
                Ok(())
            }
            Ok(Verified::Complete) => Ok(()),
            // If there is no answer, the connection reports a gap, or the next check compares.
            Err(error) => {
                debug!(company = %self.room.id, error, "the log cannot be compared");
                Ok(())
            }
        }
    }

    /// Reads the events of the log that were not compared yet, up to the first that is newer than
    /// the last delivered one. A replica that is behind shows fewer; the next check compares those.
    async fn verify(&self) -> Result<Verified, String> {
        let filter = subject::of_company(self.room.id);
        let connection = self.node.connection();
        let last = direct_get::last_seq_of_a_replica(connection, inventory::EVENTS, &filter)
            .await
            .map_err(|e| e.to_string())?;
        while self.room.verified_to() < last {
            let _permit = self.node.repair_permit().await?;
            let from = self.room.verified_to() + 1;
            let page = direct_get::page(connection, inventory::EVENTS, &filter, from, PAGE_EVENTS)
                .await
                .map_err(|e| e.to_string())?;
            let last_delivered = self.room.last_seq();
            let mut compared = None;
            for stored in &page {
                if stored.seq > last_delivered {
                    compared.inspect(|seq| self.room.verify_to(*seq));
                    // The event may only be on its way. Reading it does no harm then.
                    return Ok(Verified::Newer);
                }
                if self.room.has_missed(stored.seq) && payload::of_stored(stored).is_some() {
                    return Ok(Verified::Missed);
                }
                compared = Some(stored.seq);
            }
            let Some(compared) = compared else { break };
            self.room.verify_to(compared);
        }
        Ok(Verified::Complete)
    }

    /// Delivers the events that the log has after the last delivered one. If they come again by the
    /// subscriptions later, [`Room::deliver`] ignores them.
    async fn repair(&mut self, reason: &'static str) -> Result<(), FeedLost> {
        let deadline = Instant::now() + REPAIR_DEADLINE;
        loop {
            match self.try_repair().await {
                Ok(found) => {
                    if found > 0 {
                        counter!("realtime_repaired_total", "reason" => reason).increment(found);
                        info!(
                            company = %self.room.id,
                            reason,
                            found,
                            "events that had not arrived were read from the log"
                        );
                    }
                    return Ok(());
                }
                Err(error) if Instant::now() >= deadline => {
                    error!(company = %self.room.id, error, "what was missed cannot be read");
                    return Err(FeedLost);
                }
                Err(_) => sleep(REPAIR_PAUSE).await,
            }
        }
    }

    /// Tries once to repair. Returns how many events were delivered.
    async fn try_repair(&mut self) -> Result<u64, String> {
        let connection = self.node.connection();
        connection.require().map_err(|e| e.to_string())?;
        // A gap that appears from here on is repaired again.
        self.gaps.mark_unchanged();
        self.connects = connection.connects();
        self.presence.ask();
        let filter = subject::of_company(self.room.id);
        let target = direct_get::last_seq(connection, inventory::EVENTS, &filter)
            .await
            .map_err(|e| e.to_string())?;
        let mut found = 0;
        while self.room.last_seq() < target {
            let _permit = self.node.repair_permit().await?;
            let from = self.room.last_seq() + 1;
            let page = direct_get::page(connection, inventory::EVENTS, &filter, from, PAGE_EVENTS)
                .await
                .map_err(|e| e.to_string())?;
            if page.is_empty() {
                return Err("a replica is behind".into());
            }
            found += page
                .iter()
                .filter(|stored| self.deliver(stored.seq, payload::of_stored(stored)))
                .count() as u64;
        }
        self.check_at = self.check_at.min(Instant::now() + FIRST_CHECK);
        Ok(found)
    }
}

/// The sequence of the message before this one on the same subject.
fn before(message: &Message) -> Option<u64> {
    message
        .headers
        .as_ref()?
        .get(header::LAST_SEQUENCE)?
        .as_str()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tests::unconnected;

    #[tokio::test]
    async fn a_disarmed_guard_leaves_the_room_and_its_sockets() {
        let (node, room) = (
            unconnected().await,
            Arc::new(Room::new(Id::from_bytes([0xaa; 12]))),
        );
        let guard = || EndGuard {
            node: &node,
            room: &room,
            is_armed: true,
        };
        guard().disarm();
        assert_eq!(*room.feed.borrow(), FeedState::Opening);
        drop(guard());
        assert_eq!(*room.feed.borrow(), FeedState::Ended);
    }
}
