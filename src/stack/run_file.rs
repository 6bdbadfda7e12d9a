//! What a run tells other programs: `run.json` (addresses, demo login, processes) for tests and
//! scripts while everything is up, and `pids.json` from the first child on. From `pids.json` a
//! later run learns which children a killed run has left behind. Starts and stops nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::stack::private_file::{remove, replace};
use crate::stack::state_dir::StateDir;

/// The content of `run.json`. The file exists only while the whole system is up, and is replaced at
/// each restart of a child.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Base URL of the first gateway.
    pub gateway: String,
    /// Base URL of the first realtime node.
    pub realtime: String,
    /// URL of NATS, without user and password.
    pub nats: String,
    /// URL of MongoDB, with the database's name.
    pub mongodb: String,
    /// Base URL of the bot: the stub, or the value of `META_BOT_BASE_URL`.
    pub bot: String,
    /// The demo company's manager; `None` if there is no such login. An external database may have
    /// another password.
    pub demo: Option<Demo>,
    /// Process ids by name: `petbuddy`, `nats-server`, `mongod`, `bot`, `gateway`, `persister-2` …
    pub pids: BTreeMap<String, u32>,
    /// Base URLs of every replica by service.
    pub services: BTreeMap<String, Vec<String>>,
    /// The NATS user for people.
    pub operator: Login,
    /// How often each child was restarted. A child that never was is absent.
    pub restarts: BTreeMap<String, u32>,
}

/// The demo login, for `POST /api/v1/auth/login`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Demo {
    pub email: String,
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

impl Login {
    /// A login for each user, from a map of passwords by user.
    pub fn by_user(passwords: &BTreeMap<String, String>) -> BTreeMap<String, Login> {
        let login = |(user, password): (&String, &String)| {
            let login = Login {
                user: user.clone(),
                password: password.clone(),
            };
            (user.clone(), login)
        };
        passwords.iter().map(login).collect()
    }
}

/// Keeps `run.json` and `pids.json` in step with the run.
pub struct RunFile {
    run_file: PathBuf,
    pids_file: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    run: Run,
    published: bool,
}

impl RunFile {
    /// Writes `pids.json` with this process alone.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn open(state_dir: &StateDir) -> io::Result<RunFile> {
        let file = RunFile {
            run_file: state_dir.run_file(),
            pids_file: state_dir.pids_file(),
            state: Mutex::default(),
        };
        file.started("petbuddy", std::process::id())?;
        Ok(file)
    }

    /// Records a child's new process.
    ///
    /// # Errors
    /// The folder cannot be written. The run can go on.
    pub fn started(&self, name: &str, pid: u32) -> io::Result<()> {
        self.change(|run| {
            run.pids.insert(name.to_owned(), pid);
        })
    }

    /// Records that a child is about to be restarted.
    ///
    /// # Errors
    /// See [`RunFile::started`].
    pub fn restarting(&self, name: &str) -> io::Result<()> {
        self.change(|run| {
            run.pids.remove(name);
            *run.restarts.entry(name.to_owned()).or_default() += 1;
        })
    }

    /// Writes `run.json`: everything is up. The processes and restarts in `run` are ignored; the
    /// recorded ones are written.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn publish(&self, run: Run) -> io::Result<()> {
        self.set_published(true);
        self.change(|old| {
            *old = Run {
                pids: std::mem::take(&mut old.pids),
                restarts: std::mem::take(&mut old.restarts),
                ..run
            }
        })
    }

    /// Removes `run.json`: the system is about to stop.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn withdraw(&self) -> io::Result<()> {
        self.set_published(false);
        remove(&self.run_file)
    }

    /// Removes `pids.json`: no child is left.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn close(&self) -> io::Result<()> {
        remove(&self.pids_file)
    }

    fn set_published(&self, published: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.published = published;
    }

    fn change(&self, change: impl FnOnce(&mut Run)) -> io::Result<()> {
        // A poisoned lock still guards a complete state. The lock is held while the files are
        // written, so that the newer state is the later file.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state.run);
        replace(&self.pids_file, &serde_json::to_string(&state.run.pids)?)?;
        if state.published {
            replace(&self.run_file, &serde_json::to_string_pretty(&state.run)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::state_dir::tests::Scratch;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_run_file_exists_while_published_and_follows_restarts() {
        let scratch = Scratch::new("run-file");
        let state_dir = StateDir::open(&scratch.0).unwrap();
        let run_file = RunFile::open(&state_dir).unwrap();
        run_file.started("gateway", 7).unwrap();
        let path = state_dir.run_file();
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
        run_file.publish(run.clone()).unwrap();
        run_file.restarting("gateway").unwrap();
        run_file.started("gateway", 8).unwrap();

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
        assert_eq!(state_dir.recorded_pids(), expected.pids);

        run_file.withdraw().unwrap();
        run_file.close().unwrap();
        assert!(!path.exists() && !state_dir.pids_file().exists());
    }
}
