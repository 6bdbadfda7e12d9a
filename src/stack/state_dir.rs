//! The folder that holds all state of a run (`.petbuddy`): its lock and its paths. Does not know
//! what the files mean.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::stack::private_file;

/// A folder that this run holds alone, until the value is dropped or the process ends in any way.
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Creates the folder and takes its lock.
    ///
    /// # Errors
    /// Another run holds the lock, or the folder cannot be written.
    pub fn open(path: &Path) -> Result<StateDir, Failure> {
        create(path)?;
        // The path is absolute because it stands in the arguments of the children. A later run
        // recognises the children by it.
        let path = path.canonicalize().map_err(Failure::storage(path))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(Failure::storage(&lock_path))?;
        let locked = lock.try_lock();
        let state_dir = StateDir { path, _lock: lock };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = state_dir.recorded_pids().get("petbuddy").copied();
                return Err(Failure::AlreadyRunning {
                    folder: state_dir.path,
                    pid,
                });
            }
            Err(TryLockError::Error(error)) => {
                return Err(Failure::Storage {
                    path: lock_path,
                    error,
                });
            }
        }
        // A run file can be there only if an earlier run was killed. Its content is outdated.
        let run_file = state_dir.run_file();
        private_file::remove(&run_file).map_err(Failure::storage(&run_file))?;
        for folder in [state_dir.logs(), state_dir.nats(), state_dir.mongodb()] {
            create(&folder)?;
        }
        Ok(state_dir)
    }

    /// The folder itself, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The output of the children, and the logs of the services.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Configuration and data of nats-server.
    pub fn nats(&self) -> PathBuf {
        self.path.join("nats")
    }

    /// Data of mongod.
    pub fn mongodb(&self) -> PathBuf {
        self.path.join("mongodb")
    }

    /// Addresses, processes and the demo login, while everything is up.
    pub fn run_file(&self) -> PathBuf {
        self.file("run.json")
    }

    /// Process ids by name, from the start of the first child on.
    pub fn pids_file(&self) -> PathBuf {
        self.file("pids.json")
    }

    /// The content of [`StateDir::pids_file`]; empty if the file is missing or unreadable.
    pub fn recorded_pids(&self) -> BTreeMap<String, u32> {
        private_file::read_json(&self.pids_file()).unwrap_or_default()
    }

    /// The path of a file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Creates a folder that only its owner may enter, unless the folder exists.
fn create(folder: &Path) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(Failure::storage(folder))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::fs;

    /// A temporary folder of one test, removed when the value is dropped.
    pub struct Scratch(pub PathBuf);

    impl Scratch {
        pub fn new(name: &str) -> Scratch {
            let path =
                std::env::temp_dir().join(format!("petbuddy-test-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn a_second_run_in_the_same_folder_is_refused() {
        let scratch = Scratch::new("lock");
        let first = StateDir::open(&scratch.0.join("state")).unwrap();
        let second = StateDir::open(&scratch.0.join("state")).err().unwrap();
        assert!(matches!(second, Failure::AlreadyRunning { .. }), "{second}");
        drop(first);
        StateDir::open(&scratch.0.join("state")).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_created_is_a_storage_failure() {
        let scratch = Scratch::new("file");
        fs::write(scratch.0.join("file"), "").unwrap();
        let failure = StateDir::open(&scratch.0.join("file/state")).err().unwrap();
        assert!(matches!(failure, Failure::Storage { .. }), "{failure}");
    }
}
