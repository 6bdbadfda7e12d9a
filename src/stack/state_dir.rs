//! The folder that holds all state of a run (`.petbuddy`): its lock, its paths, and private files
//! that are replaced whole. What the files mean is known elsewhere.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::cli::exit_code::Failure;
use crate::stack::run_file;

/// A folder that this run holds alone, until it is dropped or the process ends in whatever way.
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder and takes its lock.
    ///
    /// # Errors
    /// Another run holds it, or it cannot be written.
    pub fn open(path: &Path) -> Result<Folder, Failure> {
        let storage = || Failure::storage(path);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(storage())?;
        // Absolute, because it stands in the arguments of the children, by which a later run knows
        // them.
        let path = path.canonicalize().map_err(storage())?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(Failure::storage(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = run_file::read_pids(&path.join("pids.json"))
                    .get("petbuddy")
                    .copied();
                return Err(Failure::AlreadyRunning { folder: path, pid });
            }
            Err(TryLockError::Error(error)) => {
                return Err(Failure::Storage {
                    path: lock_path,
                    error,
                });
            }
        }
        let folder = Folder { path, _lock: lock };
        // Of an earlier run that was killed: what it says is true no more.
        let run_file = folder.file("run.json");
        run_file::remove(&run_file).map_err(Failure::storage(&run_file))?;
        for made in [folder.logs(), folder.nats(), folder.mongodb()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&made)
                .map_err(Failure::storage(&made))?;
        }
        Ok(folder)
    }

    /// The folder itself, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the parts print, and the services' logs.
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

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Replaces a file whole, readable by its owner only: a reader sees the old text or the new, never
/// a part.
///
/// # Errors
/// What the system says.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    // A leftover of a run that was killed here could have another mode.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A folder of a test's own, gone with it.
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
    fn a_second_run_in_the_same_folder_is_told_so() {
        let scratch = Scratch::new("lock");
        let first = Folder::open(&scratch.0.join("state")).unwrap();
        let second = Folder::open(&scratch.0.join("state")).err().unwrap();
        assert!(matches!(second, Failure::AlreadyRunning { .. }), "{second}");
        drop(first);
        Folder::open(&scratch.0.join("state")).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_a_storage_failure() {
        let scratch = Scratch::new("file");
        fs::write(scratch.0.join("file"), "").unwrap();
        let failure = Folder::open(&scratch.0.join("file/state")).err().unwrap();
        assert!(matches!(failure, Failure::Storage { .. }), "{failure}");
    }
}
