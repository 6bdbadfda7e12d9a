//! The life of a service process: settings, telemetry, connection, signals, and an end within 30 s
//! in which accepted requests are answered and pulled messages are settled. A task that ends early
//! ends the process. Restarts nothing; that is up to the runner or the orchestrator.

pub(crate) mod error;
pub mod health;
pub mod settings;
pub mod telemetry;

use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use self::health::Health;
use self::telemetry::Telemetry;
use crate::CancellationToken;
use crate::net::connection::Connection;
use crate::net::http_server::{HttpServer, Limits, Timed, WhenFull};
use crate::rpc::query::Answers;
use crate::service::settings::{Common, Settings};
use contract::{Id, Timestamp, subject};

pub use self::error::ServiceError;

/// The limits of the operator's port of a service that has no other port. Its clients are health
/// checks and a collector of metrics.
const OPS_LIMITS: Limits = Limits {
    connections: 128,
    when_full: WhenFull::Refuse,
    idle_within: Duration::from_secs(75),
    buffer_bytes: 16 * 1024,
    drain_within: Duration::from_secs(5),
};
/// Time from the signal to the end of the process. Work that takes longer is given up; its messages
/// come again.
pub const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// The part of [`STOP_DEADLINE`] in which the runtime itself ends.
const STOP_RESERVE: Duration = Duration::from_secs(2);

/// A running service.
pub struct Service {
    pub connection: Connection,
    pub health: Health,
    /// The micro service, to which endpoints are added.
    pub answers: Answers,
    /// Cancelled when the service shall stop.
    pub stop: CancellationToken,
    /// Short tasks, for which the end waits.
    pub tasks: TaskTracker,
    metrics: PrometheusHandle,
    critical: JoinSet<()>,
    /// The task that ended early, if one did.
    ended: Arc<OnceLock<&'static str>>,
    _telemetry: Telemetry,
}

impl Service {
    /// Sets up telemetry and connection, and registers the micro service with the endpoint
    /// `health.<service>`.
    ///
    /// # Errors
    /// See [`ServiceError`]. A NATS server that is not there yet is no error.
    pub async fn start(
        name: &'static str,
        common: &Common,
        stop: CancellationToken,
    ) -> Result<Service, ServiceError> {
        let telemetry = telemetry::init(common, name)?;
        let instance = Id::generate(Timestamp::now());
        let connection = Connection::open(&common.nats, name, instance)
            .await
            .map_err(|e| ServiceError::Nats(e.to_string()))?;
        info!(instance = &*connection.instance, "starting");
        let health = Health::new(name, connection.instance.clone(), stop.clone());
        health.expect(&["nats"]);
        let tasks = TaskTracker::new();
        let answers = Answers::register(&connection, &tasks, stop.clone()).await?;
        let reported = health.clone();
        let subject: &'static str = Box::leak(subject::health(name).into_boxed_str()); // once a process
        answers
            .endpoint(subject, move |_| {
                std::future::ready(Ok(Bytes::from(reported.report().1.to_string())))
            })
            .await?;
        let mut service = Service {
            connection,
            health,
            answers,
            stop,
            tasks,
            metrics: telemetry.metrics.clone(),
            critical: JoinSet::new(),
            ended: Arc::default(),
            _telemetry: telemetry,
        };
        let watch = health::watch_connection(
            service.health.clone(),
            service.connection.clone(),
            service.stop.clone(),
        );
        service.spawn("connection watch", watch);
        Ok(service)
    }

    /// Runs a task for as long as the process. If it ends before the stop, the process ends.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (stop, ended) = (self.stop.clone(), self.ended.clone());
        self.critical.spawn(async move {
            task.await;
            if !stop.is_cancelled() {
                let _ = ended.set(name); // the first one counts
                error!(
                    task = name,
                    "a task ended that should run on; the process stops"
                );
                stop.cancel();
            }
        });
    }

    /// The routes `/health`, `/ready` and `/metrics`.
    pub fn ops_routes(&self) -> axum::Router {
        health::routes(self.health.clone(), self.metrics.clone())
    }

    /// Serves the operator's routes on a port of their own, for a service that has no other port.
    ///
    /// # Errors
    /// The port cannot be had.
    pub async fn serve_ops(&mut self, address: SocketAddr) -> Result<(), ServiceError> {
        let listener = listen(address).await?;
        let (tasks, stop) = (self.tasks.clone(), self.stop.clone());
        let connections = Timed { stop: stop.clone() };
        let server = HttpServer::new(self.ops_routes(), connections, OPS_LIMITS, tasks, stop);
        self.spawn("operations port", server.run(listener));
        Ok(())
    }

    /// Runs until the stop, then until everything is settled.
    ///
    /// # Errors
    /// A task ended early, or the deadline passed.
    pub async fn finish(mut self) -> Result<(), ServiceError> {
        let mut early = None;
        tokio::select! {
            () = self.stop.cancelled() => {}
            Some(Err(e)) = self.critical.join_next() => {
                error!(error = %e, "a task failed; the process stops");
                early = Some(ServiceError::TaskEnded(e.to_string()));
                self.stop.cancel();
            }
        }
        info!("stopping");
        let settle = async {
            while let Some(ended) = self.critical.join_next().await {
                if let Err(e) = ended {
                    error!(error = %e, "a task failed while stopping");
                }
            }
            self.tasks.close();
            self.tasks.wait().await;
            if let Err(e) = self.connection.client.flush().await {
                error!(error = %e, "the last acknowledgements may be lost; those messages come again");
            }
        };
        let settled = tokio::time::timeout(STOP_DEADLINE - STOP_RESERVE, settle).await;
        info!("stopped");
        let early = early.or_else(|| {
            self.ended
                .get()
                .map(|name| ServiceError::TaskEnded((*name).to_owned()))
        });
        match (early, settled) {
            (Some(e), _) => Err(e),
            (None, Ok(())) => Ok(()),
            (None, Err(_)) => Err(ServiceError::StopTimeout(STOP_DEADLINE)),
        }
    }
}

/// Listens on a port.
///
/// # Errors
/// [`ServiceError::Listen`]
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ServiceError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| ServiceError::Listen { address, error })
}

/// The whole `main` of a service: reads the settings with `read`, runs `run` until SIGINT or
/// SIGTERM. Exit code 2 for bad settings, 1 for a failure.
pub fn main<C, R, F, Fut>(read: R, run: F) -> ExitCode
where
    R: FnOnce(&mut Settings) -> C,
    F: FnOnce(C, CancellationToken) -> Fut,
    Fut: Future<Output = Result<(), ServiceError>>,
{
    let mut settings = Settings::load();
    let config = read(&mut settings);
    if let Err(problems) = settings.finish() {
        eprintln!("{problems}");
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        let signalled = stop.clone();
        let signals = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        );
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
            return Err(ServiceError::Start("signals cannot be received".into()));
        };
        tokio::spawn(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            signalled.cancel();
        });
        run(config, stop).await
    });
    // `Service::finish` has waited for all tasks that matter.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
