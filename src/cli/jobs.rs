//! `petbuddy jobs`: shows each job of the schedulers to operators: its last run, the result, and
//! its next run. Reads the schedules in `JOBS` and the bucket `job-runs`, changes nothing and
//! starts no job.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use async_nats::header::NATS_SCHEDULE;
use clap::Args;
use contract::Timestamp;
use contract::domain::{JobOutcome, JobRun, is_overdue};
use contract::{inventory, subject};
use runtime::log::direct_get::{self, StoredMessage};
use runtime::net::connection::{Connection, REQUEST_TIMEOUT};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::columns::columns;
use crate::cli::{exit_code, operator};
use crate::failure::Failure;

/// Exit code if a job failed or is overdue.
const UNWELL: u8 = 1;
/// Characters of a detail in a row of the table. The rest is cut off.
const SHOWN_CHARACTERS: usize = 80;

/// Below the options in `petbuddy jobs --help`.
pub const HELP: &str = "\
Results: ok, failed (the next run tries again), running, never (its first run is due), unscheduled
(no scheduler has it any more).
Exit codes:
  0  every job is well
  1  a job's last run failed, or a run is overdue
  2  a wrong option or setting
  6  NATS does not answer
The NATS server is named by NATS_URL, NATS_USER (operator) and NATS_PASSWORD. Without them it is
that of the system in --dir.";

/// Options of `petbuddy jobs`.
#[derive(Args)]
pub struct Options {
    /// State folder of the running system, for its address and login
    #[arg(long, default_value = ".petbuddy")]
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The interval of a job, and the time since which it is scheduled.
type Schedule = (Duration, Timestamp);

/// One job in the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    job: String,
    /// `None` if the job has no schedule.
    interval_seconds: Option<u64>,
    /// A [`JobOutcome`], `never` or `unscheduled`.
    result: &'static str,
    last_run_at: Option<Timestamp>,
    /// `None` if no run has ended.
    took_ms: Option<u64>,
    next_run_at: Option<Timestamp>,
    /// Whether a run was missed.
    overdue: bool,
    /// The result of the last run, or the reason of its failure.
    detail: Value,
    /// The replica that did the last run.
    by: Option<String>,
}

/// The whole subcommand.
pub async fn main(options: Options) -> ExitCode {
    let rows = match look(&options).await {
        Ok(rows) => rows,
        Err(failure) => return exit_code::of_failure(&failure),
    };
    match options.json {
        true => println!("{}", json!({"jobs": rows})),
        false => print!("{}", table(&rows)),
    }
    match rows.iter().any(|row| row.overdue || row.result == "failed") {
        true => ExitCode::from(UNWELL),
        false => ExitCode::SUCCESS,
    }
}

async fn look(options: &Options) -> Result<Vec<Row>, Failure> {
    let connection = operator::connect(&options.dir).await?;
    let schedules = latest(&connection, inventory::JOBS, subject::JOB_SCHEDULES).await?;
    let runs = latest(
        &connection,
        &format!("KV_{}", inventory::JOB_RUNS),
        &subject::entry(inventory::JOB_RUNS, "*"),
    )
    .await?;
    Ok(rows(&schedules, &runs, Timestamp::now()))
}

async fn latest(
    connection: &Connection,
    stream: &str,
    filter: &str,
) -> Result<Vec<StoredMessage>, Failure> {
    direct_get::latest(connection, stream, &[filter.to_owned()])
        .await
        .map_err(|e| Failure::NotReady {
            what: format!("the stream {stream}"),
            limit: REQUEST_TIMEOUT,
            reason: e.to_string(),
        })
}

/// A row for every job that has a schedule or a run, sorted by name.
fn rows(schedules: &[StoredMessage], runs: &[StoredMessage], now: Timestamp) -> Vec<Row> {
    // A one-shot schedule that makes up for a missed tick is not a job of its own.
    let scheduled = |s: &StoredMessage| {
        Some((
            subject::job_of_schedule(&s.subject)?.to_owned(),
            (every(s)?, s.stored_at),
        ))
    };
    let scheduled: BTreeMap<String, Schedule> = schedules.iter().filter_map(scheduled).collect();
    let runs = runs
        .iter()
        .filter_map(|run| serde_json::from_slice::<JobRun>(&run.payload).ok());
    let mut runs: BTreeMap<String, JobRun> = runs.map(|run| (run.job.clone(), run)).collect();
    let names: BTreeSet<String> = scheduled.keys().chain(runs.keys()).cloned().collect();
    names
        .into_iter()
        .map(|job| row(scheduled.get(&job).copied(), runs.remove(&job), job, now))
        .collect()
}

/// The interval of a recurring schedule.
fn every(schedule: &StoredMessage) -> Option<Duration> {
    runtime::service::settings::parse_duration(
        schedule
            .header(NATS_SCHEDULE.as_ref())?
            .strip_prefix("@every ")?,
    )
}

