//! Which companies have sockets on this node, each with one feed. No socket's work is done here;
//! see `feed` and `socket`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::Id;
use runtime::CancellationToken;
use runtime::log::publisher::Publisher;
use runtime::net::connection::Connection;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::auth::session::Session;
use crate::cluster::membership::Nodes;
use crate::config::Limits;
use crate::log::catch_up::CatchUp;
use crate::log::feed;
use crate::metrics::Metrics;
use crate::room::queue::Queue;
use crate::room::{FeedState, Room, Start};
use crate::subscriber::{Counted, Subscriber, Transport};

/// How long a handshake waits for its company's subscriptions.
const OPEN_DEADLINE: Duration = Duration::from_secs(4);
/// Reads from the log under way at once, for sockets that come back.
pub const READS: usize = 32;
/// The same for companies that have missed something: sockets that read must not hold up what is
/// live.
const REPAIRS: usize = 16;
/// A company waits so long for its turn; then that try has failed.
const REPAIR_TURN_DEADLINE: Duration = Duration::from_secs(10);

/// Why a socket gets no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// `MAX_SOCKETS` are open.
    #[error("this node has no room for another socket")]
    Full,
    /// `MAX_SOCKETS_PER_USER` are open.
    #[error("this user has as many sockets on this node as they may")]
    TooManyOfUser,
    /// The company's events cannot be had right now.
    #[error("the log cannot be followed right now")]
    Unavailable,
}

/// All companies of this node.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection,
    publisher: Publisher,
    tasks: TaskTracker,
    stop: CancellationToken,
    limits: Limits,
    metrics: Metrics,
    room: Arc<Semaphore>,
    reads: Semaphore,
    repairs: Semaphore,
    /// How often the log has got another leader.
    leaders: AtomicU64,
    /// Sockets of each user.
    users: Mutex<HashMap<Id, usize>>,
    companies: Mutex<HashMap<Id, Arc<Room>>>,
    nodes: Mutex<Nodes>,
}

impl Hub {
    /// Empty. Feeds run on `tasks` and end at `stop`; open sockets count as tasks.
    pub fn new(
        connection: Connection,
        publisher: Publisher,
        limits: Limits,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Hub {
        let room = Arc::new(Semaphore::new(limits.sockets));
        let (metrics, reads, repairs) = (
            Metrics::new(),
            Semaphore::new(READS),
            Semaphore::new(REPAIRS),
        );
        Hub {
            inner: Arc::new(Inner {
                connection,
                publisher,
                tasks,
                stop,
                limits,
                metrics,
                room,
                reads,
                repairs,
                leaders: AtomicU64::new(0),
                users: Mutex::default(),
                companies: Mutex::default(),
                nodes: Mutex::default(),
            }),
        }
    }

    /// What is counted for each event.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// A socket's turn to read from the log: a node that comes back to thousands of them does not
    /// ask thousands of questions at once. Whoever has a turn, or waits for one, must be a task:
    /// one that is not polled would keep it. The wait is the caller's to bound.
    pub async fn reading(&self) -> Option<SemaphorePermit<'_>> {
        self.inner.reads.acquire().await.ok() // never closed
    }

