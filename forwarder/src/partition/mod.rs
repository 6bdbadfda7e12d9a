//! One partition of `OUTBOUND`: while it is this replica's, its conversations are worked off, each
//! in order, many at a time. Waiting is done here, by number; the messages stay in the stream.
//! Knows nothing of how a message is delivered.

pub mod lane;
pub mod partition_assignment;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::Message;
use contract::domain::{DeliveryState, LaneEntry};
use contract::inventory;
use contract::subject::Outbound;
use contract::{Id, Timestamp};
use futures_util::future::OptionFuture;
use metrics::{counter, gauge};
use runtime::CancellationToken;
use runtime::consume::pinned_consumer::{Arrival, ConsumerState, PinnedConsumer, Takeover};
use runtime::net::connection::Connection;
use runtime::service::health::Health;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::bot::admission::{Gate, Pass};
use crate::delivery::forward::{Forwarder, Outcome, Work};
use crate::delivery::lane_store::order_of;
use crate::partition::lane::{After, Content, Counts, Item, LaneId, Lanes};

/// A partition that was lost is asked for again after this.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);
/// How often the server is asked how a partition stands that nobody has taken over yet, …
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// … and, as a multiple of it, one that has been.
const OWNED_LOOKS: u32 = 5;
/// Calls under way have so long to end before a partition is left to another: the longest call,
/// storing its result, and a little.
const LEAVE_WITHIN: Duration = Duration::from_secs(25);
/// Conversation of a message whose subject names none: all such share a lane, and become dead
/// letters in turn.
const NO_LANE: LaneId = (Id::from_bytes([0; 12]), Id::from_bytes([0; 12]));
/// So many messages that no forwarder has seen, and this one is not ready. Generous: a bot that was
/// down leaves a backlog.
const READY_PENDING: u64 = 1_000_000;

/// How the partitions of this replica stand, by number.
pub type Standings = Arc<Mutex<HashMap<u32, (ConsumerState, Counts)>>>;

/// What a partition is worked off with.
pub struct Partition {
    number: u32,
    forwarder: Forwarder,
    gate: Arc<Gate>,
    mine: watch::Receiver<BTreeSet<u32>>,
    released: watch::Receiver<u64>,
    standings: Standings,
    stop: CancellationToken,
    lanes: Lanes,
    /// What the bucket says of lanes, from when the partition was taken over; later only which have
    /// an entry.
    entries: HashMap<LaneId, Option<LaneEntry>>,
    /// Messages that are done with although the server has not confirmed it.
    unsettled: HashSet<u64>,
    /// Messages up to this one may have been called for by an earlier owner.
    repeated_to: u64,
    work: JoinSet<(LaneId, u64, Outcome)>,
}

impl Partition {
    /// Nothing happens yet.
    pub fn new(
        number: u32,
        forwarder: Forwarder,
        gate: Arc<Gate>,
        mine: watch::Receiver<BTreeSet<u32>>,
        standings: Standings,
        stop: CancellationToken,
    ) -> Partition {
        let released = forwarder.holds.released();
        Partition {
            number,
            forwarder,
            gate,
            mine,
            released,
            standings,
            stop,
            lanes: Lanes::default(),
            entries: HashMap::new(),
            unsettled: HashSet::new(),
            repeated_to: 0,
            work: JoinSet::new(),
        }
    }

    /// Works it off whenever it is this replica's, until stopped.
    pub async fn run(mut self) {
        loop {
            if !self.is_mine() {
                let stopped = self
                    .stop
                    .run_until_cancelled(self.mine.changed())
                    .await
                    .is_none_or(|r| r.is_err());
                if stopped {
                    return;
                }
                continue;
            }
            let connection = &self.forwarder.connection;
            let consumer = inventory::forwarder(self.number);
            let why = match PinnedConsumer::open(
                connection,
                inventory::OUTBOUND,
                consumer,
                inventory::FORWARDER_GROUP,
            )
            .await
            {
                Ok(pinned) => self.own(pinned).await,
                Err(why) => Some(why),
            };
            self.forget();
            if let Some(why) = why {
                counter!("partitions_lost_total").increment(1);
                warn!(
                    partition = self.number,
                    why, "the partition is asked for again"
                );
                let _ = self
                    .stop
                    .run_until_cancelled(tokio::time::sleep(REOPEN_PAUSE))
                    .await;
            }
        }
    }

    fn is_mine(&mut self) -> bool {
        self.mine.borrow_and_update().contains(&self.number) && !self.stop.is_cancelled()
    }

