//! Names and limits of streams, consumers and buckets. `runtime::setup` makes them on a server, and
//! `nats/README.md` explains them. Asks no server.

use std::time::Duration;

/// The stream of the log: every change, in one sequence.
pub const EVENTS: &str = "EVENTS";
/// The stream of operator messages that await the bot. The forwarder's relay copies them from
/// `EVENTS`.
pub const OUTBOUND: &str = "OUTBOUND";
/// The stream of dead letters: messages that could not be processed.
pub const DEAD: &str = "DEAD";
/// The stream of schedules, of the ticks that they make, and of the tasks of jobs.
pub const JOBS: &str = "JOBS";

/// The persister's durable consumer of `EVENTS`, shared by its replicas.
pub const PERSISTER: &str = "persister";
/// The durable consumer of `EVENTS` that copies what awaits the bot into `OUTBOUND`. The server pins
/// the consumer to one forwarder.
pub const RELAY: &str = "relay";
/// The one durable consumer of `OUTBOUND` before partitions had consumers of their own. `setup`
/// deletes it.
pub const RETIRED_FORWARDER: &str = "forwarder";
/// The priority group of the relay's and the partitions' consumers. The server pins each consumer to one member.
pub const FORWARDER_GROUP: &str = "forwarders";
/// The scheduler's durable consumer of ticks, shared by its replicas.
pub const SCHEDULER: &str = "scheduler";

/// The scheduler's durable consumer of the tasks that jobs enqueue, shared by its replicas.
pub const SCHEDULER_WORK: &str = "scheduler-work";

/// KV bucket: conversations whose next message waits for a retry or a token, by
/// `<partition>.<company>.<contact>`.
pub const LANES: &str = "lanes";
/// KV bucket: the health of the Meta bot. `meta-bot` is the last result of the scheduler's probe,
/// `breaker.<instance>` the circuit breaker of a forwarder.
pub const BOT_HEALTH: &str = "bot-health";
/// The key in [`BOT_HEALTH`] of the last result of the scheduler's probe.
pub const META_BOT: &str = "meta-bot";
/// KV bucket: what became of a dead letter, by the sequence in `DEAD`.
pub const DEAD_LETTERS: &str = "dead-letters";
/// KV bucket: the last run of each job.
pub const JOB_RUNS: &str = "job-runs";
/// KV bucket: logins that can be refreshed, by `<user>.<session>`. An entry expires with its
/// refresh token.
pub const SESSIONS: &str = "sessions";
/// KV bucket: failed logins, by a digest of the email. An entry expires after [`LOCKOUT_WINDOW`].
pub const LOCKOUTS: &str = "lockouts";

/// How long `EVENTS` keeps an event. Older events are deleted.
pub const EVENTS_MAX_AGE: Duration = Duration::from_secs(30 * 86_400);
/// How long `DEAD` keeps a dead letter. Older dead letters are deleted.
pub const DEAD_MAX_AGE: Duration = Duration::from_secs(90 * 86_400);
/// The time within which the server stores a `Nats-Msg-Id` once. The server keeps every id of the
/// window in memory: at 6,000 messages a second about 720,000.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Bytes of an event, beyond which the server refuses it. 5,000 characters of 4 bytes and 20
/// attachments of 4 KB, escaped, fit well.
pub const MAX_EVENT_BYTES: i32 = 512 * 1024;
/// Bytes on disk that `EVENTS` may take by default. Beyond them the stream refuses new events, and
/// forgets none. The setting `EVENTS_MAX_BYTES` changes the limit.
pub const EVENTS_MAX_BYTES: i64 = 4 * 1024 * 1024 * 1024;
/// Bytes on disk that `DEAD` may take. Beyond them the oldest dead letters are deleted.
pub const DEAD_MAX_BYTES: i64 = 512 * 1024 * 1024;
/// Bytes on disk that `OUTBOUND` may take. Beyond them the relay waits, and goes on once there is
/// room. No message is lost, because `EVENTS` has them all.
pub const OUTBOUND_MAX_BYTES: i64 = 1024 * 1024 * 1024;
/// Ticks of one job that `JOBS` keeps, for people to look at. Older ticks are deleted.
pub const JOBS_MAX_PER_SUBJECT: i64 = 100;

/// How long failed logins are counted, and how long a locked login stays locked.
pub const LOCKOUT_WINDOW: Duration = Duration::from_secs(15 * 60);
/// Bytes on disk that a bucket may take: at some 300 bytes an entry more than 200,000 logins.
/// Beyond them the bucket refuses new entries.
pub const BUCKET_MAX_BYTES: i64 = 64 * 1024 * 1024;
/// How long the marker of an entry that has expired stays. Services that watch the bucket see it.
pub const BUCKET_MARKERS: Duration = Duration::from_secs(60);

/// The time after which a delivered message comes again, if it is neither settled nor reported in
/// work. A crash delays a message by at most this time.
pub const ACK_WAIT: Duration = Duration::from_secs(30);
/// Events that all persisters together have in work. The server delivers no more before some are
/// settled.
pub const PERSISTER_MAX_ACK_PENDING: i64 = 20_000;
/// Operator messages of one partition that its forwarder has in work, including those that wait.
/// The forwarder holds only their sequences. Beyond the limit, newer messages stay in the stream
/// until older ones are delivered or have passed their deadline.
pub const PARTITION_MAX_ACK_PENDING: i64 = 50_000;
/// Events that the relay has in work. The server delivers no more before some are copied.
pub const RELAY_MAX_ACK_PENDING: i64 = 2_000;
/// The [`ACK_WAIT`] of the relay's consumer: longer than the copying of a batch may take, and short,
/// because a forwarder that dies leaves its last batch for this time.
pub const RELAY_ACK_WAIT: Duration = Duration::from_secs(4);
/// How far back the relay's consumer begins when it takes the place of the server's own sourcing:
/// longer than any message waits. Messages that were delivered since then are copied once more, and
/// the forwarder finds in the log that it has delivered them.
pub const RELAY_LOOK_BACK: Duration = Duration::from_secs(25 * 3_600);
/// The time after which a forwarder that asks for no messages loses its partition to another.
pub const PARTITION_PIN_TIMEOUT: Duration = Duration::from_secs(3);
/// The [`ACK_WAIT`] of a partition's consumer, longer than any message waits. It is only a safety
/// net, because a new owner has the server send every unsettled message again.
pub const PARTITION_ACK_WAIT: Duration = Duration::from_secs(25 * 3_600);
/// How long the entry of a lane lives: a little longer than any message may wait.
pub const LANE_TTL: Duration = Duration::from_secs(25 * 3_600);
/// Tasks of jobs that all schedulers together have in work, including those that wait for a retry.
/// The server delivers no more before some are settled.
pub const SCHEDULER_WORK_MAX_ACK_PENDING: i64 = 10_000;
/// Ticks that all schedulers together have in work, including those that wait for a run of their
/// job to end. The limit is more than the stream keeps of all six jobs. Otherwise the ticks that
/// wait for one long run would hold up those of the other jobs.
pub const SCHEDULER_MAX_ACK_PENDING: i64 = 10 * JOBS_MAX_PER_SUBJECT;

/// `forwarder-<partition>`: the name of a partition's durable consumer of `OUTBOUND`.
pub fn forwarder(partition: u32) -> String {
    format!("forwarder-{partition}")
}
