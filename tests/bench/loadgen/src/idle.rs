//! Scenario `idle`: resident memory of the server as idle sockets are added, step by step.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use crate::latency::round;
use crate::process::{CpuReading, resident_kib};
use crate::websocket::{Dialer, SocketOptions};
use crate::{Common, Result};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    socket: SocketOptions,
    /// Sockets that are open at each step; the first is what the others are compared with
    #[arg(long, value_delimiter = ',', default_value = "0,1000,5000,10000")]
    steps: Vec<usize>,
    /// Seconds from the last socket of a step to the reading
    #[arg(long, default_value_t = 10.0)]
    settle: f64,
}

pub async fn run(common: &Common, options: &Options) -> Result<Value> {
    let pids = &common.server_pid;
    if pids.is_empty() {
        return Err("--server-pid is needed".into());
    }
    let dialer = Dialer::new(common, &options.socket).await?;
    let closed = Arc::new(AtomicU64::new(0));
    let (mut opened, mut failed) = (0, 0);
    // Sockets and memory of the first step.
    let mut first: Option<(usize, u64)> = None;
    let mut steps = Vec::new();
    for wanted in &options.steps {
        let start = Instant::now();
        let (sockets, refused) = dialer.open_many(wanted.saturating_sub(opened)).await;
        let per_second = sockets.len() as f64 / start.elapsed().as_secs_f64();
        opened += sockets.len();
        failed += refused;
        for mut socket in sockets {
            let closed = closed.clone();
            tokio::spawn(async move {
                while socket.event().await.is_some() {}
                closed.fetch_add(1, Relaxed);
            });
        }
        let before = CpuReading::take(pids);
        tokio::time::sleep(Duration::from_secs_f64(options.settle)).await;
        let after = CpuReading::take(pids);
        let resident = resident_kib(pids);
        let (first_opened, first_resident) = *first.get_or_insert((opened, resident));
        let added = opened - first_opened;
        let kib_per_socket =
            (added > 0).then(|| round((resident as f64 - first_resident as f64) / added as f64));
        steps.push(json!({
            "sockets": opened, "rss_kib": resident, "kib_per_socket": kib_per_socket,
            "connects_per_s": round(per_second), "closed": closed.load(Relaxed),
            "cpu_cores": after.cores_since(&before),
        }));
    }
    Ok(json!({
        "scenario": "idle", "label": common.label, "transport": options.socket.transport.path(),
        "failed": failed, "steps": steps,
    }))
}