    /// Until the partition is to be left, or is lost: then says why.
    async fn own(&mut self, mut pinned: PinnedConsumer) -> Option<String> {
        // A task of its own: whoever has its turn at the gate must not wait for what is done here.
        let mut pass: JoinSet<Option<Pass>> = JoinSet::new();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Likewise: an owner stays one by asking for messages, whatever else it asks.
        let mut looking: JoinSet<Option<ConsumerState>> = JoinSet::new();
        let (mut looks, mut behind_at) = (0_u32, None);
        while self.is_mine() {
            if pass.is_empty() && self.lanes.has_ready() {
                pass.spawn(self.gate.clone().pass());
            }
            let due = OptionFuture::from(self.lanes.next_due().map(tokio::time::sleep_until));
            let waits = (
                !pass.is_empty(),
                self.lanes.next_due().is_some(),
                !self.work.is_empty(),
                !looking.is_empty(),
            );
            tokio::select! {
                // A sender that is gone has stopped.
                _ = self.mine.changed() => {}
                arrival = pinned.next() => {
                    let taken = match arrival {
                        Ok(Arrival::Message(message)) => self.add(&message),
                        Ok(Arrival::Pin) => self.take_over(&mut pinned).await,
                        Err(why) => Err(why),
                    };
                    if let Err(why) = taken {
                        pinned.release().await;
                        return Some(why);
                    }
                }
                Some(got) = pass.join_next(), if waits.0 => if let Ok(Some(pass)) = got { self.start(pass) },
                _ = due, if waits.1 => self.lanes.wake(Instant::now()),
                Some(ended) = self.work.join_next(), if waits.2 => match ended {
                    Ok((lane, seq, outcome)) => self.finish(lane, seq, outcome),
                    // Its lane would never go on: the process ends, and another one takes the
                    // partition over.
                    Err(error) => if let Ok(panic) = error.try_into_panic() { std::panic::resume_unwind(panic) },
                },
                _ = self.released.changed() => self.release(),
                _ = look.tick() => {
                    looks = looks.wrapping_add(1);
                    if looking.is_empty() && (pinned.seen().is_none() || looks.is_multiple_of(OWNED_LOOKS)) {
                        looking.spawn(look_at(self.forwarder.connection.clone(), self.number));
                    }
                }
                Some(looked) = looking.join_next(), if waits.3 => {
                    // Without an answer there is nothing to see; a server that is gone ends the
                    // pull.
                    if let Ok(Some(standing)) = looked
                        && let Err(why) = self.judge(standing, &mut pinned, &mut behind_at).await
                    {
                        pinned.release().await;
                        return Some(why);
                    }
                }
            }
        }
        self.leave(pinned).await;
        None
    }

    async fn take_over(&mut self, pinned: &mut PinnedConsumer) -> Result<(), String> {
        let entries = self.forwarder.entries.load(self.number).await?;
        let Takeover { delivered_to } = pinned.take_over().await?;
        self.lanes.forget();
        self.repeated_to = delivered_to;
        self.entries = entries
            .into_iter()
            .map(|(lane, entry)| (lane, Some(entry)))
            .collect();
        info!(
            partition = self.number,
            delivered_to,
            entries = self.entries.len(),
            "partition taken over"
        );
        Ok(())
    }

    fn add(&mut self, message: &Message) -> Result<(), String> {
        let info = message.info().map_err(|e| e.to_string())?;
        let (seq, stored_at) = (info.stream_sequence, Timestamp::from(info.published));
        let ack = message
            .reply
            .clone()
            .ok_or("a message without a reply subject")?;
        let lane = message
            .subject
            .parse()
            .map_or(NO_LANE, |o: Outbound| (o.company, o.contact));
        let entry = self
            .entries
            .get_mut(&lane)
            .and_then(|entry| entry.take_if(|e| e.seq == seq));
        let content = Content {
            subject: message.subject.clone(),
            headers: message.headers.clone().unwrap_or_default(),
            payload: message.payload.clone(),
            stored_at,
        };
        let retry_at = entry
            .as_ref()
            .filter(|e| e.state == DeliveryState::Retrying)
            .and_then(|e| e.next_attempt_at);
        let item = Item {
            seq,
            order: order_of(message),
            ack,
            calls: entry.as_ref().map_or(0, |e| e.attempts),
            repeated: seq <= self.repeated_to,
            not_before: retry_at.map(|at| Instant::now() + at.since((self.forwarder.clock)())),
            ended: None,
            content: Some(content),
        };
        self.lanes.add(lane, item);
        Ok(())
    }

    /// Begins work on the message whose turn it is.
    fn start(&mut self, pass: Pass) {
        let Some((lane, item)) = self.lanes.start() else {
            return;
        };
        let work = Work {
            partition: self.number,
            lane,
            has_entry: self.entries.contains_key(&lane),
            item,
        };
        let (forwarder, done) = (
            self.forwarder.clone(),
            self.unsettled.contains(&work.item.seq),
        );
        self.work.spawn(async move {
            let outcome = match done {
                true => forwarder.settle(&work).await,
                false => forwarder.forward(&work, pass).await,
            };
            (lane, work.item.seq, outcome)
        });
    }

