//! Keeps child processes alive: starts each child, restarts an ended child after a growing pause,
//! and stops all children in order. Each child has a process group of its own. Otherwise Ctrl-C in
//! the terminal would reach the children before the runner. Does not know what the children are.

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

use crate::stack::child_output::{ChildOutput, LastLines, LineFilter};
use crate::stack::console::Console;
use crate::stack::run_file::RunFile;

/// Pause before an ended child is restarted. The pause doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause before an ended child is restarted.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A child that ran for this long counts as healthy. Its next pause is [`FIRST_PAUSE`] again.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// From SIGTERM to SIGKILL. The services promise to stop within 30 s.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The order in which children are stopped: the tier that started last is stopped first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// nats-server and mongod.
    Server,
    Bot,
    /// The five services.
    Service,
}

/// How to start one child.
pub struct ChildSpec {
    /// `persister-2`
    pub name: String,
    pub tier: Tier,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// The whole environment: the child inherits nothing from the runner.
    pub environment: BTreeMap<String, String>,
    pub shown: LineFilter,
}

/// What the start of the system learns about a running child.
pub struct ChildStatus {
    /// How often the child has ended by itself.
    pub ends: Arc<AtomicU32>,
    pub last: LastLines,
    /// The log file with all lines of the child.
    pub log: PathBuf,
}

struct RunningChild {
    tier: Tier,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// All children of this run.
pub struct Supervisor {
    run_file: Arc<RunFile>,
    console: Console,
    logs: PathBuf,
    verbose: bool,
    kill: CancellationToken,
    children: Vec<RunningChild>,
}

impl Supervisor {
    /// A supervisor without children. The output of children goes to files in `logs`. Cancelling
    /// `kill` makes [`Supervisor::stop`] kill the children without further waiting.
    pub fn new(
        run_file: Arc<RunFile>,
        console: Console,
        logs: PathBuf,
        verbose: bool,
        kill: CancellationToken,
    ) -> Supervisor {
        Supervisor {
            run_file,
            console,
            logs,
            verbose,
            kill,
            children: Vec::new(),
        }
    }

    pub fn has_children(&self) -> bool {
        !self.children.is_empty()
    }

    /// Starts a child and restarts it whenever it ends, until [`Supervisor::stop`].
    pub fn start(&mut self, spec: ChildSpec) -> ChildStatus {
        let log = self.logs.join(format!("{}.out", spec.name));
        let shown = if self.verbose {
            LineFilter::All
        } else {
            spec.shown
        };
        let status = ChildStatus {
            ends: Arc::default(),
            last: LastLines::default(),
            log: log.clone(),
        };
        let output = ChildOutput {
            name: spec.name.clone(),
            file: log,
            shown,
            console: self.console.clone(),
            last: status.last.clone(),
        };
        let (tier, stop) = (spec.tier, CancellationToken::new());
        let keeper = Keeper {
            spec,
            output,
            run_file: self.run_file.clone(),
            console: self.console.clone(),
            ends: status.ends.clone(),
            stop: stop.clone(),
            kill: self.kill.clone(),
        };
        self.children.push(RunningChild {
            tier,
            stop,
            task: tokio::spawn(keeper.run()),
        });
        status
    }

    /// Stops all children, one tier after the other, each within [`STOP_LIMIT`].
    pub async fn stop(&mut self) {
        for tier in [Tier::Service, Tier::Bot, Tier::Server] {
            let (now, later) = std::mem::take(&mut self.children)
                .into_iter()
                .partition::<Vec<_>, _>(|k| k.tier == tier);
            self.children = later;
            now.iter().for_each(|child| child.stop.cancel());
            for child in now {
                if let Err(e) = child.task.await {
                    self.console.say(format!("keeping a child failed: {e}"));
                }
            }
        }
    }
}

/// The task that keeps one child alive across its restarts.
struct Keeper {
    spec: ChildSpec,
    output: ChildOutput,
    run_file: Arc<RunFile>,
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
                    status = child.wait() => {
                        status.map_or_else(|e| e.to_string(), |s| s.to_string())
                    }
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
            self.record(self.run_file.restarting(name));
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
            self.record(self.run_file.started(&self.spec.name, pid));
        }
        Ok(child)
    }

    async fn end(&self, mut child: Child) {
        let name = &self.spec.name;
        if let Some(pid) = child.id() {
            // An error means that the child has just ended. The wait below sees that.
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

    fn record(&self, written: io::Result<()>) {
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
    use crate::stack::state_dir::StateDir;
    use crate::stack::state_dir::tests::Scratch;

    #[tokio::test]
    async fn a_child_that_ends_is_restarted_and_its_last_lines_are_kept() {
        let scratch = Scratch::new("supervisor");
        let state_dir = StateDir::open(&scratch.0).unwrap();
        let run_file = Arc::new(RunFile::open(&state_dir).unwrap());
        let console = Console::open().unwrap();
        let mut supervisor = Supervisor::new(
            run_file,
            console,
            state_dir.logs(),
            false,
            CancellationToken::new(),
        );
        let child = |name: &str, script: &str| ChildSpec {
            name: name.into(),
            tier: Tier::Service,
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: BTreeMap::from([("WORDS".into(), "out of order".into())]),
            shown: LineFilter::NatsProblems,
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
