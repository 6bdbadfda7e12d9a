//! Which companies have sockets on this node, each with one feed. No socket's work is done here; see `feed` and `socket`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nats::Id;
use nats::runtime::CancellationToken;
use nats::runtime::connection::Connection;
use nats::runtime::health::Health;
use serde_json::json;
use tokio::time::{interval, timeout};
use tokio_util::task::TaskTracker;

use crate::company::{Company, FeedState, Seat};
use crate::feed;

/// How long a handshake waits for its company's subscriptions.
const OPEN_DEADLINE: Duration = Duration::from_secs(4);
/// How often the check `hub` is confirmed.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The company's events cannot be had right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log cannot be followed right now")]
pub struct Unavailable;

/// All companies of this node.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection,
    tasks: TaskTracker,
    stop: CancellationToken,
    companies: Mutex<HashMap<Id, Arc<Company>>>,
}

impl Hub {
    /// Empty. Feeds run on `tasks` and end at `stop`.
    pub fn new(connection: Connection, tasks: TaskTracker, stop: CancellationToken) -> Hub {
        Hub { inner: Arc::new(Inner { connection, tasks, stop, companies: Mutex::default() }) }
    }

    /// The service's connection.
    pub fn connection(&self) -> &Connection {
        &self.inner.connection
    }

    /// Cancelled at the end of the service.
    pub fn stop(&self) -> &CancellationToken {
        &self.inner.stop
    }

    fn companies(&self) -> MutexGuard<'_, HashMap<Id, Arc<Company>>> {
        // A poisoned lock still holds a whole map: every write is one insert or remove.
        self.inner.companies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a socket its place. From then on it gets every event that the log stores for its company.
    ///
    /// # Errors
    /// [`Unavailable`], within [`OPEN_DEADLINE`].
    pub async fn enter(&self, company: Id, socket: Id) -> Result<Seat, Unavailable> {
        if self.inner.stop.is_cancelled() || !self.inner.connection.is_connected() {
            return Err(Unavailable);
        }
        let seat = {
            // Seated under this lock, so that the feed does not see an empty company in between and end.
            let mut companies = self.companies();
            companies.entry(company).or_insert_with(|| self.open(company)).seat(socket)
        };
        let mut feed = seat.company().feed.subscribe();
        match timeout(OPEN_DEADLINE, feed.wait_for(|state| *state != FeedState::Opening)).await {
            Ok(Ok(state)) if *state == FeedState::Live => {}
            _ => return Err(Unavailable),
        }
        Ok(seat)
    }

    fn open(&self, id: Id) -> Arc<Company> {
        let company = Arc::new(Company::new(id));
        self.inner.tasks.spawn(feed::run(self.clone(), company.clone()));
        company
    }

    /// Removes a company whose feed ends.
    pub fn forget(&self, company: &Arc<Company>) {
        let mut companies = self.companies();
        if companies.get(&company.id).is_some_and(|c| Arc::ptr_eq(c, company)) {
            companies.remove(&company.id);
        }
    }

    /// Removes a company if nobody is in; whether it did.
    pub fn forget_if_empty(&self, company: &Arc<Company>) -> bool {
        let mut companies = self.companies();
        let empty = company.sockets() == 0;
        if empty {
            companies.remove(&company.id);
        }
        empty
    }
}

/// Confirms the check `hub` while the subscriptions that this node has can bring something.
pub async fn watch(hub: Hub, health: Health, stop: CancellationToken) {
    let mut tick = interval(WATCH_INTERVAL);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let (companies, live, sockets) = {
            let companies = hub.companies();
            let live = companies.values().filter(|c| *c.feed.borrow() == FeedState::Live).count();
            (companies.len(), live, companies.values().map(|c| c.sockets()).sum::<usize>())
        };
        let detail = json!({"companies": companies, "live": live, "sockets": sockets});
        match hub.connection().is_connected() {
            true => health.good("hub", detail),
            false => health.bad("hub", detail),
        }
    }
}
