//! How `petbuddy` ends: the one table of exit codes, and the plain sentence of each failure. It
//! decides nothing else.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The table, as `petbuddy --help` shows it.
pub const TABLE: &str = "\
Exit codes:
  0  stopped as asked (Ctrl-C, SIGTERM, SIGHUP, end of input with --until-stdin-closes)
  1  something else failed; the sentence says what
  2  a wrong option or setting, or the folder is in use by another run
  3  a port is taken
  4  nats-server or mongod can neither be found nor fetched
  5  the folder cannot be written, or its disk is full
  6  a part did not become ready in time";

/// Why a command ends early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Another run holds the folder's lock.
    #[error("petbuddy is already running in {}{}: stop that one first, or give this one a folder of its own with --dir", folder.display(), pid.map(|p| format!(" (process {p})")).unwrap_or_default())]
    AlreadyRunning {
        /// The folder.
        folder: PathBuf,
        /// The process that holds it, where known.
        pid: Option<u32>,
    },
    /// A setting of the user's that cannot work.
    #[error("{0}")]
    Settings(String),
    /// One sentence for each port.
    #[error("{}", .0.join("\n"))]
    PortsTaken(Vec<String>),
    /// A real part that is not there.
    #[error(
        "{name} {minimum} or newer is needed: {why}. Install it on PATH, or set {variable} to one that runs."
    )]
    MissingPart {
        /// `nats-server` or `mongod`.
        name: &'static str,
        /// Oldest version that will do.
        minimum: &'static str,
        /// What was tried.
        why: String,
        /// The variable that makes it unnecessary.
        variable: &'static str,
    },
    /// The state folder or the cache.
    #[error("{}", storage_sentence(path, error))]
    Storage {
        /// Where.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Started, but not up.
    #[error("{what} is not ready after {limit:?}: {reason}")]
    NotReady {
        /// Which part.
        what: String,
        /// How long was waited.
        limit: Duration,
        /// What it said last.
        reason: String,
    },
    /// A part that ends again and again while it starts.
    #[error("{what} ended {ends} times while starting. Its last words, from {}:\n{words}", log.display())]
    KeepsEnding {
        /// Which part.
        what: String,
        /// How often.
        ends: u32,
        /// The file with all its words.
        log: PathBuf,
        /// The last of them.
        words: String,
    },
    /// A running part that was asked and does not answer.
    #[error("{0}")]
    NoAnswer(String),
    /// nats-server takes no more than three quarters of the free disk.
    #[error(
        "the disk of NATS has no room for the streams ({0}): free some, or set EVENTS_MAX_BYTES to less than the default 4294967296"
    )]
    NoRoom(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// For `map_err` on file work.
    pub fn storage(path: &Path) -> impl FnOnce(io::Error) -> Failure + use<> {
        let path = path.to_owned();
        move |error| Failure::Storage { path, error }
    }

    /// Its row of [`TABLE`].
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Other(_) => 1,
            Failure::AlreadyRunning { .. } | Failure::Settings(_) => 2,
            Failure::PortsTaken(_) => 3,
            Failure::MissingPart { .. } => 4,
            Failure::Storage { .. } | Failure::NoRoom(_) => 5,
            Failure::NotReady { .. } | Failure::KeepsEnding { .. } | Failure::NoAnswer(_) => 6,
        })
    }
}

fn storage_sentence(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!(
                "no space is left for {path}: free some, or choose a folder on another disk with --dir"
            )
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!("{path} cannot be written ({error}): choose another folder with --dir")
        }
        _ => format!("{path} cannot be used: {error}"),
    }
}
