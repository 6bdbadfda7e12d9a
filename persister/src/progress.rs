//! How far the view is, for lists that say what they are current to. Looked at several times a
//! second instead of for each list: an older answer is as true, for the view only grows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use runtime::CancellationToken;
use runtime::consume::worker;
use runtime::net::connection::Connection;
use runtime::rpc::query::QueryError;

use crate::consume::SOURCE;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The consumer's ack floor as it was seen last; 0 before it was.
#[derive(Clone, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Every event up to this sequence is in the view, whichever replica wrote it.
    ///
    /// # Errors
    /// It was not seen yet, and the server does not answer.
    pub async fn settled_to(&self, connection: &Connection) -> Result<u64, QueryError> {
        match self.0.load(Ordering::Acquire) {
            0 => worker::lag(connection, SOURCE)
                .await
                .map(|lag| lag.settled_to)
                .map_err(QueryError::Unavailable),
            seen => Ok(seen),
        }
    }

    /// Looks again and again, until the stop. It follows back too, after a rebuild's reset.
    pub async fn watch(self, connection: Connection, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            if let Ok(lag) = worker::lag(&connection, SOURCE).await {
                self.0.store(lag.settled_to, Ordering::Release);
            }
        }
    }
}
