//! The streams, consumers and buckets that the contract wants, as configurations for the server.
//! Asks no server.

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PriorityPolicy, pull};
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Republish, RetentionPolicy, StorageType,
};

use contract::{inventory, subject};

/// What differs between deployments.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// `NATS_REPLICAS`: 1, or 3 in a cluster.
    pub replicas: usize,
    /// `EVENTS_MAX_BYTES`
    pub events_max_bytes: i64,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes {
            replicas: 1,
            events_max_bytes: inventory::EVENTS_MAX_BYTES,
        }
    }
}

pub(super) fn streams(sizes: Sizes) -> Vec<Config> {
    let file = |name: &str, subjects: &[&str]| Config {
        name: name.into(),
        subjects: subjects.iter().map(|s| s.to_string()).collect(),
        storage: StorageType::File,
        num_replicas: sizes.replicas,
        allow_direct: true,
        max_message_size: inventory::MAX_EVENT_BYTES,
        ..Config::default()
    };
    vec![
        Config {
            description: Some("The log: every change, in one sequence.".into()),
            max_age: inventory::EVENTS_MAX_AGE,
            max_bytes: sizes.events_max_bytes,
            discard: DiscardPolicy::New,
            duplicate_window: inventory::DUPLICATE_WINDOW,
            allow_atomic_publish: true,
            republish: Some(Republish {
                source: subject::LIVE_SOURCE.into(),
                destination: subject::LIVE_DESTINATION.into(),
                headers_only: false,
            }),
            ..file(inventory::EVENTS, subject::EVENTS)
        },
        Config {
            description: Some("Operator messages that await the bot.".into()),
            retention: RetentionPolicy::WorkQueue,
            max_bytes: inventory::OUTBOUND_MAX_BYTES,
            discard: DiscardPolicy::New,
            // Within this window the relay's copy of an event, and a replay, are stored once.
            duplicate_window: inventory::DUPLICATE_WINDOW,
            allow_atomic_publish: true,
            ..file(inventory::OUTBOUND, &[subject::OUTBOUND])
        },
        Config {
            description: Some("What could not be processed, whole.".into()),
            max_age: inventory::DEAD_MAX_AGE,
            max_bytes: inventory::DEAD_MAX_BYTES,
            discard: DiscardPolicy::Old,
            duplicate_window: inventory::DUPLICATE_WINDOW,
            // A dead letter is the message and the headers that say why it is one.
            max_message_size: inventory::MAX_EVENT_BYTES + 64 * 1024,
            ..file(inventory::DEAD, &[subject::DEAD])
        },
        Config {
            description: Some("Schedules of jobs, and the ticks they make.".into()),
            allow_message_schedules: true,
            allow_message_ttl: true,
            allow_rollup: true,
            max_messages_per_subject: inventory::JOBS_MAX_PER_SUBJECT,
            duplicate_window: inventory::DUPLICATE_WINDOW,
            ..file(inventory::JOBS, subject::JOBS)
        },
    ]
}

/// The durable consumers, each with its stream. A worker makes a deleted consumer anew from this
/// list.
pub fn consumers() -> Vec<(&'static str, pull::Config)> {
    let durable = |name: &str, pending: i64, description: &str| pull::Config {
        durable_name: Some(name.into()),
        description: Some(description.into()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: inventory::ACK_WAIT,
        // No limit: the worker settles every message itself, and stores dead letters with their
        // payload. Otherwise the server could give up before the worker does.
        max_deliver: -1,
        max_ack_pending: pending,
        // As many copies as the stream has.
        num_replicas: 0,
        ..pull::Config::default()
    };
    let ticks = pull::Config {
        filter_subject: subject::JOB_TICKS.into(),
        ..durable(
            inventory::SCHEDULER,
            inventory::SCHEDULER_MAX_ACK_PENDING,
            "Does the jobs.",
        )
    };
    let work = pull::Config {
        filter_subject: subject::JOB_WORK.into(),
        ..durable(
            inventory::SCHEDULER_WORK,
            inventory::SCHEDULER_WORK_MAX_ACK_PENDING,
            "Does what jobs hand out, piece by piece.",
        )
    };
    let pinned = |config: pull::Config| pull::Config {
        priority_policy: PriorityPolicy::PinnedClient,
        priority_groups: vec![inventory::FORWARDER_GROUP.into()],
        priority_timeout: inventory::PARTITION_PIN_TIMEOUT,
        ..config
    };
    let relay = pinned(pull::Config {
        filter_subjects: subject::forwardable(),
        ack_wait: inventory::RELAY_ACK_WAIT,
        ..durable(
            inventory::RELAY,
            inventory::RELAY_MAX_ACK_PENDING,
            "Copies what awaits the bot into OUTBOUND.",
        )
    });
    let partition = |partition: u32| {
        pinned(pull::Config {
            filter_subject: subject::outbound_of_partition(partition),
            ack_wait: inventory::PARTITION_ACK_WAIT,
            ..durable(
                &inventory::forwarder(partition),
                inventory::PARTITION_MAX_ACK_PENDING,
                "Calls the bot, one conversation at a time in order.",
            )
        })
    };
    let mut consumers = vec![
        (
            inventory::EVENTS,
            durable(
                inventory::PERSISTER,
                inventory::PERSISTER_MAX_ACK_PENDING,
                "Writes MongoDB.",
            ),
        ),
        (inventory::EVENTS, relay),
        (inventory::JOBS, ticks),
        (inventory::JOBS, work),
    ];
    consumers.extend((0..subject::PARTITIONS).map(|p| (inventory::OUTBOUND, partition(p))));
    consumers
}

pub(super) fn buckets(sizes: Sizes) -> Vec<kv::Config> {
    let bucket = |name: &str, description: &str| kv::Config {
        bucket: name.into(),
        description: description.into(),
        history: 1,
        num_replicas: sizes.replicas,
        ..kv::Config::default()
    };
    // The time to live is a matter of each entry.
    let expiring = |name: &str, description: &str| kv::Config {
        max_bytes: inventory::BUCKET_MAX_BYTES,
        limit_markers: Some(inventory::BUCKET_MARKERS),
        ..bucket(name, description)
    };
    vec![
        bucket(inventory::JOB_RUNS, "The last run of each job."),
        expiring(inventory::SESSIONS, "Logins that can be refreshed."),
        expiring(inventory::LOCKOUTS, "Failed logins."),
        expiring(
            inventory::LANES,
            "Conversations whose next message waits for more than its turn.",
        ),
        expiring(inventory::BOT_HEALTH, "How the Meta bot is."),
        kv::Config {
            max_age: inventory::DEAD_MAX_AGE,
            ..expiring(inventory::DEAD_LETTERS, "What became of dead letters.")
        },
    ]
}
