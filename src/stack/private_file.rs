//! Files that only their owner may read and that are replaced as a whole. Does not know what a file
//! means.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::de::DeserializeOwned;

/// Replaces a file as a whole, readable by its owner only. A reader sees the old text or the new
/// one, never a part of it.
///
/// # Errors
/// The error of the file system.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    // A run that was killed here may have left a temporary file with another mode.
    remove(&temporary)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// Removes a file, if it exists.
///
/// # Errors
/// The file exists and cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Reads a JSON file. Returns `None` if the file is missing or does not hold a `T`.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::state_dir::tests::Scratch;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_replaced_file_is_private_even_after_a_killed_run_left_a_public_temporary_file() {
        let scratch = Scratch::new("private-file");
        let path = scratch.0.join("a.json");
        fs::write(path.with_extension("new"), "half").unwrap();
        replace(&path, "[1]").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(read_json::<Vec<u8>>(&path), Some(vec![1]));
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(read_json::<Vec<u8>>(&path), None);
    }
}
