//! Names and limits of streams, consumers and buckets. `runtime::setup` makes them on a server;
//! `nats/README.md` explains them.

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
/// The one durable consumer of `OUTBOUND` until partitions had their own; `setup` deletes it.
pub const RETIRED_FORWARDER: &str = "forwarder";
/// The group of the partitions' consumers: the server pins each to one member.
pub const FORWARDER_GROUP: &str = "forwarders";
/// The scheduler's durable consumer of `JOBS`, shared by its replicas.
pub const SCHEDULER: &str = "scheduler";

/// The schedulers' durable consumer of the work that jobs hand out.
pub const SCHEDULER_WORK: &str = "scheduler-work";

/// KV bucket: conversations whose next message waits for more than its turn,
/// `<partition>.<company>.<contact>`.
pub const LANES: &str = "lanes";
/// KV bucket: how the Meta bot is. `meta-bot` is what the scheduler's probe saw,
/// `breaker.<instance>` a forwarder's breaker.
pub const BOT_HEALTH: &str = "bot-health";
/// The key in [`BOT_HEALTH`] of what the scheduler's probe saw.
pub const META_BOT: &str = "meta-bot";
/// KV bucket: what became of a dead letter, by its sequence in `DEAD`.
pub const DEAD_LETTERS: &str = "dead-letters";
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
/// Within it the server stores a `Nats-Msg-Id` once. It keeps every id of the window in memory: at
/// 6,000/s about 720,000.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Largest event: 5,000 characters of 4 bytes and 20 attachments of 4 KB, escaped, fit well.
pub const MAX_EVENT_BYTES: i32 = 512 * 1024;
/// Disk that `EVENTS` may take by default; then it refuses, it never forgets. `EVENTS_MAX_BYTES`
/// changes it.
pub const EVENTS_MAX_BYTES: i64 = 4 * 1024 * 1024 * 1024;
/// Disk that `DEAD` may take.
pub const DEAD_MAX_BYTES: i64 = 512 * 1024 * 1024;
/// Disk that `OUTBOUND` may take. The server stops sourcing at it, and goes on once there is room:
/// nothing is lost, `EVENTS` has it.
pub const OUTBOUND_MAX_BYTES: i64 = 1024 * 1024 * 1024;
/// Ticks of one job kept for looking at.
pub const JOBS_MAX_PER_SUBJECT: i64 = 100;

/// How long failed logins are counted, and how long a lock lasts.
pub const LOCKOUT_WINDOW: Duration = Duration::from_secs(15 * 60);
/// Disk that a bucket may take: at some 300 bytes an entry more than 200,000 logins. A full one
/// refuses new entries.
pub const BUCKET_MAX_BYTES: i64 = 64 * 1024 * 1024;
/// How long the marker of an entry that has expired stays, for those who watch the bucket.
pub const BUCKET_MARKERS: Duration = Duration::from_secs(60);

/// A consumer's message comes again if it is neither settled nor in progress for so long. Bounds
/// how long a crash delays one.
pub const ACK_WAIT: Duration = Duration::from_secs(30);
/// Events in the hands of all persisters at once.
pub const PERSISTER_MAX_ACK_PENDING: i64 = 20_000;
/// Operator messages of one partition in the hands of its forwarder, those that wait included: it
/// holds their numbers only. Past it the partition's newer messages stay in the stream until older
/// ones are delivered or have passed their deadline.
pub const PARTITION_MAX_ACK_PENDING: i64 = 50_000;
/// A partition's forwarder that asks for nothing for so long has lost it to another.
pub const PARTITION_PIN_TIMEOUT: Duration = Duration::from_secs(3);
/// A new owner has the server send everything again, so this is no more than a net below it: longer
/// than any message waits.
pub const PARTITION_ACK_WAIT: Duration = Duration::from_secs(25 * 3_600);
/// How long a lane's entry stays: a message's longest life, and a little.
pub const LANE_TTL: Duration = Duration::from_secs(25 * 3_600);
/// Most work of jobs in the hands of all schedulers at once, that which waits for a retry included.
pub const SCHEDULER_WORK_MAX_ACK_PENDING: i64 = 10_000;
/// Ticks in the hands of all schedulers at once, those that wait for a run of their job to end
/// included: more than the stream keeps of all jobs, six by now, so that the ticks of one long run
/// hold up no other job's.
pub const SCHEDULER_MAX_ACK_PENDING: i64 = 10 * JOBS_MAX_PER_SUBJECT;

/// `forwarder-<partition>`: a partition's durable consumer of `OUTBOUND`.
pub fn forwarder(partition: u32) -> String {
    format!("forwarder-{partition}")
}
