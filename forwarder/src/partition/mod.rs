//! One partition of `OUTBOUND`. While the partition is this replica's, its conversations are worked
//! on, each in order and many at a time. What waits, waits here as a number, and the messages stay
//! in the stream. Does not know how a message is delivered.

pub mod lane;
pub mod partition_assignment;
pub mod standing;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use async_nats::jetstream::Message;
use contract::domain::{DeliveryState, LaneEntry};
use contract::subject::Outbound;
use contract::{Id, Timestamp, header, inventory};
use futures_util::future::OptionFuture;
use metrics::counter;
use runtime::CancellationToken;
use runtime::consume::pinned_consumer::{Arrival, ConsumerState, PinnedConsumer, Takeover};
use runtime::net::connection::Connection;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tracing::{info, warn};

use crate::bot::admission::{Admission, Permit};
use crate::delivery::forwarder::Forwarder;
use crate::delivery::work::{After, Content, LaneId, LaneItem, Outcome, Work};
use lane::Lanes;
use standing::Standing;

/// The pause before a lost partition is asked for again.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);
/// How often the server is asked for the state of a partition that nobody has taken over yet.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The state of a partition that this replica has taken over is asked for at every such look only.
const OWNED_LOOKS: u32 = 5;
/// How long calls under way may take before the partition is left to another replica: the longest
/// call, storing its result, and a little more.
const LEAVE_WITHIN: Duration = Duration::from_secs(25);
/// The lane of messages whose subject names no conversation. All of them share this lane, and become
/// dead letters in turn.
const NO_LANE: LaneId = (Id::from_bytes([0; 12]), Id::from_bytes([0; 12]));

/// One partition and its lanes.
pub struct Partition {
    number: u32,
    forwarder: Forwarder,
    admission: Arc<Admission>,
    assigned: watch::Receiver<BTreeSet<u32>>,
    released: watch::Receiver<u64>,
    standing: watch::Sender<Option<Standing>>,
    stop: CancellationToken,
    lanes: Lanes,
    /// The lanes that have an entry in the bucket `lanes`. The entry itself is kept from the takeover
    /// until its message comes.
    entries: HashMap<LaneId, Option<LaneEntry>>,
    /// Messages that are done with although the server has not confirmed their ack. If one of them
    /// comes again, only its ack is repeated.
    unsettled: HashSet<u64>,
    /// Acks under way. Each is for a message that the server counts as pending, so the consumer's
    /// `max_ack_pending` bounds them.
    settling: JoinSet<(u64, bool)>,
    /// An earlier owner may have called for messages up to this sequence.
    repeated_to: u64,
    work: JoinSet<Worked>,
}

/// The end of work on a message.
struct Worked {
    lane: LaneId,
    seq: u64,
    ack: Subject,
    outcome: Outcome,
}

/// What a replica has only while it asks for a partition or owns it.
struct Ownership {
    pinned: PinnedConsumer,
    /// Waits for a permit. A task of its own, because [`Admission::permit`] must not wait for other
    /// work.
    permit: JoinSet<Option<Permit>>,
    /// Asks for the partition's state. A task of its own, because an owner must always ask for
    /// messages to stay the owner.
    look: JoinSet<Option<ConsumerState>>,
    look_tick: Interval,
    looks: u32,
    /// The last message that had come when a look found messages missing.
    behind_at: Option<u64>,
}

impl Ownership {
    fn new(pinned: PinnedConsumer) -> Ownership {
        let mut look_tick = tokio::time::interval(LOOK_EVERY);
        look_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ownership {
            pinned,
            permit: JoinSet::new(),
            look: JoinSet::new(),
            look_tick,
            looks: 0,
            behind_at: None,
        }
    }

    fn look(&mut self, connection: &Connection, partition: u32) {
        self.looks = self.looks.wrapping_add(1);
        let is_due = self.pinned.seen().is_none() || self.looks.is_multiple_of(OWNED_LOOKS);
        if is_due && self.look.is_empty() {
            self.look.spawn(state_of(connection.clone(), partition));
        }
    }
}

impl Partition {
    /// Makes the partition, and the place where its standing can be read.
    pub fn new(
        number: u32,
        forwarder: Forwarder,
        admission: Arc<Admission>,
        assigned: watch::Receiver<BTreeSet<u32>>,
        stop: CancellationToken,
    ) -> (Partition, watch::Receiver<Option<Standing>>) {
        let released = forwarder.holds.released();
        let (standing, shown) = watch::channel(None);
        let partition = Partition {
            number,
            forwarder,
            admission,
            assigned,
            released,
            standing,
            stop,
            lanes: Lanes::default(),
            entries: HashMap::new(),
            unsettled: HashSet::new(),
            settling: JoinSet::new(),
            repeated_to: 0,
            work: JoinSet::new(),
        };
        (partition, shown)
    }

