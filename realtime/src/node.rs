//! What all sockets of this node use: the connection, the way to the log, the limits, and the
//! registry of rooms. Admits no socket and follows no room; see `admission` and `log::feed`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime::CancellationToken;
use runtime::log::publisher::Publisher;
use runtime::net::connection::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, TryAcquireError};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::cluster::membership::Membership;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::room::hub::Hub;

/// Reads from the log that run at once for sockets that catch up. Further reads wait for a permit.
/// Otherwise a node that comes back to thousands of sockets would ask thousands of questions at
/// once.
pub const READS: usize = 32;
/// Reads from the log that run at once for rooms that have missed something. Further reads wait for
/// a permit. They have permits of their own, because sockets that catch up must not hold up what is
/// live.
const REPAIRS: usize = 16;
/// Longest wait of a room for its permit. Beyond it, that try to repair has failed.
const REPAIR_PERMIT_DEADLINE: Duration = Duration::from_secs(10);

/// The services and the state that one node has once. Cloning copies a pointer.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection,
    publisher: Publisher,
    tasks: TaskTracker,
    stop: CancellationToken,
    limits: Limits,
    metrics: Metrics,
    sockets: Arc<Semaphore>,
    reads: Semaphore,
    repairs: Semaphore,
    hub: Hub,
    membership: Mutex<Membership>,
}

impl Node {
    /// A node without sockets. Its feeds run on `tasks` and end at `stop`. Each open socket counts
    /// as a task.
    pub fn new(
        connection: Connection,
        publisher: Publisher,
        limits: Limits,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Node {
        Node {
            inner: Arc::new(Inner {
                connection,
                publisher,
                tasks,
                stop,
                limits,
                metrics: Metrics::new(),
                sockets: Arc::new(Semaphore::new(limits.sockets)),
                reads: Semaphore::new(READS),
                repairs: Semaphore::new(REPAIRS),
                hub: Hub::default(),
                membership: Mutex::default(),
            }),
        }
    }

    /// The handles of the busiest metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// The service's connection to NATS.
    pub fn connection(&self) -> &Connection {
        &self.inner.connection
    }

    /// The publisher that stores events in the log.
    pub fn publisher(&self) -> &Publisher {
        &self.inner.publisher
    }

    /// The limits of this node and of each socket.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The tasks that the service waits for when it ends.
    pub fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    /// Cancelled when the service ends.
    pub fn stop(&self) -> &CancellationToken {
        &self.inner.stop
    }

    /// The rooms of this node.
    pub fn hub(&self) -> &Hub {
        &self.inner.hub
    }

    /// The other realtime nodes.
    pub fn membership(&self) -> MutexGuard<'_, Membership> {
        // A poisoned lock still holds a whole map, because every write is one insert or remove.
        self.inner
            .membership
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit for one of `MAX_SOCKETS` open sockets.
    ///
    /// # Errors
    /// All permits are taken.
    pub fn socket_permit(&self) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        self.inner.sockets.clone().try_acquire_owned()
    }

    /// A permit for one of [`READS`] reads from the log for a socket. Acquire and hold it only
    /// inside a spawned task. Otherwise a future that is never polled would keep the permit. The
    /// caller limits the wait.
    pub async fn read_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.inner.reads.acquire().await.ok() // the semaphore is never closed
    }

    /// A permit for one of [`REPAIRS`] reads from the log for a room.
    ///
    /// # Errors
    /// No permit was free within [`REPAIR_PERMIT_DEADLINE`].
    pub async fn repair_permit(&self) -> Result<SemaphorePermit<'_>, String> {
        let permit = timeout(REPAIR_PERMIT_DEADLINE, self.inner.repairs.acquire()).await;
        permit
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| "too many companies are being read".into())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::config::Config;
    use contract::{Id, Timestamp};
    use runtime::service::settings::Settings;

    /// A node whose NATS server cannot be reached.
    pub async fn unconnected() -> Node {
        let nowhere = ("NATS_URL".to_owned(), "nats://127.0.0.1:1".to_owned());
        let config = Config::read(&mut Settings::of([nowhere]));
        let connection = Connection::open(
            &config.common.nats,
            "realtime",
            Id::generate(Timestamp::now()),
        )
        .await
        .unwrap();
        let tasks = TaskTracker::new();
        let publisher = Publisher::unsupervised(connection.clone(), &tasks, None);
        Node::new(
            connection,
            publisher,
            config.limits,
            tasks,
            CancellationToken::new(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_repair_permit_is_bounded() {
        let node = unconnected().await;
        let permits = node
            .inner
            .repairs
            .acquire_many(REPAIRS as u32)
            .await
            .unwrap();
        let refused = timeout(2 * REPAIR_PERMIT_DEADLINE, node.repair_permit()).await;
        assert!(refused.expect("an answer in time").is_err());
        drop(permits);
        assert!(node.repair_permit().await.is_ok());
    }
}
