//! Faults, drawn at random from a seed, each of them undone before the next. Processes that the
//! runner supervises come back by themselves.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use super::clients::{Mark, Notes};
use crate::support::cluster::{ClusteredSystem, LinkState};
use crate::support::kill;

/// Pause between two faults.
const PAUSE: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillServer,
    StopServer,
    FreezeServer,
    CutLink,
    HoldLink,
    StepDown,
    KillService,
    StopForwarder,
}

const FAULTS: [Fault; 8] = [
    Fault::KillServer,
    Fault::StopServer,
    Fault::FreezeServer,
    Fault::CutLink,
    Fault::HoldLink,
    Fault::StepDown,
    Fault::KillService,
    Fault::StopForwarder,
];

/// Services that are killed. A forwarder is only stopped: killed within a call, it may call again.
const KILLED: [&str; 7] = [
    "gateway",
    "gateway-2",
    "persister",
    "persister-2",
    "realtime",
    "realtime-2",
    "scheduler",
];

/// Brings faults about for a time. Afterwards everything is undone.
pub async fn bring_about(
    clustered: &mut ClusteredSystem,
    time: Duration,
    seed: u64,
    notes: &Notes,
) {
    let mut rng = StdRng::seed_from_u64(seed);
    let end = Instant::now() + time;
    while Instant::now() < end {
        tokio::time::sleep(PAUSE).await;
        let fault = FAULTS[rng.random_range(0..FAULTS.len())];
        let server = rng.random_range(0..3);
        let other = (server + rng.random_range(1..3)) % 3;
        let length = Duration::from_millis(rng.random_range(300..2_500));
        let service = KILLED[rng.random_range(0..KILLED.len())];
        let text = match fault {
            Fault::KillService => format!("{fault:?} {service}"),
            Fault::CutLink | Fault::HoldLink => format!("{fault:?} {server}-{other} {length:?}"),
            _ => format!("{fault:?} {server} {length:?}"),
        };
        println!("fault: {text}");
        notes.mark(Mark::Fault(text));
        let cluster = &mut clustered.cluster;
        match fault {
            Fault::KillServer | Fault::StopServer => {
                let signal = match fault {
                    Fault::KillServer => "-KILL",
                    _ => "-TERM",
                };
                cluster.end(signal, server);
                tokio::time::sleep(length).await;
                cluster.restart(server);
            }
            Fault::FreezeServer => {
                cluster.signal("-STOP", server);
                tokio::time::sleep(length).await;
                cluster.signal("-CONT", server);
            }
            Fault::CutLink | Fault::HoldLink => {
                let state = match fault {
                    Fault::CutLink => LinkState::Cut,
                    _ => LinkState::Held,
                };
                cluster.set_link(server, other, state);
                tokio::time::sleep(length).await;
                cluster.set_link(server, other, LinkState::Open);
            }
            Fault::StepDown => {
                let jetstream = clustered.system.operator().await;
                let subject = "$JS.API.STREAM.LEADER.STEPDOWN.EVENTS";
                // The stream may have no leader just now, which is as good.
                let _ = jetstream.client().request(subject, "".into()).await;
            }
            Fault::KillService => {
                if let Some(pid) = clustered.system.pid(service) {
                    kill("-KILL", pid);
                }
            }
            Fault::StopForwarder => {
                if let Some(pid) = clustered.system.pid("forwarder") {
                    kill("-TERM", pid);
                }
            }
        }
        for server in 0..3 {
            clustered.cluster.await_healthy(server).await;
        }
    }
}
