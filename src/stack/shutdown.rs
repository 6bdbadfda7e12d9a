//! When a run shall end: Ctrl-C, SIGTERM, a closed terminal, or the end of standard input. It stops
//! nothing itself.

use std::io::{self, Read};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::stack::console::Console;

/// What a run listens to.
#[derive(Clone, Default)]
pub struct Stop {
    /// Cancelled when everything shall stop in order.
    pub gently: CancellationToken,
    /// Cancelled when nothing shall be waited for any more.
    pub at_once: CancellationToken,
}

/// Starts to listen. With `stdin`, its end is a stop too: a test holds the other end of the pipe,
/// so that nothing survives it.
///
/// # Errors
/// The system refuses signal handlers or a thread.
pub fn listen(console: &Console, stdin: bool) -> io::Result<Stop> {
    let stop = Stop::default();
    let (mut interrupt, mut terminate, mut hangup) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    );
    let (gently, at_once, console) = (stop.gently.clone(), stop.at_once.clone(), console.clone());
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            () = gently.cancelled() => {}
        }
        gently.cancel();
        console.say(
            "Stopping: services first, then nats-server and mongod. Another Ctrl-C kills at once.",
        );
        interrupt.recv().await;
        console.say("Killing.");
        at_once.cancel();
    });
    if stdin {
        let gently = stop.gently.clone();
        // A thread that the process does not wait for: a read of standard input cannot be broken
        // off.
        thread::Builder::new().name("stdin".into()).spawn(move || {
            let (mut input, mut buffer) = (io::stdin(), [0_u8; 256]);
            while input.read(&mut buffer).is_ok_and(|n| n > 0) {}
            gently.cancel();
        })?;
    }
    Ok(stop)
}
