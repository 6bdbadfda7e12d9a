//! When a run shall end: Ctrl-C, SIGTERM, a closed terminal, or the end of standard input. Stops
//! nothing itself.

use std::io::{self, Read};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::stack::console::Console;

/// The two ways in which a run is asked to end.
#[derive(Clone, Default)]
pub struct Shutdown {
    /// Cancelled when everything shall stop in order.
    pub graceful: CancellationToken,
    /// Cancelled when the children shall be killed without further waiting.
    pub immediate: CancellationToken,
}

/// Starts to listen for signals. With `stdin`, the end of standard input is a stop too. A test
/// holds the other end of that pipe, so that no child survives the test.
///
/// # Errors
/// The system refuses signal handlers or a thread.
pub fn listen(console: &Console, stdin: bool) -> io::Result<Shutdown> {
    let shutdown = Shutdown::default();
    let (mut interrupt, mut terminate, mut hangup) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    );
    let Shutdown {
        graceful,
        immediate,
    } = shutdown.clone();
    let console = console.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            () = graceful.cancelled() => {}
        }
        graceful.cancel();
        console.say(
            "Stopping: services first, then nats-server and mongod. Another Ctrl-C kills at once.",
        );
        interrupt.recv().await;
        console.say("Killing.");
        immediate.cancel();
    });
    if stdin {
        let graceful = shutdown.graceful.clone();
        // The process does not wait for this thread, because a read of standard input cannot be
        // interrupted.
        thread::Builder::new().name("stdin".into()).spawn(move || {
            let (mut input, mut buffer) = (io::stdin(), [0_u8; 256]);
            while input.read(&mut buffer).is_ok_and(|n| n > 0) {}
            graceful.cancel();
        })?;
    }
    Ok(shutdown)
}
