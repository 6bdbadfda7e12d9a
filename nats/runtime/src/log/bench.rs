//! The pure part of the group commit, for the benchmark of that name only. Writes nothing.

use tokio::sync::mpsc;

use crate::log::group::{chains, fill, has_repeated_id};
use crate::log::queue::{Outgoing, PublishError, Queue, Queued, Waiting};

/// A queue without a writing task.
pub struct Groups {
    queue: Queue,
    waiting: mpsc::Receiver<Waiting>,
}

impl Groups {
    /// An empty queue.
    #[expect(clippy::new_without_default, reason = "nobody needs a default")]
    pub fn new() -> Groups {
        let (queue, waiting) = Queue::new();
        Groups { queue, waiting }
    }

    /// Queues an event, as `Publisher::queue` does.
    ///
    /// # Errors
    /// The queue has no room.
    pub fn queue(&self, event: Outgoing) -> Result<Queued, PublishError> {
        self.queue.push(event)
    }

    /// Takes one group from the queue and prepares the group as the writing task does: abandoned
    /// events are dropped, ids are compared, and the events are chained by ordering key. Returns the
    /// number of chains.
    pub fn take(&mut self) -> usize {
        let mut group = Vec::new();
        fill(&mut group, &mut self.waiting);
        let group: Vec<Waiting> = group.into_iter().filter_map(Waiting::if_wanted).collect();
        if has_repeated_id(&group) {
            return 0;
        }
        chains(group).len()
    }
}