fn row(schedule: Option<Schedule>, run: Option<JobRun>, job: String, now: Timestamp) -> Row {
    let result = match (&run, schedule) {
        (_, None) => "unscheduled",
        (None, _) => "never",
        (Some(run), _) => match run.outcome {
            JobOutcome::Running => "running",
            JobOutcome::Ok => "ok",
            JobOutcome::Failed => "failed",
        },
    };
    let first = schedule.map(|(every, since)| since.plus(every));
    Row {
        job,
        interval_seconds: schedule.map(|(every, _)| every.as_secs()),
        result,
        overdue: schedule.is_some_and(|(every, since)| {
            is_overdue(run.as_ref().map_or(since, |run| run.started_at), every, now)
        }),
        last_run_at: run.as_ref().map(|run| run.started_at),
        took_ms: run
            .as_ref()
            .and_then(|run| Some(run.finished_at?.since(run.started_at).as_millis() as u64)),
        next_run_at: run
            .as_ref()
            .map(|run| run.next_at)
            .or(first)
            .filter(|_| schedule.is_some()),
        detail: run.as_ref().map_or(Value::Null, |run| run.detail.clone()),
        by: run.map(|run| run.instance),
    }
}

fn table(rows: &[Row]) -> String {
    const HEAD: [&str; 7] = [
        "JOB", "EVERY", "LAST RUN", "RESULT", "TOOK", "NEXT RUN", "DETAIL",
    ];
    let at = |at: Option<Timestamp>| at.map_or("-".to_owned(), |at| at.to_string());
    let mut cells = vec![HEAD.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|row| {
        let every = row
            .interval_seconds
            .map_or("-".to_owned(), |seconds| format!("{seconds}s"));
        let took = row.took_ms.map_or("-".to_owned(), |ms| format!("{ms}ms"));
        let next = at(row.next_run_at) + if row.overdue { " overdue" } else { "" };
        let detail = if row.detail.is_null() {
            "-".to_owned()
        } else {
            row.detail.to_string()
        };
        vec![
            row.job.clone(),
            every,
            at(row.last_run_at),
            row.result.to_owned(),
            took,
            next,
            detail.chars().take(SHOWN_CHARACTERS).collect(),
        ]
    }));
    columns(&cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::HeaderMap;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(1_760_000_000_000 + 1_000 * second)
    }

    fn schedule(name: &str, text: &str) -> StoredMessage {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_SCHEDULE, text);
        StoredMessage {
            seq: 1,
            subject: subject::job_schedule(name),
            stored_at: at(0),
            headers,
            payload: "".into(),
        }
    }

    fn run(job: &str, outcome: JobOutcome, begun: i64) -> StoredMessage {
        let run = JobRun {
            job: job.into(),
            tick_seq: 1,
            tick_at: at(begun),
            started_at: at(begun),
            finished_at: (outcome != JobOutcome::Running).then(|| at(begun + 2)),
            outcome,
            detail: json!({"due": 1}),
            instance: "scheduler-1".into(),
            next_at: at(begun + 60),
        };
        let payload = serde_json::to_vec(&run).unwrap().into();
        StoredMessage {
            seq: 1,
            subject: String::new(),
            stored_at: at(begun),
            headers: HeaderMap::new(),
            payload,
        }
    }

    #[test]
    fn every_job_that_has_a_schedule_or_a_run_has_a_row() {
        let schedules = [
            schedule("a", "@every 60s"),
            schedule("a-first", "@at 2026-11-25T00:00:00Z"),
            schedule("b", "@every 60s"),
            schedule("c", "@every 600s"),
            schedule("d", "@every 60s"),
            schedule("e", "@every 60s"),
        ];
        let runs = [
            run("a", JobOutcome::Ok, 100),
            run("b", JobOutcome::Failed, 90),
            run("d", JobOutcome::Running, 20),
            run("retired", JobOutcome::Ok, 1),
        ];
        let rows = rows(&schedules, &runs, at(120));
        let seen: Vec<_> = rows
            .iter()
            .map(|r| {
                (
                    r.job.as_str(),
                    r.result,
                    r.overdue,
                    r.took_ms,
                    r.next_run_at,
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("a", "ok", false, Some(2_000), Some(at(160))),
                ("b", "failed", false, Some(2_000), Some(at(150))),
                ("c", "never", false, None, Some(at(600))),
                ("d", "running", true, None, Some(at(80))),
                ("e", "never", true, None, Some(at(60))),
                ("retired", "unscheduled", false, Some(2_000), None),
            ]
        );
        let text = table(&rows);
        assert_eq!(text.lines().count(), 7);
        assert!(
            text.lines()
                .nth(4)
                .is_some_and(|d| d.contains("running") && d.contains("overdue")),
            "{text}"
        );
    }
}
