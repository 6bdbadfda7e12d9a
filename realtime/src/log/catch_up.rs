//! How a socket is given what its client missed: read from the log, page after page, until what
//! this node remembers joins on. The switch to live is made under the company's lock
//! (`Room::go_live`), so there is no hole and no repetition in it. Pages are read as the client
//! takes them; a slow one holds a page and nothing more.

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

/// Events of one read.
const PAGE_EVENTS: usize = 128;
/// Bytes of one read; a single event may be larger.
const PAGE_BYTES: usize = 512 * 1024;
/// One read may take so long, the wait for its turn and its repetitions included; then the client
/// has to come again.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// Pause before a read is repeated.
const PAUSE: Duration = Duration::from_millis(50);

/// A socket on its way to live.
pub struct CatchUp {
    /// Every event up to here was given or is in `page`.
    position: u64,
    /// How many events the client has got so far.
    replayed: usize,
    page: VecDeque<Frame>,
    /// A task: it ends by its own deadline and gives its turn back, also while its client takes
    /// nothing and nobody waits for it.
    reading: Option<AbortOnDropHandle<Result<Page, NoPage>>>,
    /// The log has not been asked yet whether it still keeps what follows the cursor.
    is_first: bool,
}

/// What was read.
pub struct Page {
    /// In order; an event without a frame is one that sockets are not told of.
    pub events: Vec<(u64, Option<Frame>)>,
    /// The log has nothing of the company after these, up to here.
    pub complete_to: u64,
    /// How many more there are.
    pub pending: usize,
}

/// Why nothing was read.
#[derive(Debug)]
pub enum NoPage {
    /// The cursor lies before what the log keeps, or after its end.
    Behind(ResyncReason),
    /// No answer in time.
    Unavailable(String),
}

/// What is next for the socket.
pub enum Step {
    /// A frame.
    Frame(Frame),
    /// It is live: its queue has everything.
    Live,
}

impl CatchUp {
    /// From a cursor.
    pub fn new(cursor: u64) -> CatchUp {
        CatchUp {
            position: cursor,
            replayed: 0,
            page: VecDeque::new(),
            reading: None,
            is_first: true,
        }
    }

    /// What is there without waiting.
    pub fn ready(&mut self) -> Option<Frame> {
        self.page.pop_front()
    }

    /// The next step. May be dropped without a loss: a read under way goes on.
    ///
    /// # Errors
    /// The log does not answer.
    pub async fn step(
        &mut self,
        node: &Node,
        company: &Arc<Room>,
        socket: Id,
    ) -> Result<Step, CloseReason> {
        loop {
            if let Some(frame) = self.page.pop_front() {
                return Ok(Step::Frame(frame));
            }
            if self.reading.is_none() && self.joins(company, socket) {
                return Ok(Step::Live);
            }
            let reading = self.reading.get_or_insert_with(|| {
                let read = read(
                    node.clone(),
                    company.clone(),
                    self.position,
                    std::mem::take(&mut self.is_first),
                );
                AbortOnDropHandle::new(node.tasks().spawn(read))
            });
            let read = reading
                .await
                .unwrap_or_else(|e| Err(NoPage::Unavailable(e.to_string())));
            self.reading = None;
            let limit = node.limits().replay_events;
            match read {
                Ok(page) if self.replayed + page.events.len() + page.pending > limit => {
                    return self.give_up(company, socket, ResyncReason::TooMany);
                }
                Ok(page) => self.take(page),
                Err(NoPage::Behind(why)) => return self.give_up(company, socket, why),
                Err(NoPage::Unavailable(error)) => {
                    warn!(company = %company.id, error, "what a socket missed cannot be read");
                    return Err(CloseReason::FeedLost);
                }
            }
        }
    }

    /// Whether everything that was read is given, and what the node remembers joins on; then the
    /// socket is live.
    pub fn joins(&self, company: &Room, socket: Id) -> bool {
        !self.is_first && self.page.is_empty() && company.go_live(socket, self.position)
    }

