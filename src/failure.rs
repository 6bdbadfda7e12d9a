//! Why a command of `petbuddy` ends early, each failure with one plain sentence for its user. The
//! exit codes are in `cli::exit_code`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a command ends early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Another run holds the lock of the state folder.
    #[error(
        "petbuddy is already running in {}{}: stop that one first, or give this one a folder of \
         its own with --dir",
        folder.display(),
        pid.map(|p| format!(" (process {p})")).unwrap_or_default()
    )]
    AlreadyRunning {
        folder: PathBuf,
        /// The process that holds the lock, if it is known.
        pid: Option<u32>,
    },
    /// A setting or option that cannot work.
    #[error("{0}")]
    Settings(String),
    /// Ports that other programs use; one sentence for each port.
    #[error("{}\nOr start with --free-ports.", .0.join("\n"))]
    PortsTaken(Vec<String>),
    /// A server program that is neither found nor downloaded.
    #[error(
        "{name} {minimum} or newer is needed: {why}. Install it on PATH, or set {variable} to one \
         that runs."
    )]
    MissingProgram {
        /// `nats-server` or `mongod`.
        name: &'static str,
        /// The oldest version that works.
        minimum: &'static str,
        why: String,
        /// The environment variable that names an external server instead.
        variable: &'static str,
    },
    /// The state folder or the cache cannot be used.
    #[error("{}", storage_sentence(path, error))]
    Storage { path: PathBuf, error: io::Error },
    /// A part was started but did not become ready.
    #[error("{what} is not ready after {limit:?}: {reason}")]
    NotReady {
        what: String,
        /// How long the start waited.
        limit: Duration,
        /// The last answer of the part.
        reason: String,
    },
    /// A child that ends again and again while it starts.
    #[error(
        "{what} ended {ends} times while starting. Its last words, from {}:\n{words}",
        log.display()
    )]
    KeepsEnding {
        what: String,
        ends: u32,
        /// The log file of the child.
        log: PathBuf,
        /// The last lines of the child.
        words: String,
    },
    /// A running part does not answer a request.
    #[error("{0}")]
    NoAnswer(String),
    /// The disk has no room for the streams: nats-server takes at most three quarters of the free
    /// space.
    #[error(
        "the disk of NATS has no room for the streams ({0}): free some, or set EVENTS_MAX_BYTES to \
         less than the default 4294967296"
    )]
    NoRoom(String),
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// For `map_err` on errors of the file system.
    pub fn storage(path: &Path) -> impl FnOnce(io::Error) -> Failure + use<> {
        let path = path.to_owned();
        move |error| Failure::Storage { path, error }
    }
}

fn storage_sentence(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!(
                "no space is left for {path}: free some, or choose a folder on another disk with \
                 --dir"
            )
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!("{path} cannot be written ({error}): choose another folder with --dir")
        }
        _ => format!("{path} cannot be used: {error}"),
    }
}
