//! The output of one child. Every line goes to the child's log file, whose size is bounded;
//! problems also go to the console; the last few lines are kept to explain an early end. Does not
//! know why a child runs.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::stack::console::Console;

/// Bytes of a line. A longer line is cut into several.
const LINE_BYTES: u64 = 64 * 1024;
/// Bytes of a log file. A larger file is renamed to `<name>.out.1`, which it replaces.
const FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Lines kept to explain an early end. Older lines are dropped.
const LAST_LINES: usize = 5;
/// Characters of a kept line. The rest of the line is cut off.
const SHOWN_CHARACTERS: usize = 400;

/// Which lines of a child the console shows. The log file always has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFilter {
    All,
    /// For a service: warnings, errors, and lines that are no log lines, such as a panic or a list
    /// of wrong settings.
    ServiceProblems,
    /// For nats-server: warnings and errors.
    NatsProblems,
    /// For mongod: errors. Its warnings only concern production.
    MongodErrors,
}

impl LineFilter {
    fn show(self, line: &str) -> bool {
        let has = |marks: &[&str]| marks.iter().any(|mark| line.contains(mark));
        match self {
            LineFilter::All => true,
            LineFilter::ServiceProblems if line.starts_with('{') => {
                has(&[r#""level":"WARN""#, r#""level":"ERROR""#])
            }
            LineFilter::ServiceProblems => !line
                .split_whitespace()
                .take(2)
                .any(|word| matches!(word, "INFO" | "DEBUG" | "TRACE")),
            // The plaintext passwords were made for this run and are kept in secrets.json only.
            LineFilter::NatsProblems => {
                !has(&["[INF]", "[DBG]", "[TRC]", "Plaintext passwords detected"])
            }
            LineFilter::MongodErrors => {
                has(&[r#""s":"E""#, r#""s":"F""#]) || !line.starts_with('{')
            }
        }
    }
}

/// The last lines of a child, across its restarts.
#[derive(Clone, Default)]
pub struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    fn push(&self, line: &str) {
        let line: String = line.chars().take(SHOWN_CHARACTERS).collect();
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A child that keeps ending prints the same lines each time. Each is kept once.
        if lines.contains(&line) {
            return;
        }
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// All kept lines as one indented text.
    pub fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .iter()
            .map(|line| format!("  {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Copies the output of one child to its log file and to the console.
#[derive(Clone)]
pub struct ChildOutput {
    /// The child's name, in front of each line on the console.
    pub name: String,
    /// The log file.
    pub file: PathBuf,
    pub shown: LineFilter,
    pub console: Console,
    pub last: LastLines,
}

impl ChildOutput {
    /// Starts a thread that copies everything from `pipe` until the end of the pipe.
    ///
    /// # Errors
    /// The file cannot be opened, or the system refuses a thread.
    pub fn copy(&self, pipe: PipeReader) -> io::Result<()> {
        let (mut file, mut size) = open(&self.file)?;
        let output = self.clone();
        let copy = move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            loop {
                line.clear();
                match (&mut pipe).take(LINE_BYTES).read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                let text = String::from_utf8_lossy(&line);
                let text = text.trim_end();
                if text.is_empty() {
                    continue;
                }
                // A full disk must not stop the child, so a line that cannot be written is only
                // missing in the file.
                if writeln!(file, "{text}").is_ok() {
                    size += text.len() as u64 + 1;
                }
                if size > FILE_BYTES
                    && let Ok(next) = open(&output.file)
                {
                    (file, size) = next;
                }
                output.last.push(text);
                if output.shown.show(text) {
                    output.console.say(format!("{:<12} {text}", output.name));
                }
            }
        };
        thread::Builder::new()
            .name(format!("{} output", self.name))
            .spawn(copy)?;
        Ok(())
    }
}

/// Opens the log file for appending. A file beyond [`FILE_BYTES`] is renamed first.
fn open(path: &Path) -> io::Result<(File, u64)> {
    if std::fs::metadata(path).is_ok_and(|m| m.len() > FILE_BYTES) {
        std::fs::rename(path, path.with_extension("out.1"))?;
    }
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_shows_only_problems() {
        let s = LineFilter::ServiceProblems;
        assert!(!s.show("2026-11-22T19:00:00.1Z  INFO starting instance=\"gateway-1\""));
        assert!(s.show("2026-11-22T19:00:00.1Z  WARN the connection to NATS is lost"));
        assert!(s.show("2026-11-22T19:00:00.1Z ERROR INFO is a word here"));
        assert!(!s.show(r#"{"service":"gateway","level":"INFO","message":"WARN"}"#));
        assert!(s.show(r#"{"service":"gateway","level":"ERROR"}"#));
        assert!(s.show("the settings have 2 problem(s):"));
        assert!(
            !LineFilter::NatsProblems.show("[123] 2026/11/22 19:00:00.1 [INF] Server is ready")
        );
        assert!(LineFilter::NatsProblems.show("[123] 2026/11/22 19:00:00.1 [ERR] no"));
        assert!(
            !LineFilter::MongodErrors
                .show(r#"{"t":{},"s":"W","msg":"vm.max_map_count is too low"}"#)
        );
        assert!(LineFilter::MongodErrors.show(r#"{"t":{},"s":"F","msg":"x"}"#));
    }
}
