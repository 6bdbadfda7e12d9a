//! Memory and CPU time of processes, from /proc, and this process's limit of open files.

use std::fs;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Map, Value, json};

use crate::latency::round;

/// Positions of `utime` and `stime` in /proc/<pid>/stat, counted after the process's name.
const UTIME: usize = 11;
const STIME: usize = 12;

/// Resident memory of all these processes together, in KiB. A process that has ended counts as 0.
pub fn resident_kib(pids: &[i32]) -> u64 {
    pids.iter().filter_map(|pid| resident_of(*pid)).sum()
}

fn resident_of(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// CPU seconds that processes had used at one moment, the generator among them.
pub struct CpuReading {
    at: Instant,
    /// Name of each process with its CPU seconds.
    used: Vec<(String, f64)>,
}

impl CpuReading {
    pub fn take(pids: &[i32]) -> CpuReading {
        let mut used: Vec<_> = pids
            .iter()
            .map(|pid| (name_of(*pid), cpu_seconds(&pid.to_string())))
            .collect();
        used.push(("loadgen".to_owned(), cpu_seconds("self")));
        CpuReading {
            at: Instant::now(),
            used,
        }
    }

    /// Cores that each process has kept busy since an earlier reading of the same processes.
    /// Processes of one name are added up.
    pub fn cores_since(&self, earlier: &CpuReading) -> Value {
        let seconds = (self.at - earlier.at).as_secs_f64();
        let mut cores = Map::new();
        for ((name, now), (_, then)) in self.used.iter().zip(&earlier.used) {
            let others = cores.get(name).and_then(Value::as_f64).unwrap_or_default();
            cores.insert(name.clone(), json!(round(others + (now - then) / seconds)));
        }
        Value::Object(cores)
    }
}

fn name_of(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map_or_else(|_| pid.to_string(), |name| name.trim().to_owned())
}

fn cpu_seconds(pid: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name stands in parentheses and may itself hold spaces and parentheses.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |field: usize| -> f64 {
        fields
            .get(field)
            .and_then(|text| text.parse().ok())
            .unwrap_or_default()
    };
    (ticks(UTIME) + ticks(STIME)) / rustix::param::clock_ticks_per_second() as f64
}

/// Raises the limit of open files as far as it may be raised: each socket takes one.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        eprintln!("loadgen: the limit of open files stays as it is: {error}");
    }
}
