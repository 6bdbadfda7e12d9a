//! Logs and metrics. JSON lines go to `combined.log` and `error.log`. The console shows lines for
//! people in development, and JSON in production. Message bodies and tokens must never be logged.
//! Exports no traces.

use std::fmt;
use std::io::IsTerminal;
use std::path::Path;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::service::settings::{Common, Environment};

/// Log lines that may wait for the disk. Further lines are dropped; `tracing_appender` counts them.
const LOG_QUEUE_LINES: usize = 16_384;

/// Buckets of every duration histogram, in seconds.
const SECONDS: &[f64] = &[
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Why logs or metrics cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The folder cannot be made or written.
    #[error("cannot write logs into `{folder}`: {error}")]
    Logs {
        /// `LOG_DIR`
        folder: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// Another recorder or subscriber is there already.
    #[error("telemetry cannot be set up: {0}")]
    Twice(String),
}

/// Keeps the log writers alive; what is queued is written when it is dropped.
pub struct Telemetry {
    /// Renders `/metrics`.
    pub metrics: PrometheusHandle,
    _guards: Vec<WorkerGuard>,
}

/// Sets up logging and metrics for the process. Call once.
///
/// # Errors
/// [`TelemetryError`], to be printed and to end the process.
pub fn init(common: &Common, service: &'static str) -> Result<Telemetry, TelemetryError> {
    let folder = Path::new(&common.log_dir);
    let logs = |error| TelemetryError::Logs {
        folder: common.log_dir.clone(),
        error,
    };
    std::fs::create_dir_all(folder).map_err(logs)?;
    let mut guards = Vec::new();
    let mut file = |name: &str| {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join(name))
            .map_err(logs)?;
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(LOG_QUEUE_LINES)
            .lossy(true)
            .finish(file);
        guards.push(guard);
        Ok(writer)
    };
    let json = || {
        tracing_subscriber::fmt::layer()
            .fmt_fields(JsonFields::new())
            .event_format(ServiceJson {
                inner: Format::default().json().flatten_event(true),
                service,
            })
    };
    let combined = json().with_writer(file("combined.log")?).boxed();
    let errors = json()
        .with_writer(file("error.log")?)
        .with_filter(LevelFilter::ERROR)
        .boxed();
    let console = match common.environment {
        Environment::Production => json().boxed(),
        _ => tracing_subscriber::fmt::layer()
            .with_target(false)
            .with_ansi(std::io::stdout().is_terminal())
            .boxed(),
    };
    // Otherwise async_nats would log each attempt to reconnect; `net::connection` says it once.
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| {
        format!(
            "{},async_nats=warn,mongodb=warn,hyper=warn,reqwest=warn",
            common.log_level
        )
    });
    tracing_subscriber::registry()
        .with(EnvFilter::new(filter))
        .with(vec![combined, errors, console])
        .try_init()
        .map_err(|e| TelemetryError::Twice(e.to_string()))?;
    let twice = |e: BuildError| TelemetryError::Twice(e.to_string());
    let metrics = PrometheusBuilder::new()
        .add_global_label("service", service)
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)
        .map_err(twice)?
        .install_recorder()
        .map_err(twice)?;
    // Says which build runs. Otherwise a process that has done nothing yet would show no metric.
    metrics::gauge!("build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(Telemetry {
        metrics,
        _guards: guards,
    })
}

/// JSON lines with the service's name in each.
struct ServiceJson {
    inner: Format<Json>,
    service: &'static str,
}

impl<S, N> FormatEvent<S, N> for ServiceJson
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::with_capacity(256);
        self.inner
            .format_event(ctx, Writer::new(&mut line), event)?;
        match line.strip_prefix('{') {
            Some(rest) => write!(writer, "{{\"service\":\"{}\",{rest}", self.service),
            None => writer.write_str(&line),
        }
    }
}
