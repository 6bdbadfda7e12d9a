//! Asking and answering queries over NATS request/reply. The answering service has an endpoint of
//! its NATS micro service for each query. Knows no query; those are in `contract::query`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_nats::client::Request;
use async_nats::service::error::Error as MicroError;
use async_nats::service::{Request as ServiceRequest, ServiceExt};
use async_nats::{HeaderMap, RequestErrorKind};
use bytes::Bytes;
use futures_util::StreamExt;
use metrics::{counter, histogram};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info_span, warn};

use crate::CancellationToken;
use crate::net::connection::{Connection, SendError};
use crate::service::error::ServiceError;
use contract::header;
use contract::query::{Priority, Query};
use contract::trace::TraceContext;

/// How long a query may take, including the time in which the persister catches up. Beyond it the
/// caller gets [`QueryError::Unavailable`].
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a query may wait for a slot. Beyond it its caller has little time left and will ask again,
/// so the slot goes to a younger query. Otherwise a queue that was once too long would stay so: all
/// answers would come too late.
const WORTH_ANSWERING: Duration = Duration::from_millis(2_500);
/// Queries of one subject that wait for a slot. Further ones are refused at once.
const WAITING_QUERIES: usize = 2_048;
/// Queries of [`Priority::Read`] that one replica answers at a time.
pub const CONCURRENT_QUERIES: usize = 64;
/// Queries of [`Priority::Write`] that one replica answers at a time. Because each gateway asks one
/// at a time, few slots are enough.
const CONCURRENT_WRITE_QUERIES: usize = 16;

/// The header in which the micro protocol carries an error's code.
const ERROR_CODE: &str = "Nats-Service-Error-Code";
/// The header in which the micro protocol carries an error's text.
const ERROR_TEXT: &str = "Nats-Service-Error";

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The thing that the query asks for does not exist.
    #[error("not found")]
    NotFound,
    /// No answer in time: MongoDB or the persister is away.
    #[error("no answer: {0}")]
    Unavailable(String),
    /// The question or the answer is not of the contract.
    #[error("bad question or answer: {0}")]
    Bad(String),
}

/// Asks, and returns the answer as JSON text, for callers who pass it on unread.
///
/// # Errors
/// See [`QueryError`]; within [`QUERY_TIMEOUT`] in any case.
pub async fn ask_raw<Q: Query>(
    connection: &Connection,
    question: &Q,
    trace: TraceContext,
) -> Result<Bytes, QueryError> {
    let payload = serde_json::to_vec(question).map_err(|e| QueryError::Bad(e.to_string()))?;
    let mut headers = HeaderMap::new();
    headers.insert(header::TRACEPARENT, trace.child().to_string());
    let request = Request::new()
        .headers(headers)
        .payload(payload.into())
        .timeout(Some(QUERY_TIMEOUT));
    let reply = connection
        .request_now(Q::SUBJECT, request, QUERY_TIMEOUT)
        .await
        .map_err(|e| match e {
            SendError::Failed(e) if e.kind() == RequestErrorKind::NoResponders => {
                QueryError::Unavailable("no persister is there".into())
            }
            e => QueryError::Unavailable(e.to_string()),
        })?;
    let Some(code) = reply.headers.as_ref().and_then(|h| h.get(ERROR_CODE)) else {
        return Ok(reply.payload);
    };
    let text = reply
        .headers
        .as_ref()
        .and_then(|h| h.get(ERROR_TEXT))
        .map(ToString::to_string)
        .unwrap_or_default();
    Err(match code.as_str() {
        "404" => QueryError::NotFound,
        "503" => QueryError::Unavailable(text),
        _ => QueryError::Bad(text),
    })
}

/// Asks, and reads the answer.
///
/// # Errors
/// As [`ask_raw`].
pub async fn ask<Q: Query>(
    connection: &Connection,
    question: &Q,
    trace: TraceContext,
) -> Result<Q::Answer, QueryError> {
    let answer = ask_raw(connection, question, trace).await?;
    serde_json::from_slice(&answer).map_err(|e| QueryError::Bad(e.to_string()))
}

