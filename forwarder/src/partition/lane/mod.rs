//! The conversations of one partition that have something to deliver. A lane is one conversation:
//! its messages in the log's order, of which only the first is ever in work. A lane has numbers, not
//! messages; the messages wait in the stream. No I/O, no clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use tokio::time::Instant;

use crate::delivery::work::{After, LaneId, LaneItem, Scope};

/// Bytes of payloads that one partition keeps in memory at most. A message beyond that is read from
/// the stream once more when it has its turn.
const KEPT_BYTES: usize = 2 * 1024 * 1024;
/// Of these, the bytes for messages that await an earlier one of their lane. The rest is for the
/// first messages, so that a long lane does not take the memory of all others.
const KEPT_BEHIND_BYTES: usize = KEPT_BYTES / 2;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Ready,
    Waiting(Instant),
    Held(Scope, Instant),
}

impl LaneItem {
    /// Bytes of its payload in memory.
    fn kept_bytes(&self) -> usize {
        self.content.as_ref().map_or(0, |c| c.payload.len())
    }
}

struct Lane {
    items: VecDeque<LaneItem>,
    state: State,
}

/// How many lanes and messages there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages, those in work included.
    pub messages: usize,
    pub lanes: usize,
    /// Lanes that wait for a time.
    pub waiting: usize,
    /// Lanes whose scope is held.
    pub held: usize,
}

/// All lanes of a partition.
#[derive(Default)]
pub struct Lanes {
    lanes: HashMap<LaneId, Lane>,
    /// Sequences of the messages in work, by lane. They outlive [`Lanes::forget`], because a call cannot
    /// be taken back.
    working: HashMap<LaneId, u64>,
    ready: VecDeque<LaneId>,
    due: BinaryHeap<Reverse<(Instant, LaneId)>>,
    /// Bytes of payloads in memory.
    kept_bytes: usize,
}

impl Lanes {
    /// Adds a message before all newer messages of its lane, but not before the one in work.
    pub fn add(&mut self, id: LaneId, mut item: LaneItem) {
        let working = self.working.get(&id).copied();
        let lane = self.lanes.entry(id).or_insert_with(|| Lane {
            items: VecDeque::new(),
            state: State::Ready,
        });
        let is_newer = |other: &&LaneItem| {
            item.log_position.is_some()
                && other.log_position > item.log_position
                && working != Some(other.seq)
        };
        let index = lane.items.len() - lane.items.iter().rev().take_while(is_newer).count();
        let is_first = index == 0 && working.is_none();
        let limit = match is_first {
            true => KEPT_BYTES,
            false => KEPT_BEHIND_BYTES,
        };
        let bytes = item.kept_bytes();
        match self.kept_bytes + bytes <= limit {
            true => self.kept_bytes += bytes,
            false => item.content = None,
        }
        lane.items.insert(index, item);
        if is_first {
            self.line_up(id);
        }
    }

    /// Makes the lane ready, or lets it wait for its first message's time.
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

    /// Takes the first message of the next ready lane. The message is in work until
    /// [`Lanes::finish`].
    pub fn start(&mut self) -> Option<(LaneId, LaneItem)> {
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
            self.kept_bytes -= first.kept_bytes();
            let content = first.content.take();
            self.working.insert(id, first.seq);
            return Some((
                id,
                LaneItem {
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
        // If the server has sent all messages again since, the lane may begin with another message.
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
                After::Finish { until, final_step } => {
                    first.final_step = Some(final_step);
                    (Some(until), None)
                }
            };
            if let Some(until) = until {
                // Kept with the message. Otherwise a message that goes before it in the meantime would
                // end its pause.
                first.not_before = scope.is_none().then_some(until);
                lane.state = scope.map_or(State::Waiting(until), |scope| State::Held(scope, until));
                self.due.push(Reverse((until, id)));
                return;
            }
            // Sent again during the work, it has come with its content.
            self.kept_bytes -= first.kept_bytes();
            lane.items.pop_front();
        }
        if lane.items.is_empty() {
            self.lanes.remove(&id);
        } else {
            self.line_up(id);
        }
    }

    /// Makes the lanes ready whose time has come.
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

    /// Makes the held lanes ready that may go on. Asks `may_go` once for each held lane.
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

    /// Forgets all lanes, because the server sends their messages again, or another forwarder has them
    /// now. Messages in work stay in work.
    pub fn forget(&mut self) {
        (self.lanes, self.ready, self.due, self.kept_bytes) =
            (HashMap::new(), VecDeque::new(), BinaryHeap::new(), 0);
    }

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
