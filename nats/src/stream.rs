//! Names and limits of streams, consumers and buckets. `runtime::setup` makes them on a server; `nats/README.md` explains them.

use std::time::Duration;

/// Everything that changed, in one sequence.
pub const EVENTS: &str = "EVENTS";
/// Operator messages that await the bot; sourced from `EVENTS` by the server.
pub const OUTBOUND: &str = "OUTBOUND";
/// What could not be processed.
pub const DEAD: &str = "DEAD";
/// Schedules, and the ticks that they make.
pub const JOBS: &str = "JOBS";

/// The persister's durable consumer of `EVENTS`, shared by its replicas.
pub const PERSISTER: &str = "persister";
/// The forwarder's durable consumer of `OUTBOUND`, shared by its replicas.
pub const FORWARDER: &str = "forwarder";
/// The scheduler's durable consumer of `JOBS`, shared by its replicas.
pub const SCHEDULER: &str = "scheduler";

/// KV bucket: the last run of each job.
pub const JOB_RUNS: &str = "job-runs";
/// KV bucket: logins that can be refreshed, `<user>.<session>`; gone with their refresh token.
pub const SESSIONS: &str = "sessions";
/// KV bucket: failed logins by a digest of the email; gone after [`LOCKOUT_WINDOW`].
pub const LOCKOUTS: &str = "lockouts";

/// How long `EVENTS` keeps an event.
pub const EVENTS_MAX_AGE: Duration = Duration::from_secs(30 * 86_400);
/// How long `DEAD` keeps a dead letter.
pub const DEAD_MAX_AGE: Duration = Duration::from_secs(90 * 86_400);
/// Within it the server stores a `Nats-Msg-Id` once. It keeps every id of the window in memory: at 6,000/s about 720,000.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Largest event: 5,000 characters of 4 bytes and 20 attachments of 4 KB, escaped, fit well.
pub const MAX_EVENT_BYTES: i32 = 512 * 1024;
/// Disk that `EVENTS` may take by default; then it refuses, it never forgets. `EVENTS_MAX_BYTES` changes it.
pub const EVENTS_MAX_BYTES: i64 = 4 * 1024 * 1024 * 1024;
/// Disk that `DEAD` may take.
pub const DEAD_MAX_BYTES: i64 = 512 * 1024 * 1024;
/// Disk that `OUTBOUND` may take. The server stops sourcing at it, and goes on once there is room: nothing is lost, `EVENTS` has it.
pub const OUTBOUND_MAX_BYTES: i64 = 1024 * 1024 * 1024;
/// Ticks of one job kept for looking at.
pub const JOBS_MAX_PER_SUBJECT: i64 = 100;

/// How long failed logins are counted, and how long a lock lasts.
pub const LOCKOUT_WINDOW: Duration = Duration::from_secs(15 * 60);
/// Disk that a bucket may take: at some 300 bytes an entry more than 200,000 logins. A full one refuses new entries.
pub const BUCKET_MAX_BYTES: i64 = 64 * 1024 * 1024;
/// How long the marker of an entry that has expired stays, for those who watch the bucket.
pub const BUCKET_MARKERS: Duration = Duration::from_secs(60);

/// A consumer's message comes again if it is neither settled nor in progress for so long. Bounds how long a crash delays one.
pub const ACK_WAIT: Duration = Duration::from_secs(30);
/// Events in the hands of all persisters at once.
pub const PERSISTER_MAX_ACK_PENDING: i64 = 20_000;
/// Operator messages in the hands of all forwarders at once, those waiting for a retry included.
pub const FORWARDER_MAX_ACK_PENDING: i64 = 10_000;
/// Ticks in the hands of all schedulers at once.
pub const SCHEDULER_MAX_ACK_PENDING: i64 = 64;
