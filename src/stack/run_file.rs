//! What a run tells others: `run.json` (addresses, demo login, processes) for tests and scripts
//! while everything is up, and `pids.json` from the first child on, by which a later run finds what
//! a killed one left behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::stack::state_dir::{Folder, write_private};

/// `run.json`. There while the whole system is up, and only then; replaced whole at each restart of
/// a part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Base URL of the first gateway.
    pub gateway: String,
    /// Base URL of the first realtime node.
    pub realtime: String,
    /// NATS, without user and password.
    pub nats: String,
    /// MongoDB, with the database's name.
    pub mongodb: String,
    /// Base URL of the bot: the stub, or what `META_BOT_BASE_URL` says.
    pub bot: String,
    /// The demo company's manager; `None` if there is no such login (an external database may have
    /// another password).
    pub demo: Option<Demo>,
    /// Process ids by name: `petbuddy`, `nats-server`, `mongod`, `bot`, `gateway`, `persister-2`, …
    pub pids: BTreeMap<String, u32>,
    /// Base URLs of every replica by service.
    pub services: BTreeMap<String, Vec<String>>,
    /// The NATS user for people.
    pub operator: Login,
    /// How often each part was started again. A part that never was is absent.
    pub restarts: BTreeMap<String, u32>,
}

/// The demo login.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Demo {
    /// For `POST /api/v1/auth/login`.
    pub email: String,
    /// Likewise.
    pub password: String,
    /// The company of that manager.
    pub company_id: String,
}

/// A login at NATS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// `nats --user`
    pub user: String,
    /// `nats --password`
    pub password: String,
}

/// Keeps both files in step with the run.
pub struct Board {
    run_file: PathBuf,
    pids_file: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    run: Run,
    published: bool,
}

impl Board {
    /// Begins with this process alone.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn open(folder: &Folder) -> io::Result<Board> {
        let board = Board {
            run_file: folder.file("run.json"),
            pids_file: folder.file("pids.json"),
            state: Mutex::default(),
        };
        board.started("petbuddy", std::process::id())?;
        Ok(board)
    }

    /// Notes a child's new process.
    ///
    /// # Errors
    /// The folder cannot be written; the run can go on.
    pub fn started(&self, name: &str, pid: u32) -> io::Result<()> {
        self.change(|run| {
            run.pids.insert(name.to_owned(), pid);
        })
    }

    /// Notes that a child is about to be started again.
    ///
    /// # Errors
    /// See [`Board::started`].
    pub fn restarting(&self, name: &str) -> io::Result<()> {
        self.change(|run| {
            run.pids.remove(name);
            *run.restarts.entry(name.to_owned()).or_default() += 1;
        })
    }

    /// Writes `run.json`: everything is up. Processes and restarts are those noted so far, whatever
    /// `run` says.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn publish(&self, run: Run) -> io::Result<()> {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .published = true;
        self.change(|old| {
            *old = Run {
                pids: std::mem::take(&mut old.pids),
                restarts: std::mem::take(&mut old.restarts),
                ..run
            }
        })
    }

    /// Removes `run.json`: things are about to stop.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn withdraw(&self) -> io::Result<()> {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .published = false;
        remove(&self.run_file)
    }

    /// Removes `pids.json`: no child is left.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn close(&self) -> io::Result<()> {
        remove(&self.pids_file)
    }

    fn change(&self, change: impl FnOnce(&mut Run)) -> io::Result<()> {
        // A poisoned lock still holds a whole state. Held over the writing, so that the newer state
        // is the later file.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state.run);
        write_private(&self.pids_file, &serde_json::to_string(&state.run.pids)?)?;
        if state.published {
            write_private(&self.run_file, &serde_json::to_string_pretty(&state.run)?)?;
        }
        Ok(())
    }
}

/// Process ids by name, from a `pids.json`; none if it is missing or unreadable.
pub fn read_pids(pids_file: &Path) -> BTreeMap<String, u32> {
    fs::read(pids_file)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

/// Removes a file that may not be there.
///
/// # Errors
/// It is there and stays.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::state_dir::tests::Scratch;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn run_json_appears_when_published_follows_restarts_and_goes() {
        let scratch = Scratch::new("board");
        let folder = Folder::open(&scratch.0).unwrap();
        let board = Board::open(&folder).unwrap();
        board.started("gateway", 7).unwrap();
        let path = folder.file("run.json");
        assert!(!path.exists());
        let demo = Demo {
            email: "a@b".into(),
            password: "p".into(),
            company_id: "c".into(),
        };
        let run = Run {
            gateway: "http://127.0.0.1:4000".into(),
            demo: Some(demo),
            ..Run::default()
        };
        board.publish(run.clone()).unwrap();
        board.restarting("gateway").unwrap();
        board.started("gateway", 8).unwrap();

        let read: Run = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let own = std::process::id();
        let expected = Run {
            pids: BTreeMap::from([("gateway".into(), 8), ("petbuddy".into(), own)]),
            restarts: BTreeMap::from([("gateway".into(), 1)]),
            ..run
        };
        assert_eq!(read, expected);
        assert!(
            fs::read_to_string(&path)
                .unwrap()
                .contains("\"companyId\": \"c\"")
        );
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(read_pids(&folder.file("pids.json")), expected.pids);

        board.withdraw().unwrap();
        board.close().unwrap();
        assert!(!path.exists() && !folder.file("pids.json").exists());
    }
}