/// The micro service of this process, to which endpoints are added.
pub struct Answers {
    service: async_nats::service::Service,
    slots: Arc<Semaphore>,
    write_slots: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Answers {
    /// Registers `connection`'s service, so that `nats micro ls` shows this replica.
    ///
    /// # Errors
    /// The subscriptions are refused.
    pub async fn register(
        connection: &Connection,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Answers, ServiceError> {
        let metadata = [("instance".to_owned(), connection.instance.to_string())].into();
        let service = connection
            .client
            .service_builder()
            .description(format!("PetBuddy {}", connection.service))
            .metadata(metadata)
            .queue_group(connection.service)
            .start(connection.service, env!("CARGO_PKG_VERSION"))
            .await
            .map_err(|e| ServiceError::Nats(e.to_string()))?;
        let slots = |number| Arc::new(Semaphore::new(number));
        let (slots, write_slots) = (slots(CONCURRENT_QUERIES), slots(CONCURRENT_WRITE_QUERIES));
        Ok(Answers {
            service,
            slots,
            write_slots,
            tasks: tasks.clone(),
            stop,
        })
    }

    /// Answers one kind of query with `handle`, up to [`CONCURRENT_QUERIES`] at a time over all
    /// kinds of one [`Priority`]. The result of `handle` must have the JSON of `Q::Answer`. It need
    /// not be that type, so that documents can be passed on unread.
    ///
    /// # Errors
    /// The subscription is refused.
    pub async fn query<Q, F, Fut, A>(&self, handle: F) -> Result<(), ServiceError>
    where
        Q: Query + 'static,
        F: Fn(Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A, QueryError>> + Send,
        A: Serialize,
    {
        let handle = Arc::new(handle);
        let slots = match Q::PRIORITY {
            Priority::Read => &self.slots,
            Priority::Write => &self.write_slots,
        };
        self.answer(Q::SUBJECT, slots.clone(), move |payload| {
            let handle = handle.clone();
            async move {
                let question: Q =
                    serde_json::from_slice(&payload).map_err(|e| QueryError::Bad(e.to_string()))?;
                to_json(&handle(question).await?)
            }
        })
        .await
    }

    /// Answers requests on `subject`.
    ///
    /// # Errors
    /// The subscription is refused.
    pub async fn endpoint<F, Fut>(
        &self,
        subject: &'static str,
        handle: F,
    ) -> Result<(), ServiceError>
    where
        F: Fn(Bytes) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Bytes, QueryError>> + Send,
    {
        self.answer(subject, self.slots.clone(), handle).await
    }

    async fn answer<F, Fut>(
        &self,
        subject: &'static str,
        slots: Arc<Semaphore>,
        handle: F,
    ) -> Result<(), ServiceError>
    where
        F: Fn(Bytes) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Bytes, QueryError>> + Send,
    {
        let name = subject.replace('.', "-");
        let mut requests = self
            .service
            .endpoint_builder()
            .name(name)
            .add(subject)
            .await
            .map_err(|e| ServiceError::Nats(e.to_string()))?;
        let (tasks, stop, handle) = (self.tasks.clone(), self.stop.clone(), Arc::new(handle));
        let (queue, mut waiting) = mpsc::channel(WAITING_QUERIES);
        self.tasks.spawn(async move {
            // At shutdown the endpoint takes no further questions. The taken ones are answered.
            while let Some(Some(request)) = stop.run_until_cancelled(requests.next()).await {
                if let Err(TrySendError::Full((_, request))) =
                    queue.try_send((Instant::now(), request))
                {
                    refuse(subject, &request).await;
                }
            }
        });
        self.tasks.spawn(async move {
            while let Some((arrived, request)) = waiting.recv().await {
                let Ok(slot) = slots.clone().acquire_owned().await else {
                    break;
                };
                if arrived.elapsed() > WORTH_ANSWERING {
                    refuse(subject, &request).await;
                    continue;
                }
                let handle = handle.clone();
                let trace = request
                    .message
                    .headers
                    .as_ref()
                    .and_then(|h| h.get(header::TRACEPARENT))
                    .and_then(|t| t.as_str().parse::<TraceContext>().ok());
                let span = info_span!("query", subject, trace_id = trace.map(|t| t.trace_id()));
                tasks.spawn(
                    async move {
                        let started = Instant::now();
                        let answer = handle(request.message.payload.clone()).await;
                        histogram!("query_seconds", "subject" => subject)
                            .record(started.elapsed().as_secs_f64());
                        let answer = answer.map_err(|e| micro_error(subject, e));
                        if let Err(e) = request.respond(answer).await {
                            warn!(error = %e, "an answer could not be sent");
                        }
                        drop(slot);
                    }
                    .instrument(span),
                );
            }
        });
        Ok(())
    }
}

/// Answers a query that waits for too long, or among too many.
async fn refuse(subject: &'static str, request: &ServiceRequest) {
    counter!("query_refused_total", "subject" => subject).increment(1);
    let busy = MicroError {
        status: "too many questions wait".to_owned(),
        code: 503,
    };
    if let Err(e) = request.respond(Err(busy)).await {
        warn!(error = %e, "an answer could not be sent");
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<Bytes, QueryError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|e| QueryError::Bad(e.to_string()))
}

fn micro_error(subject: &'static str, error: QueryError) -> MicroError {
    let code = match &error {
        QueryError::NotFound => 404,
        QueryError::Unavailable(why) => {
            counter!("query_failed_total", "subject" => subject).increment(1);
            warn!(why, "a query could not be answered");
            503
        }
        QueryError::Bad(_) => 400,
    };
    let status = match error {
        QueryError::Unavailable(text) | QueryError::Bad(text) => text.replace(['\r', '\n'], " "),
        QueryError::NotFound => "not found".to_owned(),
    };
    MicroError { status, code }
}
