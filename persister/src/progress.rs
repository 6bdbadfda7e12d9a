//! How far the view is, for lists that say how current they are. The consumer is asked several times
//! a second instead of once a list. An older answer is as true as a new one, because the view only
//! grows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use runtime::CancellationToken;
use runtime::consume::worker;
use runtime::net::connection::Connection;
use runtime::rpc::query::QueryError;

use crate::consume::SOURCE;

/// How often the consumer is asked.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The consumer's ack floor as last seen. 0 means that the floor was not seen yet.
#[derive(Clone, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// A sequence up to which every event is in the view, whichever replica wrote it.
    ///
    /// # Errors
    /// The floor was not seen yet, and the server does not answer.
    pub async fn settled_to(&self, connection: &Connection) -> Result<u64, QueryError> {
        match self.0.load(Ordering::Acquire) {
            0 => worker::lag(connection, SOURCE)
                .await
                .map(|lag| lag.settled_to)
                .map_err(|e| QueryError::Unavailable(e.to_string())),
            seen => Ok(seen),
        }
    }

    /// Follows the ack floor until the stop. The floor goes back when an operator resets the consumer
    /// for a rebuild.
    pub async fn watch(self, connection: Connection, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            if let Ok(lag) = worker::lag(&connection, SOURCE).await {
                self.0.store(lag.settled_to, Ordering::Release);
            }
        }
    }
}
