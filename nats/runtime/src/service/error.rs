//! Why a service ends, or does not start. Knows no service.

use std::net::SocketAddr;
use std::time::Duration;

use crate::service::telemetry::TelemetryError;

/// Why a service ends other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Logs or metrics cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The connection cannot even be begun.
    #[error("NATS: {0}")]
    Nats(String),
    /// A port cannot be had.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Address and port.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// Something the service needs cannot be set up.
    #[error("{0}")]
    Start(String),
    /// A task ended that should run as long as the process.
    #[error("the task `{0}` ended")]
    TaskEnded(String),
    /// Work was still under way when the time to stop, which is named here, was over.
    #[error("work was still under way {0:?} after the stop; it comes again")]
    StopTimeout(Duration),
}