    /// Every event up to here was given, or is there without waiting.
    #[cfg(test)]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The log keeps what follows the cursor.
    #[cfg(test)]
    pub fn asked(&mut self) {
        self.is_first = false;
    }

    /// Takes a page in.
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

    /// It is too far back: the client has to fetch, and is live from now on.
    fn give_up(
        &mut self,
        company: &Room,
        socket: Id,
        why: ResyncReason,
    ) -> Result<Step, CloseReason> {
        counter!("realtime_resyncs_total", "reason" => why.as_str()).increment(1);
        debug!(company = %company.id, %socket, reason = why.as_str(), "resync");
        company.resync(socket, why);
        Ok(Step::Live)
    }
}

/// What the log has of the company after `position`.
async fn read(
    node: Node,
    company: Arc<Room>,
    position: u64,
    is_first: bool,
) -> Result<Page, NoPage> {
    let mut failed = "no turn came".to_owned();
    let tries = async {
        loop {
            match try_read(&node, &company, position, is_first).await {
                Ok(Some(page)) => return Ok(page),
                Ok(None) => failed = "a replica is behind".into(),
                Err(NoPage::Unavailable(error)) => failed = error,
                Err(NoPage::Behind(why)) => return Err(NoPage::Behind(why)),
            }
            sleep(PAUSE).await;
        }
    };
    let read = timeout(READ_DEADLINE, tries).await;
    read.unwrap_or(Err(NoPage::Unavailable(failed)))
}

/// One try; `None` if the replica that answered lacks what the leader has.
async fn try_read(
    node: &Node,
    company: &Room,
    position: u64,
    is_first: bool,
) -> Result<Option<Page>, NoPage> {
    let _turn = node.read_permit().await;
    if is_first {
        let bounds = direct_get::bounds(node.connection(), inventory::EVENTS)
            .await
            .map_err(NoPage::Unavailable)?;
        if position.saturating_add(1) < bounds.first_seq {
            return Err(NoPage::Behind(ResyncReason::TooOld));
        }
        if position > bounds.last_seq {
            return Err(NoPage::Behind(ResyncReason::Unknown));
        }
    }
    // Looked at before the log is: whatever was handed out by then the log has.
    let handed_out = company.last_seq();
    let filter = subject::of_company(company.id);
    let read = direct_get::page_within(
        node.connection(),
        inventory::EVENTS,
        &filter,
        position + 1,
        PAGE_EVENTS,
        PAGE_BYTES,
    )
    .await;
    let stored = read.map_err(NoPage::Unavailable)?;
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
    let last = direct_get::last_seq(node.connection(), inventory::EVENTS, &filter)
        .await
        .map_err(NoPage::Unavailable)?;
    Ok((last <= position).then_some(Page {
        events: Vec::new(),
        complete_to: handed_out,
        pending: 0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{READS, tests::unconnected};
    use futures_util::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn a_read_that_nobody_waits_for_gives_its_turn_back() {
        let (node, id) = (unconnected().await, Id::from_bytes([1; 12]));
        let company = Arc::new(Room::new(id));
        let mut catch_ups: Vec<CatchUp> = (0..READS).map(|_| CatchUp::new(1)).collect();
        for catch_up in &mut catch_ups {
            // From here on its client takes nothing.
            assert!(catch_up.step(&node, &company, id).now_or_never().is_none());
        }
        sleep(READ_DEADLINE * 2).await;
        timeout(READ_DEADLINE, node.read_permit())
            .await
            .expect("a turn");
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_for_which_no_turn_comes_is_sent_away() {
        let (node, id) = (unconnected().await, Id::from_bytes([1; 12]));
        let mut turns = Vec::new();
        for _ in 0..READS {
            turns.push(node.read_permit().await);
        }
        let (company, mut catch_up) = (Arc::new(Room::new(id)), CatchUp::new(1));
        let step = timeout(2 * READ_DEADLINE, catch_up.step(&node, &company, id)).await;
        assert_eq!(step.expect("an end").err(), Some(CloseReason::FeedLost));
    }
}
