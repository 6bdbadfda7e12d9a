//! The console of a run. Lines pass through a bounded queue and a thread of their own, so that a
//! terminal that is paused (Ctrl-S) or a pipe that nobody reads never holds up the system; lines
//! that do not fit are counted and dropped.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// Lines that may wait.
const QUEUE_LINES: usize = 4_096;
/// How long the end of a run waits for them to be written.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

enum Item {
    Line(String),
    Flush(SyncSender<()>),
}

/// A handle; all write to the same standard output.
#[derive(Clone)]
pub struct Console {
    queue: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl Console {
    /// Starts the thread. It ends with the last handle.
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

    /// Writes a line (or several at once, as of a page).
    pub fn say(&self, line: impl Into<String>) {
        if self.queue.try_send(Item::Line(line.into())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was said is written, but not for ever.
    pub fn flush(&self) {
        let (written, wait) = sync_channel(1);
        if self.queue.try_send(Item::Flush(written)).is_ok() {
            let _ = wait.recv_timeout(FLUSH_LIMIT);
        }
    }
}

fn write(items: &Receiver<Item>, dropped: &AtomicU64) {
    for item in items {
        // A console that is gone is no reason to stop the system.
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
