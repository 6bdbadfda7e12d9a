//! The conversations of one partition that have something to deliver. A lane is one conversation:
//! its messages in the log's order, of which only the first is ever in work. Holds numbers, not
//! messages: what waits, waits in the stream. No I/O, no clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use contract::domain::Provider;
use contract::{Id, Timestamp};
use tokio::time::Instant;

use crate::delivery::report::Ended;

/// Payloads that one partition keeps at hand, in bytes, so that a message that need not wait is not
/// read twice.
const KEPT_BYTES: usize = 2 * 1024 * 1024;

/// A conversation: company and contact.
pub type LaneId = (Id, Id);
/// What is held as one: a company's access to a platform.
pub type Scope = (Id, Provider);

/// A message's content, while it is at hand.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    /// Its subject in `OUTBOUND`.
    pub subject: Subject,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its payload.
    pub payload: Bytes,
    /// When `OUTBOUND` stored it.
    pub stored_at: Timestamp,
}

/// A message that awaits delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its sequence in `OUTBOUND`.
    pub seq: u64,
    /// Its place in the conversation: the sequence in `EVENTS`. A replayed message goes before what
    /// is newer than it; one whose place is not known goes to the end.
    pub order: Option<u64>,
    /// Where it is settled.
    pub ack: Subject,
    /// Calls made for it so far, as far as is known.
    pub calls: u32,
    /// An earlier owner may have called.
    pub repeated: bool,
    /// It is not called for before this, whatever else the lane has.
    pub not_before: Option<Instant>,
    /// How it has ended, if only that is still to be stored.
    pub ended: Option<Box<Ended>>,
    /// Its content, if at hand.
    pub content: Option<Content>,
}

/// What becomes of a lane after work on its first message.
#[derive(Clone, Debug, PartialEq)]
pub enum After {
    /// The message is settled; the next one's turn.
    Next,
    /// The same message again, not before.
    Wait {
        /// When.
        until: Instant,
        /// Calls made so far.
        calls: u32,
    },
    /// The same message again once the scope is released, or then.
    Hold {
        /// What is held.
        scope: Scope,
        /// The message's deadline.
        until: Instant,
        /// Calls made so far.
        calls: u32,
    },
    /// The same message again, not before, to store how it has ended.
    Conclude {
        /// When.
        until: Instant,
        /// How.
        ended: Box<Ended>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Ready,
    Waiting(Instant),
    Held(Scope, Instant),
}

struct Lane {
    items: VecDeque<Item>,
    state: State,
}

/// How many lanes and messages there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages, those in work included.
    pub messages: usize,
    /// Lanes.
    pub lanes: usize,
    /// Lanes that wait for a time.
    pub waiting: usize,
    /// Lanes that are held.
    pub held: usize,
}

/// All lanes of a partition.
#[derive(Default)]
pub struct Lanes {
    lanes: HashMap<LaneId, Lane>,
    /// Messages in work, by lane. They outlive [`Lanes::forget`], for a call cannot be taken back.
    working: HashMap<LaneId, u64>,
    ready: VecDeque<LaneId>,
    due: BinaryHeap<Reverse<(Instant, LaneId)>>,
    kept: usize,
}

impl Lanes {
    /// Adds a message at its place.
    pub fn add(&mut self, id: LaneId, mut item: Item) {
        let working = self.working.get(&id).copied();
        let lane = self.lanes.entry(id).or_insert_with(|| Lane {
            items: VecDeque::new(),
            state: State::Ready,
        });
        let newer = |other: &&Item| {
            item.order.is_some() && other.order > item.order && working != Some(other.seq)
        };
        let place = lane.items.len() - lane.items.iter().rev().take_while(newer).count();
        if place == 0 && working.is_none() {
            match item.content.as_ref().map(|c| c.payload.len()) {
                Some(bytes) if self.kept + bytes <= KEPT_BYTES => self.kept += bytes,
                _ => item.content = None,
            }
            lane.items.push_front(item);
            self.line_up(id);
        } else {
            item.content = None;
            lane.items.insert(place, item);
        }
    }

