//! Whether a platform's message id is taken, asked of the persister for all waiting requests at once. It covers what lies
//! outside the log's duplicate window; inside it `Nats-Msg-Id` decides. Where the persister does not answer in time,
//! nobody waits for it: messages are accepted, and the unique index has the last word.

use std::collections::HashMap;
use std::time::Duration;

use metrics::counter;
use nats::Id;
use nats::query::{ExternalKey, FindExternal, MAX_EXTERNAL};
use nats::runtime::connection::Connection;
use nats::runtime::query;
use nats::trace::TraceContext;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::warn;

/// How long a create waits for the answer.
const TIMEOUT: Duration = Duration::from_millis(300);
/// After a failure nothing is asked for so long, so that a database that is away slows nobody.
const PAUSE: Duration = Duration::from_secs(2);
/// Keys that may wait; beyond it they are not asked for.
const QUEUE: usize = 4_096;

struct Asked {
    key: ExternalKey,
    answer: oneshot::Sender<Option<Id>>,
}

/// Hands keys to the one task that asks.
#[derive(Clone)]
pub struct ExternalIds(mpsc::Sender<Asked>);

impl ExternalIds {
    /// Starts the asking task; it ends when the last handle is gone.
    pub fn start(connection: Connection, tasks: &TaskTracker) -> ExternalIds {
        let (queue, asked) = mpsc::channel(QUEUE);
        tasks.spawn(ask_groups(connection, asked));
        ExternalIds(queue)
    }

    /// The message that holds this key, if the view knows one.
    pub async fn holder(&self, key: ExternalKey) -> Option<Id> {
        let (answer, answered) = oneshot::channel();
        if self.0.try_send(Asked { key, answer }).is_err() {
            counter!("external_checks_skipped_total", "reason" => "queue").increment(1);
            return None;
        }
        answered.await.ok().flatten()
    }
}

async fn ask_groups(connection: Connection, mut asked: mpsc::Receiver<Asked>) {
    let mut paused_until = Instant::now();
    let mut group = Vec::new();
    while asked.recv_many(&mut group, 1).await > 0 {
        tokio::task::yield_now().await;
        while group.len() < MAX_EXTERNAL {
            let Ok(next) = asked.try_recv() else { break };
            group.push(next);
        }
        if Instant::now() < paused_until {
            counter!("external_checks_skipped_total", "reason" => "paused").increment(group.len() as u64);
            for a in group.drain(..) {
                let _ = a.answer.send(None); // the caller may be gone
            }
            continue;
        }
        let question = FindExternal { keys: group.iter().map(|a| a.key.clone()).collect() };
        let answer = tokio::time::timeout(TIMEOUT, query::ask(&connection, &question, TraceContext::generate())).await;
        let holders: HashMap<ExternalKey, Id> = match answer {
            Ok(Ok(holders)) => holders.into_iter().map(|h| (h.key, h.message_id)).collect(),
            failed => {
                let why =
                    failed.map_or_else(|_| format!("no answer within {TIMEOUT:?}"), |e| e.err().map(|e| e.to_string()).unwrap_or_default());
                warn!(why, "external ids cannot be checked against the database for now");
                counter!("external_checks_skipped_total", "reason" => "failed").increment(group.len() as u64);
                paused_until = Instant::now() + PAUSE;
                HashMap::new()
            }
        };
        for a in group.drain(..) {
            // The caller may be gone.
            let _ = a.answer.send(holders.get(&a.key).copied());
        }
    }
}
