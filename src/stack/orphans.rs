//! Ends what a killed run left behind in a folder: its children live on. A process is ended only if
//! it was recorded there and its command line still names the folder; a number that now belongs to
//! somebody else is left alone.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, interval};

use crate::cli::exit_code::Failure;
use crate::stack::binaries::{MONGOD, NATS_SERVER};
use crate::stack::console::Console;
use crate::stack::run_file;
use crate::stack::state_dir::Folder;
use crate::stack::supervisor::signal;

/// From SIGTERM to SIGKILL: mongod writes a checkpoint.
const TERM_LIMIT: Duration = Duration::from_secs(15);
/// From SIGKILL to giving up.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(50);

/// Ends them all, the services before what they speak to. The folder's lock is held, so no run is
/// behind them any more.
///
/// # Errors
/// One that cannot be ended.
pub async fn end(folder: &Folder, console: &Console) -> Result<(), Failure> {
    let left: Vec<(String, u32)> = run_file::read_pids(&folder.file("pids.json"))
        .into_iter()
        .filter(|(name, pid)| name != "petbuddy" && is_ours(*pid, folder.path()))
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    console.say(format!(
        "An earlier run was killed; ending what it left: {}",
        names(&left)
    ));
    let (parts, services) = left
        .into_iter()
        .partition(|(name, _)| [NATS_SERVER.name, MONGOD.name].contains(&name.as_str()));
    for group in [services, parts] {
        end_group(group, folder.path()).await?;
    }
    Ok(())
}

async fn end_group(mut left: Vec<(String, u32)>, folder: &Path) -> Result<(), Failure> {
    for (kind, limit) in [(Signal::TERM, TERM_LIMIT), (Signal::KILL, KILL_LIMIT)] {
        for (_, pid) in &left {
            // It may have ended since; looking tells.
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

/// The arguments of a process, parted by spaces; `None` or empty if it is no more (also while
/// nobody has collected its status).
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
    fn only_a_command_line_with_this_very_folder_is_ours() {
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
    fn this_process_has_a_command_line_and_no_folder() {
        assert!(command_line(std::process::id()).is_some_and(|line| !line.is_empty()));
        assert!(!is_ours(
            std::process::id(),
            Path::new("/nowhere/.petbuddy")
        ));
    }
}