    /// The lane is ready, or waits for its first message's time.
    fn line_up(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        match lane.items.front().and_then(|first| first.not_before) {
            None => {
                lane.state = State::Ready;
                self.ready.push_back(id);
            }
            Some(at) => {
                lane.state = State::Waiting(at);
                self.due.push(Reverse((at, id)));
            }
        }
    }

    /// The first message of the lane whose turn it is. It is in work until [`Lanes::finish`].
    pub fn start(&mut self) -> Option<(LaneId, Item)> {
        while let Some(id) = self.ready.pop_front() {
            let Some(lane) = self.lanes.get_mut(&id) else {
                continue;
            };
            if lane.state != State::Ready || self.working.contains_key(&id) {
                continue;
            }
            let Some(first) = lane.items.front_mut() else {
                continue;
            };
            let content = first.content.take();
            self.kept -= content.as_ref().map_or(0, |c| c.payload.len());
            self.working.insert(id, first.seq);
            return Some((
                id,
                Item {
                    content,
                    ..first.clone()
                },
            ));
        }
        None
    }

    /// Ends the work on a message.
    pub fn finish(&mut self, id: LaneId, seq: u64, after: After) {
        self.working.remove(&id);
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        // Else the server has sent everything again since: the lane begins with something else.
        if let Some(first) = lane.items.front_mut().filter(|first| first.seq == seq) {
            let (until, scope) = match after {
                After::Next => (None, None),
                After::Wait { until, calls } => {
                    first.calls = calls;
                    (Some(until), None)
                }
                After::Hold {
                    scope,
                    until,
                    calls,
                } => {
                    first.calls = calls;
                    (Some(until), Some(scope))
                }
                After::Conclude { until, ended } => {
                    first.ended = Some(ended);
                    (Some(until), None)
                }
            };
            if let Some(until) = until {
                // What goes before it meanwhile does not make its own time come.
                first.not_before = scope.is_none().then_some(until);
                lane.state = scope.map_or(State::Waiting(until), |scope| State::Held(scope, until));
                self.due.push(Reverse((until, id)));
                return;
            }
            lane.items.pop_front();
        }
        if lane.items.is_empty() {
            self.lanes.remove(&id);
        } else {
            self.line_up(id);
        }
    }

    /// Lanes whose time has come are ready.
    pub fn wake(&mut self, now: Instant) {
        while let Some(Reverse((at, id))) = self.due.peek().copied() {
            if at > now {
                return;
            }
            self.due.pop();
            if let Some(lane) = self.lanes.get_mut(&id)
                && matches!(lane.state, State::Waiting(until) | State::Held(_, until) if until == at)
            {
                lane.state = State::Ready;
                self.ready.push_back(id);
            }
        }
    }

    /// Held lanes that may go are ready. It asks for each.
    pub fn release(&mut self, may_go: impl Fn(Scope) -> bool) {
        for (id, lane) in &mut self.lanes {
            if matches!(lane.state, State::Held(scope, _) if may_go(scope)) {
                lane.state = State::Ready;
                self.ready.push_back(*id);
            }
        }
    }

    /// When [`Lanes::wake`] has something to do next.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// Whether [`Lanes::start`] may have something.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Forgets everything but what is in work: the server sends it again, or another forwarder has
    /// it now.
    pub fn forget(&mut self) {
        (self.lanes, self.ready, self.due, self.kept) =
            (HashMap::new(), VecDeque::new(), BinaryHeap::new(), 0);
    }

    /// How many there are.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            lanes: self.lanes.len(),
            ..Counts::default()
        };
        for lane in self.lanes.values() {
            counts.messages += lane.items.len();
            match lane.state {
                State::Waiting(_) => counts.waiting += 1,
                State::Held(..) => counts.held += 1,
                State::Ready => {}
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests;
