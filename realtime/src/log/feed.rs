//! One company's subscriptions: stored events as the server republishes them, typing, and who is
//! online. Each is turned into a frame once and queued for the sockets. Where something may not
//! have arrived here it is read from the log before anything newer is handed out. What tells of it:
//! - the connection was made anew since the last message (counted before the subscriptions are, so
//!   nothing slips by);
//! - the client says that the connection is lost, or that a subscription was too slow for it;
//! - a message names the one before it on its subject, and that was not handed out;
//! - the log has another leader (`leader`): the one that died may have stored something and not
//!   passed it on;
//! - now and then the log is asked for the company's last sequence, whatever has happened.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use contract::{Id, header, inventory, subject};
use futures_util::StreamExt;
use metrics::counter;
use runtime::log::direct_get;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use crate::cluster::heartbeat;
use crate::log::merge::{self, Merged};
use crate::node::Node;
use crate::room::close_reason::CloseReason;
use crate::room::payload::{self, ResyncReason};
use crate::room::presence::{Said, Users};
use crate::room::typing::{Typing, Typists};
use crate::room::{FeedState, Room};

/// The subscriptions outlive the last socket by so much: a page that reloads finds them standing.
const GRACE: Duration = Duration::from_secs(5);
/// Who is here is said so long after it has changed: a page that loads changes it several times.
const SAY_AFTER: Duration = Duration::from_millis(250);
/// It is said again after this, should it have got lost.
const SAY_AGAIN: Duration = Duration::from_secs(30);
/// How often the log is asked whether something has not arrived.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// So long the sockets wait while NATS is away or what was missed cannot be read; then they are
/// sent away with 1013.
const REPAIR_DEADLINE: Duration = Duration::from_secs(60);
/// Pause between tries.
const REPAIR_PAUSE: Duration = Duration::from_millis(100);
/// Events of one read.
const PAGE_EVENTS: usize = 500;

/// Follows a company until its last socket is gone, or the service stops.
pub async fn run(node: Node, company: Arc<Room>) {
    // However this task ends, nobody is left waiting for events that will not come.
    let end = End {
        node: &node,
        company: &company,
    };
    let opened = node
        .stop()
        .run_until_cancelled(Feed::open(&node, &company))
        .await;
    let Some(Some(mut feed)) = opened else { return };
    company.feed.send_replace(FeedState::Live);
    debug!(company = %company.id, "feed open");
    match node.stop().run_until_cancelled(feed.follow()).await {
        // The lifecycle sends the sockets away, with what waits for them.
        None => std::mem::forget(end),
        Some(Ok(())) => debug!(company = %company.id, "feed closed"),
        Some(Err(Lost)) => {
            counter!("realtime_feeds_lost_total").increment(1);
            error!(company = %company.id, "the log cannot be followed; the company's sockets are sent away");
            // The node goes on, and others would believe for as long that they are here.
            feed.publish(&Said {
                node: node.connection().instance.to_string(),
                ask: false,
                users: Users::new(),
            })
            .await;
        }
    }
}

/// The company's events cannot be had any more.
struct Lost;

struct End<'a> {
    node: &'a Node,
    company: &'a Arc<Room>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.node.hub().remove(self.company);
        self.company.feed.send_replace(FeedState::Ended);
        self.company.end_all(CloseReason::FeedLost);
    }
}

struct Feed<'a> {
    node: &'a Node,
    company: &'a Arc<Room>,
    live: Merged,
    typing: Subscriber,
    typists: Typists,
    presence: Subscriber,
    /// What was said last of who is here, and when it is said again.
    said: Users,
    said_at: Instant,
    say_at: Instant,
    /// How many leaders the log had had when what was handed out was right.
    leaders: u64,
    /// Others shall say what they have, too.
    ask: bool,
    check_at: Instant,
    empty_until: Option<Instant>,
    gaps: watch::Receiver<u64>,
    /// The connection that everything up to now has come by.
    connects: u64,
}

