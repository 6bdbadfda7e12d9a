//! Takes the tasks of the queue: from a message to a typed task, and from the result of a refresh
//! to the message's acknowledgement. Renews no token itself.

use contract::dead_letter::Reason;
use contract::{inventory, subject};
use runtime::consume::worker::{Delivery, Settle, Source, Worker};

use crate::refresh::queue::{Task, TokenRef, job_of};
use crate::refresh::{Attempt, Refresher};

/// The consumer of the tasks. A small prefetch, because a task that waits in one replica is not
/// given to another.
pub const SOURCE: Source = Source {
    stream: inventory::JOBS,
    consumer: inventory::SCHEDULER_WORK,
    prefetch: 4,
};
/// Tasks in progress at once in one replica. Each one calls a platform. Further tasks wait.
const CONCURRENT_TASKS: usize = 8;

/// Takes tasks until the worker is stopped.
pub async fn consume(refresher: Refresher, worker: Worker) {
    worker
        .run_each(CONCURRENT_TASKS, |delivery| {
            let refresher = refresher.clone();
            async move { take(&refresher, &delivery).await }
        })
        .await;
}

async fn take(refresher: &Refresher, delivery: &Delivery) -> Settle {
    let known = subject::from_job_work(&delivery.subject)
        .filter(|(job, _, provider)| *job == job_of(*provider));
    let Some((_, company, provider)) = known else {
        return Settle::Reject(Reason::UnknownVersion, "this build has no such work".into());
    };
    let Ok(task) = serde_json::from_slice::<Task>(&delivery.payload) else {
        return Settle::Reject(
            Reason::Malformed,
            "the payload names no version of a token".into(),
        );
    };
    if let Some(wait) = task.wait((refresher.clock)()) {
        return Settle::Retry(wait);
    }
    let token = TokenRef {
        company,
        provider,
        version: task.version,
    };
    let attempt = Attempt {
        number: delivery.attempt,
        since: task
            .not_before
            .unwrap_or(delivery.stored_at)
            .max(delivery.stored_at),
    };
    refresher.refresh(token, attempt).await
}
