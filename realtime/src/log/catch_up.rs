//! Gives a socket the events that its client missed: reads them from the log, page after page,
//! until the events that the room remembers follow without a gap. Delivers no live event.
//!
//! The switch to live is made under the room's lock ([`Room::go_live`]), so no event is lost or
//! repeated in it. Pages are read as the client takes them, so a slow client holds one page and
//! nothing more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use contract::{Id, header, inventory, subject};
use metrics::counter;
use runtime::log::direct_get;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use crate::node::Node;
use crate::room::Room;
use crate::room::close_reason::CloseReason;
use crate::room::frame::Frame;
use crate::room::payload::{self, ResyncReason};

/// Events of one read. Further events are read in the next one.
const PAGE_EVENTS: usize = 128;
/// Bytes of one read. A single event may be larger.
const PAGE_BYTES: usize = 512 * 1024;
/// Longest time of one read, with the wait for its permit and its repetitions. Beyond it, the
/// socket is closed with 1013.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// Pause before a read is repeated.
const PAUSE: Duration = Duration::from_millis(50);

/// The state of a socket that is not live yet.
pub struct CatchUp {
    /// Every event up to this sequence was returned or is in `page`.
    position: u64,
    /// The events that were read for the client so far.
    replayed: usize,
    page: VecDeque<Frame>,
    /// The read that is under way. It is a task of its own, so that it ends by its deadline and
    /// gives its permit back even while the client takes nothing and nobody polls this.
    reading: Option<AbortOnDropHandle<Result<Page, PageError>>>,
    /// Whether the log has not been asked yet if it still has the events after the cursor.
    is_first: bool,
}

/// The result of one read.
pub struct Page {
    /// The events in order. An event without a frame is one that sockets are not told of.
    pub events: Vec<(u64, Option<Frame>)>,
    /// The log has no event of the company between the last of `events` and this sequence.
    pub complete_to: u64,
    /// The number of further events in the log.
    pub pending: usize,
}

/// Why nothing was read.
#[derive(Debug)]
pub enum PageError {
    /// The events after the cursor cannot be given to the client.
    Resync(ResyncReason),
    /// The log does not answer in time.
    Unavailable(String),
}

/// What a socket does next.
pub enum Step {
    /// The socket is given a frame.
    Frame(Frame),
    /// The socket is live: its queue has everything that follows.
    Live,
}

impl CatchUp {
    /// Starts after a cursor.
    pub fn new(cursor: u64) -> CatchUp {
        CatchUp {
            position: cursor,
            replayed: 0,
            page: VecDeque::new(),
            reading: None,
            is_first: true,
        }
    }

    /// The next frame, if one has been read already.
    pub fn ready(&mut self) -> Option<Frame> {
        self.page.pop_front()
    }

    /// The next step. Cancelling this future loses nothing, because a read under way goes on.
    ///
    /// # Errors
    /// The log does not answer.
    pub async fn step(
        &mut self,
        node: &Node,
        room: &Arc<Room>,
        socket: Id,
    ) -> Result<Step, CloseReason> {
        loop {
            if let Some(frame) = self.page.pop_front() {
                return Ok(Step::Frame(frame));
            }
            if self.reading.is_none() && self.joins(room, socket) {
                return Ok(Step::Live);
            }
            let reading = self.reading.get_or_insert_with(|| {
                let read = read(
                    node.clone(),
                    room.clone(),
                    self.position,
                    std::mem::take(&mut self.is_first),
                );
                AbortOnDropHandle::new(node.tasks().spawn(read))
            });
            let read = reading
                .await
                .unwrap_or_else(|e| Err(PageError::Unavailable(e.to_string())));
            self.reading = None;
            let limit = node.limits().replay_events;
            match read {
                Ok(page) if self.replayed + page.events.len() + page.pending > limit => {
                    return self.give_up(room, socket, ResyncReason::TooMany);
                }
                Ok(page) => self.take(page),
                Err(PageError::Resync(reason)) => return self.give_up(room, socket, reason),
                Err(PageError::Unavailable(error)) => {
                    warn!(company = %room.id, error, "what a socket missed cannot be read");
                    return Err(CloseReason::FeedLost);
                }
            }
        }
    }

    /// Makes the socket live if all events that were read are returned, and the events that the
    /// room remembers follow without a gap. Says whether the socket is live.
    pub fn joins(&self, room: &Room, socket: Id) -> bool {
        !self.is_first && self.page.is_empty() && room.go_live(socket, self.position)
    }

    /// The sequence up to which every event was returned or is in the page.
    #[cfg(test)]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Skips the question whether the log still has the events after the cursor.
    #[cfg(test)]
    pub fn skip_first_check(&mut self) {
        self.is_first = false;
    }

