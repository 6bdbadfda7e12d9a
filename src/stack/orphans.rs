//! Ends the children that a killed run has left running. A process is ended only if it is recorded
//! in the folder and its command line names the folder. Because process ids are reused, a recorded
//! id alone may belong to a stranger's process, which is left alone.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, interval};

use crate::failure::Failure;
use crate::stack::binaries::{MONGOD, NATS_SERVER};
use crate::stack::console::Console;
use crate::stack::state_dir::StateDir;
use crate::stack::supervisor::signal;

/// From SIGTERM to SIGKILL. mongod needs this time to write a checkpoint.
const TERM_LIMIT: Duration = Duration::from_secs(15);
/// From SIGKILL until the process counts as one that cannot be ended.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Pause between two looks whether the processes have ended.
const LOOK: Duration = Duration::from_millis(50);

/// Ends all orphans, the services before nats-server and mongod. The caller holds the folder's
/// lock, so the processes belong to no living run.
///
/// # Errors
/// A process cannot be ended.
pub async fn end(state_dir: &StateDir, console: &Console) -> Result<(), Failure> {
    let left: Vec<(String, u32)> = state_dir
        .recorded_pids()
        .into_iter()
        .filter(|(name, pid)| name != "petbuddy" && is_ours(*pid, state_dir.path()))
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    console.say(format!(
        "An earlier run was killed; ending what it left: {}",
        names(&left)
    ));
    let (servers, services) = left
        .into_iter()
        .partition(|(name, _)| [NATS_SERVER.name, MONGOD.name].contains(&name.as_str()));
    for group in [services, servers] {
        end_group(group, state_dir.path()).await?;
    }
    Ok(())
}

async fn end_group(mut left: Vec<(String, u32)>, folder: &Path) -> Result<(), Failure> {
    for (kind, limit) in [(Signal::TERM, TERM_LIMIT), (Signal::KILL, KILL_LIMIT)] {
        for (_, pid) in &left {
            // The process may have ended by itself. The loop below looks.
            drop(signal(*pid, kind));
        }
        let (deadline, mut look) = (Instant::now() + limit, interval(LOOK));
        while !left.is_empty() && Instant::now() < deadline {
            look.tick().await;
            left.retain(|(_, pid)| is_ours(*pid, folder));
        }
        if left.is_empty() {
            return Ok(());
        }
    }
    Err(Failure::Other(format!(
        "these processes of an earlier run cannot be ended: {}",
        names(&left)
    )))
}

fn names(left: &[(String, u32)]) -> String {
    left.iter()
        .map(|(name, pid)| format!("{name} ({pid})"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn is_ours(pid: u32, folder: &Path) -> bool {
    command_line(pid).is_some_and(|line| names_folder(&line, &folder.to_string_lossy()))
}

/// Whether a command line has the folder, or a path in it, as an argument.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let (before, after) = (
            line[..at].chars().next_back(),
            line[at + folder.len()..].chars().next(),
        );
        matches!(before, Some(' ' | '=')) && matches!(after, None | Some(' ' | '/'))
    })
}

/// The arguments of a process, separated by spaces; `None` or empty for a process that has ended,
/// even if its status has not been collected.
fn command_line(pid: u32) -> Option<String> {
    if Path::new("/proc/self/cmdline").exists() {
        let text = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        return Some(String::from_utf8_lossy(&text).replace('\0', " "));
    }
    let output = Command::new("ps")
        .args(["-o", "args=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ours_only_if_its_command_line_names_this_folder() {
        assert!(names_folder(
            "nats-server -c /a/.petbuddy/nats/single.conf",
            "/a/.petbuddy"
        ));
        assert!(names_folder(
            "petbuddy gateway --of /a/.petbuddy",
            "/a/.petbuddy"
        ));
        assert!(names_folder(
            "petbuddy gateway --of=/a/.petbuddy ",
            "/a/.petbuddy"
        ));
        assert!(!names_folder(
            "petbuddy gateway --of /a/.petbuddy2",
            "/a/.petbuddy"
        ));
        assert!(!names_folder(
            "petbuddy gateway --of /b/a/.petbuddy",
            "/a/.petbuddy"
        ));
        assert!(!names_folder("vim", "/a/.petbuddy"));
    }

    #[test]
    fn the_test_process_itself_is_not_an_orphan() {
        assert!(command_line(std::process::id()).is_some_and(|line| !line.is_empty()));
        assert!(!is_ours(
            std::process::id(),
            Path::new("/nowhere/.petbuddy")
        ));
    }
}
