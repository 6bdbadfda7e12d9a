//! Keeps child processes alive: starts them in process groups of their own (so that the terminal's
//! Ctrl-C reaches only us), starts one that ended again after a growing pause, and stops them in
//! order. What the children are is known elsewhere.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::stack::child_output::{LastLines, Lines, Output};
use crate::stack::console::Console;
use crate::stack::run_file::Board;

/// Pause before a child that ended is started again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// See [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A child that ran for so long was healthy: the pause begins anew.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// From SIGTERM to SIGKILL. The services promise to be done within 30 s.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// In which order children are stopped: the later started first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// nats-server and mongod.
    Part,
    /// The stub bot.
    Bot,
    /// The five services.
    Service,
}

/// A child to keep alive.
pub struct Spec {
    /// `persister-2`
    pub name: String,
    /// Its place in the order of stopping.
    pub tier: Tier,
    /// What is run.
    pub program: PathBuf,
    /// With which arguments.
    pub arguments: Vec<OsString>,
    /// Its whole environment.
    pub environment: BTreeMap<String, String>,
    /// What the console shows of it.
    pub lines: Lines,
}

/// What is known of a child.
pub struct Watch {
    /// How often it has ended by itself.
    pub ends: Arc<AtomicU32>,
    /// Its last lines.
    pub last: LastLines,
    /// The file with all of them.
    pub log: PathBuf,
}

struct Kept {
    tier: Tier,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// All children of this run.
pub struct Supervisor {
    board: Arc<Board>,
    console: Console,
    logs: PathBuf,
    verbose: bool,
    kill: CancellationToken,
    kept: Vec<Kept>,
}

impl Supervisor {
    /// No children yet. Their output goes into `logs`; cancelling `kill` ends the patience of
    /// [`Supervisor::stop`].
    pub fn new(
        board: Arc<Board>,
        console: Console,
        logs: PathBuf,
        verbose: bool,
        kill: CancellationToken,
    ) -> Supervisor {
        Supervisor {
            board,
            console,
            logs,
            verbose,
            kill,
            kept: Vec::new(),
        }
    }

    /// Whether there is something to stop.
    pub fn has_children(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Starts a child and keeps it alive until [`Supervisor::stop`].
    pub fn start(&mut self, spec: Spec) -> Watch {
        let log = self.logs.join(format!("{}.out", spec.name));
        let lines = if self.verbose { Lines::All } else { spec.lines };
        let watch = Watch {
            ends: Arc::default(),
            last: LastLines::default(),
            log: log.clone(),
        };
        let output = Output {
            name: spec.name.clone(),
            file: log,
            lines,
            console: self.console.clone(),
            last: watch.last.clone(),
        };
        let (tier, stop) = (spec.tier, CancellationToken::new());
        let keeper = Keeper {
            spec,
            output,
            board: self.board.clone(),
            console: self.console.clone(),
            ends: watch.ends.clone(),
            stop: stop.clone(),
            kill: self.kill.clone(),
        };
        self.kept.push(Kept {
            tier,
            stop,
            task: tokio::spawn(keeper.run()),
        });
        watch
    }

    /// Stops all children, tier by tier, each within [`STOP_LIMIT`].
    pub async fn stop(&mut self) {
        for tier in [Tier::Service, Tier::Bot, Tier::Part] {
            let (now, later) = std::mem::take(&mut self.kept)
                .into_iter()
                .partition::<Vec<_>, _>(|k| k.tier == tier);
            self.kept = later;
            now.iter().for_each(|kept| kept.stop.cancel());
            for kept in now {
                if let Err(e) = kept.task.await {
                    self.console.say(format!("keeping a child failed: {e}"));
                }
            }
        }
    }
}

/// One child, over all its processes.
struct Keeper {
    spec: Spec,
    output: Output,
    board: Arc<Board>,
    console: Console,
    ends: Arc<AtomicU32>,
    stop: CancellationToken,
    kill: CancellationToken,
}

impl Keeper {
    async fn run(self) {
        let name = &self.spec.name;
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            let end = match self.spawn() {
                Ok(mut child) => tokio::select! {
                    status = child.wait() => status.map_or_else(|e| e.to_string(), |s| s.to_string()),
                    () = self.stop.cancelled() => return self.end(child).await,
                },
                Err(e) => format!("it cannot be started: {e}"),
            };
            self.ends.fetch_add(1, Ordering::Relaxed);
            if begun.elapsed() >= HEALTHY_AFTER {
                pause = FIRST_PAUSE;
            }
            self.console.say(format!(
                "{name} ended ({end}); it is started again in {} ms",
                pause.as_millis()
            ));
            if self
                .stop
                .run_until_cancelled(tokio::time::sleep(pause))
                .await
                .is_none()
            {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            self.note(self.board.restarting(name));
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let (reader, writer) = io::pipe()?;
        let child = Command::new(&self.spec.program)
            .args(&self.spec.arguments)
            .env_clear()
            .envs(&self.spec.environment)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        self.output.copy(reader)?;
        if let Some(pid) = child.id() {
            self.note(self.board.started(&self.spec.name, pid));
        }
        Ok(child)
    }

    async fn end(&self, mut child: Child) {
        let name = &self.spec.name;
        if let Some(pid) = child.id() {
            // It may have ended just now; waiting tells.
            drop(signal(pid, Signal::TERM));
        }
        tokio::select! {
            _ = tokio::time::timeout(STOP_LIMIT, child.wait()) => {}
            () = self.kill.cancelled() => {}
        }
        if matches!(child.try_wait(), Ok(None)) {
            self.console
                .say(format!("{name} is killed: it did not stop by itself"));
            drop(child.kill().await);
        }
    }

    fn note(&self, written: io::Result<()>) {
        if let Err(e) = written {
            self.console
                .say(format!("run.json and pids.json cannot be written: {e}"));
        }
    }
}

/// Sends a signal to a process.
///
/// # Errors
/// There is no such process, or it is another user's.
pub fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::InvalidInput)?;
    Ok(kill_process(pid, signal)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::ready;
    use crate::stack::state_dir::Folder;
    use crate::stack::state_dir::tests::Scratch;

    #[tokio::test]
    async fn a_child_that_ends_is_started_again_and_its_last_words_are_kept() {
        let scratch = Scratch::new("supervisor");
        let folder = Folder::open(&scratch.0).unwrap();
        let board = Arc::new(Board::open(&folder).unwrap());
        let console = Console::open().unwrap();
        let mut supervisor = Supervisor::new(
            board,
            console,
            folder.logs(),
            false,
            CancellationToken::new(),
        );
        let child = |name: &str, script: &str| Spec {
            name: name.into(),
            tier: Tier::Service,
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: BTreeMap::from([("WORDS".into(), "out of order".into())]),
            lines: Lines::NatsProblems,
        };
        let stays = supervisor.start(child("stays", "exec tail -f /dev/null"));
        let ends = supervisor.start(child("ends", "echo [INF] $WORDS; exit 3"));
        let failure = ready::wait("ends", Some(&ends), || async { Err("not yet".to_owned()) })
            .await
            .unwrap_err();
        assert!(failure.to_string().contains("out of order"), "{failure}");
        assert_eq!(stays.ends.load(Ordering::Relaxed), 0);
        supervisor.stop().await;
        assert!(!supervisor.has_children());
        assert!(
            std::fs::read_to_string(ends.log)
                .unwrap()
                .contains("out of order")
        );
    }
}