    /// Takes in a page.
    pub fn take(&mut self, page: Page) {
        counter!("realtime_replayed_total").increment(page.events.len() as u64);
        self.replayed += page.events.len();
        self.position = page
            .events
            .last()
            .map_or(self.position, |(seq, _)| *seq)
            .max(page.complete_to);
        self.page
            .extend(page.events.into_iter().filter_map(|(_, frame)| frame));
    }

    /// Makes the socket live and tells its client to fetch, because the missed events cannot be
    /// given to it.
    fn give_up(
        &mut self,
        room: &Room,
        socket: Id,
        reason: ResyncReason,
    ) -> Result<Step, CloseReason> {
        counter!("realtime_resyncs_total", "reason" => reason.as_str()).increment(1);
        debug!(company = %room.id, %socket, reason = reason.as_str(), "resync");
        room.resync(socket, reason);
        Ok(Step::Live)
    }
}

/// Reads the events of the company after `position`, again and again until [`READ_DEADLINE`].
async fn read(
    node: Node,
    room: Arc<Room>,
    position: u64,
    is_first: bool,
) -> Result<Page, PageError> {
    let mut failure = "no permit was free".to_owned();
    let tries = async {
        loop {
            match try_read(&node, &room, position, is_first).await {
                Ok(Some(page)) => return Ok(page),
                Ok(None) => failure = "a replica is behind".into(),
                Err(PageError::Unavailable(error)) => failure = error,
                Err(PageError::Resync(reason)) => return Err(PageError::Resync(reason)),
            }
            sleep(PAUSE).await;
        }
    };
    let read = timeout(READ_DEADLINE, tries).await;
    read.unwrap_or(Err(PageError::Unavailable(failure)))
}

/// Reads once. Returns `None` if the replica that answered lacks events that the leader has.
async fn try_read(
    node: &Node,
    room: &Room,
    position: u64,
    is_first: bool,
) -> Result<Option<Page>, PageError> {
    let _permit = node.read_permit().await;
    let connection = node.connection();
    if is_first {
        let bounds = direct_get::bounds(connection, inventory::EVENTS)
            .await
            .map_err(|e| PageError::Unavailable(e.to_string()))?;
        if position.saturating_add(1) < bounds.first_seq {
            return Err(PageError::Resync(ResyncReason::TooOld));
        }
        if position > bounds.last_seq {
            return Err(PageError::Resync(ResyncReason::Unknown));
        }
    }
    // Read before the log is asked, so that the log has every event up to here.
    let delivered = room.last_seq();
    let filter = subject::of_company(room.id);
    let stored = direct_get::page_within(
        connection,
        inventory::EVENTS,
        &filter,
        position + 1,
        PAGE_EVENTS,
        PAGE_BYTES,
    )
    .await
    .map_err(|e| PageError::Unavailable(e.to_string()))?;
    let pending = stored
        .first()
        .and_then(|first| first.header(header::NUM_PENDING)?.parse::<usize>().ok());
    if !stored.is_empty() {
        let pending = (pending.unwrap_or(0) + 1).saturating_sub(stored.len());
        let events = stored
            .into_iter()
            .map(|stored| (stored.seq, payload::of_stored(&stored)))
            .collect();
        return Ok(Some(Page {
            events,
            complete_to: 0,
            pending,
        }));
    }
    let last = direct_get::last_seq(connection, inventory::EVENTS, &filter)
        .await
        .map_err(|e| PageError::Unavailable(e.to_string()))?;
    Ok((last <= position).then_some(Page {
        events: Vec::new(),
        complete_to: delivered,
        pending: 0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{READS, tests::unconnected};
    use futures_util::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn a_read_that_nobody_polls_gives_its_permit_back() {
        let (node, id) = (unconnected().await, Id::from_bytes([1; 12]));
        let room = Arc::new(Room::new(id));
        let mut catch_ups: Vec<CatchUp> = (0..READS).map(|_| CatchUp::new(1)).collect();
        for catch_up in &mut catch_ups {
            // From here on the client of this socket takes nothing.
            assert!(catch_up.step(&node, &room, id).now_or_never().is_none());
        }
        sleep(READ_DEADLINE * 2).await;
        timeout(READ_DEADLINE, node.read_permit())
            .await
            .expect("a permit in time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_gets_no_permit_is_closed() {
        let (node, id) = (unconnected().await, Id::from_bytes([1; 12]));
        let mut permits = Vec::new();
        for _ in 0..READS {
            permits.push(node.read_permit().await);
        }
        let (room, mut catch_up) = (Arc::new(Room::new(id)), CatchUp::new(1));
        let step = timeout(2 * READ_DEADLINE, catch_up.step(&node, &room, id)).await;
        assert_eq!(
            step.expect("an end in time").err(),
            Some(CloseReason::FeedLost)
        );
    }
}