impl<'a> Feed<'a> {
    /// The subscriptions, known to the server.
    async fn open(node: &'a Node, company: &'a Arc<Room>) -> Option<Feed<'a>> {
        let opened = async {
            let feed = Feed::subscribe(node, company).await?;
            // The stream's leader answers after the subscriptions have passed it on the same way:
            // what it stores from now on comes.
            let bounds = direct_get::bounds(node.connection(), inventory::EVENTS).await?;
            company.begin(bounds.last_seq);
            Ok::<_, String>(feed)
        };
        let opened = opened.await;
        if let Err(e) = &opened {
            counter!("realtime_feed_open_failed_total").increment(1);
            warn!(company = %company.id, error = e, "the log cannot be followed");
        }
        opened.ok()
    }

    /// The subscriptions, on their way to the server.
    async fn subscribe(node: &'a Node, company: &'a Arc<Room>) -> Result<Feed<'a>, String> {
        let (connection, id) = (node.connection(), company.id);
        let mut gaps = connection.gaps();
        gaps.mark_unchanged();
        let connects = connection.connects();
        let subscribe = |subject: String| async {
            connection
                .client
                .subscribe(subject)
                .await
                .map_err(|e| e.to_string())
        };
        let messages = subscribe(subject::live_of_company(id)).await?;
        let refreshes = subscribe(subject::live_refresh_failed_of_company(id)).await?;
        let typing = subscribe(subject::typing_of_company(id)).await?;
        let presence = subscribe(subject::presence_of_company(id)).await?;
        let now = Instant::now();
        Ok(Feed {
            node,
            company,
            live: Merged::new(messages, refreshes),
            typing,
            typists: Typists::default(),
            presence,
            said: Users::new(),
            said_at: now,
            say_at: now,
            leaders: node.leader_changes(),
            ask: true,
            check_at: now + CHECK_INTERVAL,
            empty_until: None,
            gaps,
            connects,
        })
    }

    /// Until nobody is in any more.
    async fn follow(&mut self) -> Result<(), Lost> {
        while !self.is_over() {
            let due = self.due();
            tokio::select! {
                _ = self.gaps.changed() => self.repair("connection").await?,
                message = self.live.next() => self.on_live(&message.ok_or(Lost)?).await?,
                message = self.typing.next() => self.on_typing(&message.ok_or(Lost)?),
                message = self.presence.next() => self.on_presence(&message.ok_or(Lost)?),
                () = self.company.presence_wanted.notified() => (self.ask, self.say_at) = (true, Instant::now()),
                () = self.company.users_changed.notified() => self.say_at = self.say_at.min(Instant::now() + SAY_AFTER),
                () = self.company.emptied.notified() => self.empty_until = Some(Instant::now() + GRACE),
                () = sleep_until(due) => self.on_time(Instant::now()).await?,
            }
        }
        Ok(())
    }

    /// Whether nobody has come since the last one left; then the company is closed.
    fn is_over(&mut self) -> bool {
        let is_over = self
            .empty_until
            .is_some_and(|until| until <= Instant::now());
        if is_over {
            self.empty_until = None;
        }
        is_over && self.node.hub().remove_if_empty(self.company)
    }

    fn due(&self) -> Instant {
        let sooner = [
            Some(self.say_at),
            self.empty_until,
            self.typists.next_stop(),
        ];
        sooner
            .into_iter()
            .flatten()
            .fold(self.check_at, Instant::min)
    }

    async fn on_time(&mut self, now: Instant) -> Result<(), Lost> {
        for (conversation, typing) in self.typists.stopped(now) {
            self.tell_typing(conversation, typing);
        }
        if now >= self.say_at {
            self.say(now).await;
        }
        if now >= self.check_at {
            self.check_at = now + CHECK_INTERVAL;
            self.check().await?;
        }
        Ok(())
    }

    async fn on_live(&mut self, message: &Message) -> Result<(), Lost> {
        let Some(seq) = merge::seq(message) else {
            skip(self.company, "not republished", None);
            return Ok(());
        };
        if self.gaps.has_changed().unwrap_or(true)
            || self.connects != self.node.connection().connects()
        {
            self.repair("connection").await?;
        } else if before(message).is_some_and(|before| before > self.company.last_seq()) {
            self.repair("subject").await?;
        }
        self.deliver(seq, payload::of_live(message));
        Ok(())
    }

    fn deliver(&self, seq: u64, frame: Option<crate::room::frame::Frame>) -> bool {
        let reached = self.company.deliver(seq, frame);
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
            return skip(self.company, "unreadable", None);
        };
        if self.typists.hear(conversation, typing, Instant::now()) {
            self.tell_typing(conversation, typing);
        }
    }

    fn tell_typing(&self, conversation: Id, typing: Typing) {
        match payload::of_typing(conversation, typing) {
            Ok(frame) => self
                .node
                .metrics()
                .delivered(
                    self.company
                        .deliver_to_joined(conversation, typing.socket, &frame),
                ),
            Err(_) => skip(self.company, "unwritable", None),
        }
    }

    fn on_presence(&mut self, message: &Message) {
        let Ok(said) = serde_json::from_slice::<Said>(&message.payload) else {
            return skip(self.company, "unreadable", None);
        };
        // Heard from a node that is forgotten already, it would otherwise never be forgotten again.
        if !heartbeat::hear(self.node, &said.node) {
            return skip(self.company, "too many nodes", None);
        }
        if said.ask && said.node != *self.node.connection().instance {
            self.said = Users::new();
            self.say_at = self.say_at.min(Instant::now() + SAY_AFTER);
        }
        self.node
            .metrics()
            .delivered(self.company.set_users_of_node(&said.node, said.users));
    }

    /// Tells all nodes, this one too, who is here, if that has changed or was not said for long.
    async fn say(&mut self, now: Instant) {
        let users = self.company.users();
        let is_news = self.ask || users != self.said || now >= self.said_at + SAY_AGAIN;
        self.say_at = now + SAY_AGAIN;
        if !is_news {
            return;
        }
        let said = Said {
            node: self.node.connection().instance.to_string(),
            ask: self.ask,
            users,
        };
        if self.publish(&said).await {
            self.said = said.users;
            self.said_at = now;
            self.ask = false;
        } else {
            self.say_at = Instant::now() + SAY_AFTER; // the try has taken its time
        }
    }

    /// Tells all nodes; whether it went out.
    async fn publish(&self, said: &Said) -> bool {
        let connection = self.node.connection();
        let Ok(payload) = serde_json::to_vec(said) else {
            skip(self.company, "unwritable", None);
            return false;
        };
        // Without a connection it would lie in the client's buffer and be told when it is no longer
        // true.
        if !connection.is_connected() {
            return false;
        }
        let published = connection.client.publish(
            subject::presence_of_company(self.company.id),
            payload.into(),
        );
        matches!(timeout(SAY_AFTER, published).await, Ok(Ok(())))
    }

    /// Asks the log whether it has something that should have come by now.
    async fn check(&mut self) -> Result<(), Lost> {
        let filter = subject::of_company(self.company.id);
        let last =
            direct_get::last_seq_of_a_replica(self.node.connection(), inventory::EVENTS, &filter)
                .await;
        match last {
            // It may only be on its way; reading it does no harm then.
            Ok(last) if last > self.company.last_seq() => self.repair("check").await,
            // Without an answer there is a gap of the connection, or the next check.
            _ => Ok(()),
        }
    }

    /// Hands out what the log has beyond what was handed out. What comes again by the subscriptions
    /// later is passed over.
    async fn repair(&mut self, reason: &'static str) -> Result<(), Lost> {
        let deadline = Instant::now() + REPAIR_DEADLINE;
        loop {
            match self.try_repair().await {
                Ok(found) => {
                    if found > 0 {
                        counter!("realtime_repaired_total", "reason" => reason).increment(found);
                        info!(company = %self.company.id, reason, found, "events that had not arrived were read from the log");
                    }
                    return Ok(());
                }
                Err(error) if Instant::now() >= deadline => {
                    error!(company = %self.company.id, error, "what was missed cannot be read");
                    return Err(Lost);
                }
                Err(_) => sleep(REPAIR_PAUSE).await,
            }
        }
    }

    /// One try; how many events were handed out.
    async fn try_repair(&mut self) -> Result<u64, String> {
        let connection = self.node.connection();
        if !connection.is_connected() {
            return Err("not connected to NATS".into());
        }
        // What changes from here on is looked at again.
        self.gaps.mark_unchanged();
        self.connects = connection.connects();
        (self.ask, self.say_at) = (true, Instant::now());
        let filter = subject::of_company(self.company.id);
        let target = direct_get::last_seq(connection, inventory::EVENTS, &filter).await?;
        let mut found = 0;
        while self.company.last_seq() < target {
            let _turn = self.node.repair_permit().await?;
            let from = self.company.last_seq() + 1;
            let page =
                direct_get::page(connection, inventory::EVENTS, &filter, from, PAGE_EVENTS).await?;
            if page.is_empty() {
                return Err("a replica is behind".into());
            }
            found += page
                .iter()
                .filter(|stored| self.deliver(stored.seq, payload::of_stored(stored)))
                .count() as u64;
        }
        let leaders = self.node.leader_changes();
        if leaders != self.leaders {
            self.verify().await?;
            self.leaders = leaders;
        }
        Ok(found)
    }

    /// Compares what was handed out lately with the log.
    async fn verify(&self) -> Result<(), String> {
        let filter = subject::of_company(self.company.id);
        let mut from = self.company.remembers_after() + 1;
        while from <= self.company.last_seq() {
            let _turn = self.node.repair_permit().await?;
            let page = direct_get::page(
                self.node.connection(),
                inventory::EVENTS,
                &filter,
                from,
                PAGE_EVENTS,
            )
            .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            from = last.seq + 1;
            if page.iter().any(|stored| {
                self.company.has_missed(stored.seq) && payload::of_stored(stored).is_some()
            }) {
                error!(company = %self.company.id, "an event was passed over; the clients have to fetch");
                counter!("realtime_resyncs_total", "reason" => ResyncReason::Late.as_str())
                    .increment(1);
                self.company.resync_all(ResyncReason::Late);
                return Ok(());
            }
        }
        Ok(())
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

fn skip(company: &Room, reason: &'static str, seq: Option<u64>) {
    counter!("realtime_skipped_total", "reason" => reason).increment(1);
    warn!(company = %company.id, reason, seq, "an event was not delivered");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tests::unconnected;

    fn id(n: u8) -> Id {
        Id::from_bytes([n; 12])
    }

    fn message(payload: Vec<u8>) -> Message {
        let (subject, length) = ("presence".into(), payload.len());
        Message {
            subject,
            reply: None,
            payload: payload.into(),
            headers: None,
            status: None,
            description: None,
            length,
        }
    }

    fn said(node: &str, user: u8) -> Message {
        message(
            serde_json::to_vec(&Said {
                node: node.into(),
                ask: false,
                users: [(id(user), [].into())].into(),
            })
            .unwrap(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_here_is_said_again_soon_if_it_did_not_go_out() {
        let (node, company) = (unconnected().await, Arc::new(Room::new(id(0xaa))));
        let (mut feed, now) = (
            Feed::subscribe(&node, &company).await.unwrap(),
            Instant::now(),
        );
        feed.say(now).await;
        assert_eq!((feed.say_at, feed.ask), (now + SAY_AFTER, true));
    }

    #[tokio::test]
    async fn what_is_heard_of_a_node_that_is_forgotten_already_is_forgotten_with_it() {
        let (node, company) = (unconnected().await, Arc::new(Room::new(id(0xaa))));
        let mut feed = Feed::subscribe(&node, &company).await.unwrap();
        feed.on_presence(&said("there", 1));
        feed.on_presence(&said(&node.connection().instance, 2));
        assert!(
            node.membership().tracks("there")
                && !node.membership().tracks(&node.connection().instance)
        );
    }
}
