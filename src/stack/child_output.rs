//! What a child prints: every line goes to a file of its own, whose size is bounded; the console
//! gets those that matter; the last few are kept to explain an early end. It does not know why a
//! child runs.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::stack::console::Console;

/// A longer line is cut into several.
const LINE_BYTES: u64 = 64 * 1024;
/// A file of this size becomes `<name>.out.1`, in the place of the one before.
const FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Lines kept to explain an early end.
const LAST_LINES: usize = 5;
/// Characters of such a line that are shown.
const SHOWN_CHARACTERS: usize = 400;

/// Which lines of a child the console shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Every one.
    All,
    /// Of a service: warnings, errors, and what is no log line at all (a panic, a list of bad
    /// settings).
    ServiceProblems,
    /// Of nats-server: warnings and errors.
    NatsProblems,
    /// Of mongod: errors. Its warnings are about production.
    MongodErrors,
}

impl Lines {
    fn show(self, line: &str) -> bool {
        let has = |marks: &[&str]| marks.iter().any(|mark| line.contains(mark));
        match self {
            Lines::All => true,
            Lines::ServiceProblems if line.starts_with('{') => {
                has(&[r#""level":"WARN""#, r#""level":"ERROR""#])
            }
            Lines::ServiceProblems => !line
                .split_whitespace()
                .take(2)
                .any(|word| matches!(word, "INFO" | "DEBUG" | "TRACE")),
            // The passwords are this run's own, and stand in no file but secrets.json.
            Lines::NatsProblems => {
                !has(&["[INF]", "[DBG]", "[TRC]", "Plaintext passwords detected"])
            }
            Lines::MongodErrors => has(&[r#""s":"E""#, r#""s":"F""#]) || !line.starts_with('{'),
        }
    }
}

/// The last lines of a child, over all its processes.
#[derive(Clone, Default)]
pub struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    fn push(&self, line: &str) {
        let line: String = line.chars().take(SHOWN_CHARACTERS).collect();
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A child that keeps ending says the same each time.
        if lines.contains(&line) {
            return;
        }
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// One text, indented.
    pub fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .iter()
            .map(|line| format!("  {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Where the output of a child goes.
#[derive(Clone)]
pub struct Output {
    /// The child's name.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// What the console shows.
    pub lines: Lines,
    /// The console.
    pub console: Console,
    /// The last lines.
    pub last: LastLines,
}

impl Output {
    /// Copies what comes out of `pipe` until its end, on a thread of its own.
    ///
    /// # Errors
    /// The file cannot be opened, or the system gives no thread.
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
                // A full disk must not stop the child: the line is lost to the file only.
                if writeln!(file, "{text}").is_ok() {
                    size += text.len() as u64 + 1;
                }
                if size > FILE_BYTES
                    && let Ok(next) = open(&output.file)
                {
                    (file, size) = next;
                }
                output.last.push(text);
                if output.lines.show(text) {
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

/// Opens for appending; a large file is put aside first.
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
    fn the_console_shows_problems_only() {
        let s = Lines::ServiceProblems;
        assert!(!s.show("2026-11-22T19:00:00.1Z  INFO starting instance=\"gateway-1\""));
        assert!(s.show("2026-11-22T19:00:00.1Z  WARN the connection to NATS is lost"));
        assert!(s.show("2026-11-22T19:00:00.1Z ERROR INFO is a word here"));
        assert!(!s.show(r#"{"service":"gateway","level":"INFO","message":"WARN"}"#));
        assert!(s.show(r#"{"service":"gateway","level":"ERROR"}"#));
        assert!(s.show("the settings have 2 problem(s):"));
        assert!(!Lines::NatsProblems.show("[123] 2026/11/22 19:00:00.1 [INF] Server is ready"));
        assert!(Lines::NatsProblems.show("[123] 2026/11/22 19:00:00.1 [ERR] no"));
        assert!(
            !Lines::MongodErrors.show(r#"{"t":{},"s":"W","msg":"vm.max_map_count is too low"}"#)
        );
        assert!(Lines::MongodErrors.show(r#"{"t":{},"s":"F","msg":"x"}"#));
    }
}
