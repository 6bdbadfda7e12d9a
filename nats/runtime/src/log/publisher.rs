//! Publishing into the log: a queue that is written in groups (see `group_commit`). Answers only
//! what the server has acknowledged, within the caller's deadline; it keeps nothing across a
//! restart.

use tokio_util::task::TaskTracker;

use crate::log::group_commit;
use crate::log::pre_commit::PreCommit;
use crate::log::queue::Queue;
use crate::net::connection::Connection;
use crate::service::Service;

pub use crate::log::queue::{
    Outgoing, PUBLISH_DEADLINE, PublishError, QUEUE_EVENTS, Queued, Receipt,
};

/// Hands events to the one task that writes them. Cloning is cheap.
#[derive(Clone)]
pub struct Publisher {
    queue: Queue,
}

impl Publisher {
    /// Starts the writing task, which asks `hook` about each group. The task ends when the last
    /// handle is gone and the queue is written, which may be after the stop. If the task ends by
    /// itself, the process does.
    pub fn start(service: &mut Service, hook: Option<Box<dyn PreCommit>>) -> Publisher {
        let publisher = Publisher::unsupervised(service.connection.clone(), &service.tasks, hook);
        let (queue, stop) = (publisher.queue.clone(), service.stop.clone());
        service.spawn("publisher", async move {
            stop.run_until_cancelled(queue.closed())
                .await
                .unwrap_or_default()
        });
        publisher
    }

    /// The same without a process that would end with the task: for tests.
    pub fn unsupervised(
        connection: Connection,
        tasks: &TaskTracker,
        hook: Option<Box<dyn PreCommit>>,
    ) -> Publisher {
        let (queue, waiting) = Queue::new();
        tasks.spawn(group_commit::write_groups(connection, hook, waiting));
        Publisher { queue }
    }

    /// Returns once the event is on disk in the log.
    ///
    /// # Errors
    /// See [`PublishError`]; within [`PUBLISH_DEADLINE`] in any case.
    pub async fn publish(&self, event: Outgoing) -> Result<Receipt, PublishError> {
        self.queue(event)?.receipt().await
    }

    /// Queues an event and returns at once.
    ///
    /// # Errors
    /// The queue has no room, or the process stops.
    pub fn queue(&self, event: Outgoing) -> Result<Queued, PublishError> {
        self.queue.push(event)
    }
}