    /// Works on the partition whenever it is this replica's, until the stop.
    pub async fn run(mut self) {
        loop {
            if !self.is_assigned() {
                let stopped = self
                    .stop
                    .run_until_cancelled(self.assigned.changed())
                    .await
                    .is_none_or(|r| r.is_err());
                if stopped {
                    return;
                }
                continue;
            }
            let worked = match self.open().await {
                Ok(pinned) => self.own(pinned).await,
                Err(why) => Err(why),
            };
            self.forget();
            if let Err(why) = worked {
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

    fn is_assigned(&mut self) -> bool {
        self.assigned.borrow_and_update().contains(&self.number) && !self.stop.is_cancelled()
    }

    async fn open(&self) -> Result<PinnedConsumer, String> {
        PinnedConsumer::open(
            &self.forwarder.connection,
            inventory::OUTBOUND,
            inventory::forwarder(self.number),
            inventory::FORWARDER_GROUP,
        )
        .await
        .map_err(|e| e.to_string())
    }

    /// Works on the partition until it is to be left.
    ///
    /// # Errors
    /// Why the partition is lost.
    async fn own(&mut self, pinned: PinnedConsumer) -> Result<(), String> {
        let mut own = Ownership::new(pinned);
        while self.is_assigned() {
            if own.permit.is_empty() && self.lanes.has_ready() {
                own.permit.spawn(self.admission.clone().permit());
            }
            let next_due = self.lanes.next_due();
            let due = OptionFuture::from(next_due.map(tokio::time::sleep_until));
            let awaits_permit = !own.permit.is_empty();
            let awaits_look = !own.look.is_empty();
            let is_working = !self.work.is_empty();
            let is_settling = !self.settling.is_empty();
            let mut result = Ok(());
            tokio::select! {
                // An error means that the assignment has stopped, which the loop's condition shows.
                _ = self.assigned.changed() => {}
                arrival = own.pinned.next() => {
                    result = match arrival {
                        Ok(arrival) => self.arrive(arrival, &mut own.pinned).await,
                        Err(e) => Err(e.to_string()),
                    };
                }
                Some(permit) = own.permit.join_next(), if awaits_permit => {
                    if let Ok(Some(permit)) = permit {
                        self.start(permit);
                    }
                }
                _ = due, if next_due.is_some() => self.lanes.wake(Instant::now()),
                Some(worked) = self.work.join_next(), if is_working => self.worked(worked),
                Some(settled) = self.settling.join_next(), if is_settling => self.settled(settled),
                _ = self.released.changed() => self.release(),
                _ = own.look_tick.tick() => own.look(&self.forwarder.connection, self.number),
                Some(state) = own.look.join_next(), if awaits_look => {
                    // Without an answer there is nothing to judge. If the server is gone,
                    // `PinnedConsumer::next` fails.
                    if let Ok(Some(state)) = state {
                        result = self.judge(state, &mut own).await;
                    }
                }
            }
            if let Err(why) = result {
                own.pinned.release().await;
                return Err(why);
            }
        }
        self.leave(own.pinned).await;
        Ok(())
    }

    async fn arrive(
        &mut self,
        arrival: Arrival,
        pinned: &mut PinnedConsumer,
    ) -> Result<(), String> {
        match arrival {
            Arrival::Message(message) => self.add(&message),
            Arrival::Pin => self.take_over(pinned).await,
        }
    }

    async fn take_over(&mut self, pinned: &mut PinnedConsumer) -> Result<(), String> {
        let entries = self.forwarder.lane_store.load(self.number);
        let entries = entries.await.map_err(|e| e.to_string())?;
        let Takeover { delivered_to } = pinned.take_over().await.map_err(|e| e.to_string())?;
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
        let item = LaneItem {
            seq,
            log_position: header::log_position(inventory::OUTBOUND, seq, |name| {
                let headers = message.headers.as_ref()?;
                headers.get(name).map(|value| value.as_str())
            }),
            ack,
            calls: entry.as_ref().map_or(0, |e| e.attempts),
            repeated: seq <= self.repeated_to,
            not_before: retry_at.map(|at| Instant::now() + at.since((self.forwarder.clock)())),
            final_step: None,
            content: Some(content),
        };
        self.lanes.add(lane, item);
        Ok(())
    }

    /// Begins work on the message that has its turn.
    fn start(&mut self, permit: Permit) {
        let Some((lane, item)) = self.lanes.start() else {
            return;
        };
        let work = Work {
            partition: self.number,
            lane,
            has_entry: self.entries.contains_key(&lane),
            item,
        };
        let forwarder = self.forwarder.clone();
        let is_done = self.unsettled.contains(&work.item.seq);
        self.work.spawn(async move {
            let outcome = match is_done {
                true => forwarder.done(&work).await,
                false => forwarder.forward(&work, permit).await,
            };
            Worked {
                lane,
                seq: work.item.seq,
                ack: work.item.ack,
                outcome,
            }
        });
    }

    /// Takes the end of work on a message. Passes a panic on: the lane of that message would never go
    /// on, so the process must end for another one to take the partition over.
    fn worked(&mut self, worked: Result<Worked, JoinError>) {
        match worked {
            Ok(worked) => self.finish(worked),
            Err(error) => {
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic)
                }
            }
        }
    }

    fn finish(&mut self, worked: Worked) {
        let Worked {
            lane,
            seq,
            ack,
            outcome,
        } = worked;
        if outcome.has_entry {
            self.entries.entry(lane).or_default();
        } else {
            self.entries.remove(&lane);
        }
        if outcome.after == After::Next {
            // The lane's next message need not wait for this.
            self.unsettled.insert(seq);
            let forwarder = self.forwarder.clone();
            self.settling
                .spawn(async move { (seq, forwarder.settle(seq, ack).await) });
        }
        let held = match outcome.after {
            After::Hold { scope, .. } => Some(scope),
            _ => None,
        };
        self.lanes.finish(lane, seq, outcome.after);
        // The scope may have been released just before its lane was held here.
        if held.is_some_and(|scope| self.forwarder.holds.lets_some_go(scope)) {
            self.release();
        }
    }

    fn release(&mut self) {
        let holds = &self.forwarder.holds;
        self.lanes.release(|scope| holds.take_leave(scope));
    }

    /// Judges the partition's state at the server.
    ///
    /// # Errors
    /// Messages that the server has sent have not come within a look, so they are lost.
    async fn judge(&mut self, state: ConsumerState, own: &mut Ownership) -> Result<(), String> {
        let Some(seen) = own.pinned.seen() else {
            return match is_orphaned(state) {
                true => own.pinned.nudge().await.map_err(|e| e.to_string()),
                false => Ok(()),
            };
        };
        self.standing.send_replace(Some(Standing {
            consumer: state,
            lanes: self.lanes.counts(),
        }));
        let is_behind = state.delivered > seen;
        if is_behind && own.behind_at == Some(seen) {
            return Err(format!(
                "the server has sent {} messages that have not come",
                state.delivered - seen
            ));
        }
        own.behind_at = is_behind.then_some(seen);
        Ok(())
    }

    fn settled(&mut self, settled: Result<(u64, bool), JoinError>) {
        if let Ok((seq, true)) = settled {
            self.unsettled.remove(&seq);
        }
    }

    /// Waits for calls and acks under way, pinned meanwhile, and then leaves the partition.
    async fn leave(&mut self, mut pinned: PinnedConsumer) {
        let deadline = Instant::now() + LEAVE_WITHIN;
        while !self.work.is_empty() || !self.settling.is_empty() {
            tokio::select! {
                Some(settled) = self.settling.join_next() => self.settled(settled),
                Some(worked) = self.work.join_next() => {
                    if let Ok(worked) = worked {
                        self.finish(worked);
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
        self.standing.send_replace(None);
    }
}

async fn state_of(connection: Connection, partition: u32) -> Option<ConsumerState> {
    PinnedConsumer::state(
        &connection,
        inventory::OUTBOUND,
        &inventory::forwarder(partition),
    )
    .await
    .ok()
}

/// Whether all messages are with an owner who is gone, so that the server pins nobody. The server
/// pins a member only with a message, and has none that it could send: none is left, or the owner
/// has as many as it may.
fn is_orphaned(state: ConsumerState) -> bool {
    let sends_nothing =
        state.pending == 0 || state.in_work >= inventory::PARTITION_MAX_ACK_PENDING as u64;
    !state.pinned && state.in_work > 0 && sends_nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_dead_owner_are_asked_for_also_if_the_server_may_send_no_more() {
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
        // The next message pins somebody, or there is an owner, or there is no message.
        assert!(
            !of(7, MOST - 1, false) && !of(7, MOST, true) && !of(0, 1, true) && !of(0, 0, false)
        );
    }
}