    /// A company's turn to read what it has missed.
    ///
    /// # Errors
    /// None came within [`REPAIR_TURN_DEADLINE`].
    pub async fn repairing(&self) -> Result<SemaphorePermit<'_>, String> {
        let turn = timeout(REPAIR_TURN_DEADLINE, self.inner.repairs.acquire()).await;
        turn.ok()
            .and_then(Result::ok)
            .ok_or_else(|| "too many companies are being read".into())
    }

    /// The service's connection.
    pub fn connection(&self) -> &Connection {
        &self.inner.connection
    }

    /// The way to the log.
    pub fn publisher(&self) -> &Publisher {
        &self.inner.publisher
    }

    /// What a socket may take.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The service waits for these at its end.
    pub fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    /// Cancelled at the end of the service.
    pub fn stop(&self) -> &CancellationToken {
        &self.inner.stop
    }

    fn companies(&self) -> MutexGuard<'_, HashMap<Id, Arc<Room>>> {
        // A poisoned lock still holds a whole map: every write is one insert or remove.
        self.inner
            .companies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a socket its place. It gets every event that the log has for its company after its
    /// client's cursor, or after now.
    ///
    /// # Errors
    /// See [`SubscribeError`]; within [`OPEN_DEADLINE`].
    pub async fn enter(
        &self,
        transport: Transport,
        session: Session,
        socket: Id,
        cursor: Option<u64>,
    ) -> Result<Subscriber, SubscribeError> {
        if !self.inner.connection.is_connected() {
            return Err(SubscribeError::Unavailable);
        }
        let permit = self
            .inner
            .room
            .clone()
            .try_acquire_owned()
            .map_err(|_| SubscribeError::Full)?;
        let of_user = self
            .count(session.user)
            .ok_or(SubscribeError::TooManyOfUser)?;
        let queue = Arc::new(Queue::new(self.inner.limits.queue_bytes));
        let company = {
            // Seated under this lock, so that the feed does not see an empty company in between and
            // end.
            let mut companies = self.companies();
            // Whoever comes after the stop has looked at all sockets would not be sent away.
            if self.inner.stop.is_cancelled() {
                return Err(SubscribeError::Unavailable);
            }
            let company = companies
                .entry(session.company)
                .or_insert_with(|| self.open(session.company))
                .clone();
            company.add(socket, session, queue.clone());
            company
        };
        let tracked = self.inner.tasks.token();
        let (hub, counted) = (self.clone(), Counted::new(transport));
        let mut subscriber = Subscriber {
            hub,
            company,
            queue,
            session,
            socket,
            catch_up: None,
            _counted: counted,
            _of_user: of_user,
            _permit: permit,
            _tracked: tracked,
        };
        let mut feed = subscriber.company.feed.subscribe();
        match timeout(
            OPEN_DEADLINE,
            feed.wait_for(|state| *state != FeedState::Opening),
        )
        .await
        {
            Ok(Ok(state)) if *state == FeedState::Live => {}
            _ => return Err(SubscribeError::Unavailable),
        }
        if let (Start::Behind, Some(cursor)) = (subscriber.company.start(socket, cursor), cursor) {
            subscriber.catch_up = Some(Box::new(CatchUp::new(cursor)));
        }
        Ok(subscriber)
    }

    fn users(&self) -> MutexGuard<'_, HashMap<Id, usize>> {
        // A poisoned lock still holds a whole map.
        self.inner
            .users
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// One more socket of a user, unless there are as many as there may be.
    fn count(&self, user: Id) -> Option<OfUser> {
        let mut users = self.users();
        let count = users.entry(user).or_default();
        let is_one_more = *count < self.inner.limits.sockets_per_user;
        *count += usize::from(is_one_more);
        is_one_more.then(|| OfUser {
            hub: self.clone(),
            user,
        })
    }

    /// The other nodes that are heard of.
    pub fn nodes(&self) -> MutexGuard<'_, Nodes> {
        // A poisoned lock still holds a whole map.
        self.inner
            .nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The log has another leader: what the one before has stored may not have come.
    pub fn note_new_leader(&self) {
        self.inner.leaders.fetch_add(1, Ordering::Relaxed);
        self.inner.connection.note_gap();
    }

    /// How often the log has got another leader.
    pub fn leaders(&self) -> u64 {
        self.inner.leaders.load(Ordering::Relaxed)
    }

    /// Every company that has sockets here.
    pub fn all(&self) -> Vec<Arc<Room>> {
        self.companies().values().cloned().collect()
    }

    fn open(&self, id: Id) -> Arc<Room> {
        let company = Arc::new(Room::new(id));
        self.inner
            .tasks
            .spawn(feed::run(self.clone(), company.clone()));
        company
    }

    /// Removes a company whose feed ends.
    pub fn forget(&self, company: &Arc<Room>) {
        let mut companies = self.companies();
        if companies
            .get(&company.id)
            .is_some_and(|c| Arc::ptr_eq(c, company))
        {
            companies.remove(&company.id);
        }
    }

    /// Removes a company if nobody is in; whether it did.
    pub fn forget_if_empty(&self, company: &Arc<Room>) -> bool {
        let mut companies = self.companies();
        let empty = company.sockets() == 0;
        if empty {
            companies.remove(&company.id);
        }
        empty
    }
}

/// One of a user's sockets; dropping it gives its place back.
pub struct OfUser {
    hub: Hub,
    user: Id,
}

impl Drop for OfUser {
    fn drop(&mut self) {
        let mut users = self.hub.users();
        if let Some(count) = users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::config::Config;
    use contract::Timestamp;
    use runtime::service::settings::Settings;

    /// A hub whose NATS is not there.
    pub async fn unconnected() -> Hub {
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
        let publisher = Publisher::unsupervised(connection.clone(), &tasks);
        Hub::new(
            connection,
            publisher,
            config.limits,
            tasks,
            CancellationToken::new(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_company_waits_for_its_turn_for_so_long() {
        let hub = unconnected().await;
        let turns = hub
            .inner
            .repairs
            .acquire_many(REPAIRS as u32)
            .await
            .unwrap();
        let refused = timeout(2 * REPAIR_TURN_DEADLINE, hub.repairing()).await;
        assert!(refused.expect("an end").is_err());
        drop(turns);
        assert!(hub.repairing().await.is_ok());
    }
}