    fn finish(&mut self, lane: LaneId, seq: u64, outcome: Outcome) {
        if outcome.has_entry {
            self.entries.entry(lane).or_default();
        } else {
            self.entries.remove(&lane);
        }
        if outcome.unsettled {
            self.unsettled.insert(seq);
        } else {
            self.unsettled.remove(&seq);
        }
        let held = if let After::Hold { scope, .. } = outcome.after {
            Some(scope)
        } else {
            None
        };
        self.lanes.finish(lane, seq, outcome.after);
        // Its scope may have been released while the message was on its way to be held.
        if held.is_some_and(|scope| self.forwarder.holds.lets_some_go(scope)) {
            self.release();
        }
    }

    fn release(&mut self) {
        let holds = &self.forwarder.holds;
        self.lanes.release(|scope| holds.may_go(scope));
    }

    /// How the partition stands at the server. A message that it has sent and that has not come
    /// within a look is lost.
    async fn judge(
        &mut self,
        standing: ConsumerState,
        pinned: &mut PinnedConsumer,
        behind_at: &mut Option<u64>,
    ) -> Result<(), String> {
        let Some(seen) = pinned.seen() else {
            return if is_orphaned(standing) {
                pinned.nudge().await
            } else {
                Ok(())
            };
        };
        self.standings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.number, (standing, self.lanes.counts()));
        let behind = standing.delivered > seen;
        if behind && *behind_at == Some(seen) {
            return Err(format!(
                "the server has sent {} messages that have not come",
                standing.delivered - seen
            ));
        }
        *behind_at = behind.then_some(seen);
        Ok(())
    }

    /// Lets calls end, staying pinned meanwhile, and then lets go.
    async fn leave(&mut self, mut pinned: PinnedConsumer) {
        let deadline = Instant::now() + LEAVE_WITHIN;
        while !self.work.is_empty() {
            tokio::select! {
                Some(ended) = self.work.join_next() => {
                    if let Ok((lane, seq, outcome)) = ended {
                        self.finish(lane, seq, outcome);
                    }
                }
                arrival = pinned.next() => if arrival.is_err() { break },
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        pinned.release().await;
        info!(partition = self.number, "partition left");
    }

    fn forget(&mut self) {
        self.lanes.forget();
        self.entries.clear();
        self.standings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.number);
    }
}

async fn look_at(connection: Connection, partition: u32) -> Option<ConsumerState> {
    PinnedConsumer::state(
        &connection,
        inventory::OUTBOUND,
        &inventory::forwarder(partition),
    )
    .await
    .ok()
}

/// Whether the server has nothing that it could send to pin somebody: all is with an owner who is
/// gone, or as much as may be.
fn is_orphaned(standing: ConsumerState) -> bool {
    let sends_nothing =
        standing.pending == 0 || standing.in_work >= inventory::PARTITION_MAX_ACK_PENDING as u64;
    !standing.pinned && standing.in_work > 0 && sends_nothing
}

/// Shows in health and metrics how this replica's partitions stand, until stopped.
pub async fn show(
    standings: Standings,
    mine: watch::Receiver<BTreeSet<u32>>,
    holds: crate::delivery::token_holds::Holds,
    health: Health,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(Duration::from_secs(2));
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let (mut pending, mut in_work, mut all) = (0, 0, Counts::default());
        for (standing, counts) in standings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            pending += standing.pending;
            in_work += standing.in_work;
            all.lanes += counts.lanes;
            all.messages += counts.messages;
            all.waiting += counts.waiting;
            all.held += counts.held;
        }
        let partitions: Vec<u32> = mine.borrow().iter().copied().collect();
        gauge!("partitions").set(partitions.len() as f64);
        gauge!("outbound_pending_messages").set(pending as f64);
        gauge!("outbound_in_work_messages").set(in_work as f64);
        gauge!("lanes").set(all.lanes as f64);
        gauge!("lanes_waiting").set(all.waiting as f64);
        gauge!("lanes_held").set(all.held as f64);
        let detail = json!({
            "pending": pending, "in_work": in_work, "limit": READY_PENDING, "partitions": partitions,
            "lanes": all.lanes, "waiting": all.waiting, "held": all.held, "holds": holds.len(),
        });
        if pending <= READY_PENDING {
            health.good("lag", detail)
        } else {
            health.bad("lag", detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_owner_has_left_is_asked_for_also_when_no_more_may_be_sent() {
        const MOST: u64 = inventory::PARTITION_MAX_ACK_PENDING as u64;
        let of = |pending, in_work, pinned| {
            is_orphaned(ConsumerState {
                pending,
                in_work,
                delivered: 0,
                pinned,
            })
        };
        assert!(of(0, 1, false) && of(7, MOST, false));
        // The next message pins somebody; or there is an owner; or there is nothing.
        assert!(
            !of(7, MOST - 1, false) && !of(7, MOST, true) && !of(0, 1, true) && !of(0, 0, false)
        );
    }
}
