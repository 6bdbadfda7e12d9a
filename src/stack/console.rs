//! The console of a run. Lines pass through a bounded queue to a thread that writes them. Otherwise
//! a paused terminal (Ctrl-S) or a pipe without a reader would block the whole system. Lines that
//! do not fit into the queue are counted and dropped. Does not decide which lines are shown.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// Lines that may wait to be written. Further lines are dropped and counted.
const QUEUE_LINES: usize = 4_096;
/// How long [`Console::flush`] waits. Lines that are not written by then may be lost.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

enum Item {
    Line(String),
    Flush(SyncSender<()>),
}

/// A handle to the console. All handles write to the same standard output.
#[derive(Clone)]
pub struct Console {
    queue: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl Console {
    /// Starts the writing thread, which ends with the last handle.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn open() -> io::Result<Console> {
        let (queue, items) = sync_channel(QUEUE_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = dropped.clone();
        thread::Builder::new()
            .name("console".into())
            .spawn(move || write(&items, &counter))?;
        Ok(Console { queue, dropped })
    }

    /// Writes a line, or several lines that stay together. Never waits.
    pub fn say(&self, line: impl Into<String>) {
        if self.queue.try_send(Item::Line(line.into())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all earlier lines are written, at most [`FLUSH_LIMIT`].
    pub fn flush(&self) {
        let (written, wait) = sync_channel(1);
        if self.queue.try_send(Item::Flush(written)).is_ok() {
            let _ = wait.recv_timeout(FLUSH_LIMIT);
        }
    }
}

fn write(items: &Receiver<Item>, dropped: &AtomicU64) {
    for item in items {
        // A closed console must not stop the system, so write errors are ignored.
        match item {
            Item::Line(line) => drop(writeln!(io::stdout(), "{line}")),
            Item::Flush(written) => {
                drop(io::stdout().flush());
                let _ = written.try_send(());
            }
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            drop(writeln!(
                io::stdout(),
                "({lost} lines were not shown: the console was too slow. They are in the logs.)"
            ));
        }
    }
}
