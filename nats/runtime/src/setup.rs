//! Makes streams, consumers and buckets what the contract says. Idempotent. Adding and widening
//! happens by itself; what could lose messages or state is only reported, for a person to decide.

use std::fmt;

use async_nats::jetstream::consumer::{
    AckPolicy, DeliverPolicy, PriorityPolicy, PullConsumer, pull,
};
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Republish, RetentionPolicy, Source, StorageType, SubjectTransform,
};
use async_nats::jetstream::{Context, context::GetStreamErrorKind};

use contract::{inventory, subject};

/// What happened to one thing of the inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Created,
    /// It is as it should be.
    Unchanged,
    /// These fields were brought up.
    Updated(Vec<&'static str>),
    /// It belonged to an earlier contract.
    Deleted,
    /// These fields differ and were left: changing them could lose something.
    Drift(Vec<&'static str>),
}

/// What happened to each thing, by name.
#[derive(Clone, Debug, Default)]
pub struct Report(pub Vec<(String, Change)>);

impl Report {
    /// Whether something differs that a person must decide on.
    pub fn has_drift(&self) -> bool {
        self.0
            .iter()
            .any(|(_, change)| matches!(change, Change::Drift(_)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, change) in &self.0 {
            match change {
                Change::Created => writeln!(f, "{name}: created")?,
                Change::Deleted => {
                    writeln!(f, "{name}: deleted, it belonged to an earlier contract")?
                }
                Change::Unchanged => writeln!(f, "{name}: as it should be")?,
                Change::Updated(fields) => writeln!(f, "{name}: updated {}", fields.join(", "))?,
                Change::Drift(fields) => writeln!(
                    f,
                    "{name}: DIFFERS in {}. Changing it could lose messages, so it was left. Compare with nats/README.md, then use `nats stream edit` or `nats consumer edit`.",
                    fields.join(", ")
                )?,
            }
        }
        Ok(())
    }
}

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

/// A server that does not answer, or refuses.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}")]
pub struct SetupError {
    what: String,
    error: String,
}

/// Brings the server to the contract. Needs a user that may use JetStream's whole API.
///
/// # Errors
/// The first thing that the server refuses. Calling it again goes on.
pub async fn reconcile(jetstream: &Context, sizes: Sizes) -> Result<Report, SetupError> {
    let mut report = Report::default();
    for config in streams(sizes) {
        let name = config.name.clone();
        let change = reconcile_stream(jetstream, config)
            .await
            .map_err(|error| SetupError {
                what: format!("stream {name}"),
                error,
            })?;
        report.0.push((format!("stream {name}"), change));
    }
    // Its filter overlaps those of the partitions, which a work queue refuses. What it had not
    // settled is theirs.
    let (of, name) = (inventory::OUTBOUND, inventory::RETIRED_FORWARDER);
    if retire(jetstream, of, name)
        .await
        .map_err(|error| SetupError {
            what: format!("consumer {of}/{name}"),
            error,
        })?
    {
        report
            .0
            .push((format!("consumer {of}/{name}"), Change::Deleted));
    }
    for (of, config) in consumers() {
        let name = config.durable_name.clone().unwrap_or_default();
        let change = reconcile_consumer(jetstream, of, config)
            .await
            .map_err(|error| SetupError {
                what: format!("consumer {of}/{name}"),
                error,
            })?;
        report.0.push((format!("consumer {of}/{name}"), change));
    }
    for config in buckets(sizes) {
        let name = config.bucket.clone();
        let change = reconcile_bucket(jetstream, config)
            .await
            .map_err(|error| SetupError {
                what: format!("bucket {name}"),
                error,
            })?;
        report.0.push((format!("bucket {name}"), change));
    }
    Ok(report)
}

fn streams(sizes: Sizes) -> Vec<Config> {
    let file = |name: &str, subjects: &[&str]| Config {
        name: name.into(),
        subjects: subjects.iter().map(|s| s.to_string()).collect(),
        storage: StorageType::File,
        num_replicas: sizes.replicas,
        allow_direct: true,
        max_message_size: inventory::MAX_EVENT_BYTES,
        ..Config::default()
    };
    let transforms = subject::Outbound::transforms()
        .into_iter()
        .map(|(source, destination)| SubjectTransform {
            source,
            destination,
        });
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
            description: Some("Operator messages that await the bot, sourced from EVENTS.".into()),
            retention: RetentionPolicy::WorkQueue,
            max_bytes: inventory::OUTBOUND_MAX_BYTES,
            discard: DiscardPolicy::New,
            // A replay is published once within it.
            duplicate_window: inventory::DUPLICATE_WINDOW,
            sources: Some(vec![Source {
                name: inventory::EVENTS.into(),
                subject_transforms: transforms.collect(),
                ..Source::default()
            }]),
            // What the server sources, and what an operator replays; nobody else may publish here.
            ..file(inventory::OUTBOUND, &[subject::OUTBOUND])
        },
        Config {
            description: Some("What could not be processed, whole.".into()),
            max_age: inventory::DEAD_MAX_AGE,
            max_bytes: inventory::DEAD_MAX_BYTES,
            discard: DiscardPolicy::Old,
            duplicate_window: inventory::DUPLICATE_WINDOW,
            // A dead letter is its message and the headers that say why.
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

/// The durable consumers, each with its stream. A deleted one is made anew by its worker, from
/// this.
pub fn consumers() -> Vec<(&'static str, pull::Config)> {
    let durable = |name: &str, pending: i64, description: &str| pull::Config {
        durable_name: Some(name.into()),
        description: Some(description.into()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: inventory::ACK_WAIT,
        // The worker settles every message itself, and dead-letters with the payload; the server
        // must not give up before.
        max_deliver: -1,
        max_ack_pending: pending,
        // As many copies as its stream has.
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
    let partition = |partition: u32| pull::Config {
        filter_subject: subject::outbound_of_partition(partition),
        ack_wait: inventory::PARTITION_ACK_WAIT,
        priority_policy: PriorityPolicy::PinnedClient,
        priority_groups: vec![inventory::FORWARDER_GROUP.into()],
        priority_timeout: inventory::PARTITION_PIN_TIMEOUT,
        ..durable(
            &inventory::forwarder(partition),
            inventory::PARTITION_MAX_ACK_PENDING,
            "Calls the bot, one conversation at a time in order.",
        )
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
        (inventory::JOBS, ticks),
        (inventory::JOBS, work),
    ];
    consumers.extend((0..subject::PARTITIONS).map(|p| (inventory::OUTBOUND, partition(p))));
    consumers
}

fn buckets(sizes: Sizes) -> Vec<kv::Config> {
    let bucket = |name: &str, description: &str| kv::Config {
        bucket: name.into(),
        description: description.into(),
        history: 1,
        num_replicas: sizes.replicas,
        ..kv::Config::default()
    };
    // Each entry has a time to live of its own.
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

/// Fields that differ, by whether bringing them up is safe.
#[derive(Default)]
struct Difference {
    safe: Vec<&'static str>,
    unsafe_: Vec<&'static str>,
}

impl Difference {
    fn note(&mut self, field: &'static str, differs: bool, safe: bool) {
        if differs {
            if safe {
                self.safe.push(field)
            } else {
                self.unsafe_.push(field)
            }
        }
    }

    /// Safe ones are applied only where no unsafe one stands in the way: an update sends the whole
    /// configuration.
    fn change(self) -> Change {
        match (self.safe.is_empty(), self.unsafe_.is_empty()) {
            (true, true) => Change::Unchanged,
            (false, true) => Change::Updated(self.safe),
            (_, false) => Change::Drift(self.unsafe_.into_iter().chain(self.safe).collect()),
        }
    }
}

/// A limit where 0 or less means none: whether `want` allows at least what `have` allows.
fn widens(have: i64, want: i64) -> bool {
    want <= 0 || (have > 0 && want >= have)
}

async fn reconcile_stream(jetstream: &Context, want: Config) -> Result<Change, String> {
    let have = match jetstream.get_stream(&want.name).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(e) => match e.kind() {
            GetStreamErrorKind::JetStream(e) if e.code() == 404 => {
                jetstream
                    .create_stream(want)
                    .await
                    .map_err(|e| e.to_string())?;
                return Ok(Change::Created);
            }
            _ => return Err(e.to_string()),
        },
    };
    let mut d = Difference::default();
    d.note("description", have.description != want.description, true);
    d.note(
        "subjects",
        have.subjects != want.subjects,
        have.subjects.iter().all(|s| want.subjects.contains(s)),
    );
    d.note(
        "max_bytes",
        have.max_bytes != want.max_bytes && (have.max_bytes > 0 || want.max_bytes > 0),
        widens(have.max_bytes, want.max_bytes),
    );
    d.note(
        "max_age",
        have.max_age != want.max_age,
        widens(have.max_age.as_secs() as i64, want.max_age.as_secs() as i64),
    );
    d.note(
        "max_message_size",
        have.max_message_size != want.max_message_size,
        widens(have.max_message_size.into(), want.max_message_size.into()),
    );
    d.note(
        "max_messages_per_subject",
        have.max_messages_per_subject.max(0) != want.max_messages_per_subject.max(0),
        widens(have.max_messages_per_subject, want.max_messages_per_subject),
    );
    let window_set = !want.duplicate_window.is_zero();
    d.note(
        "duplicate_window",
        window_set && have.duplicate_window != want.duplicate_window,
        want.duplicate_window > have.duplicate_window,
    );
    d.note(
        "num_replicas",
        have.num_replicas != want.num_replicas,
        want.num_replicas > have.num_replicas,
    );
    // Nothing stored changes by it.
    d.note("republish", have.republish != want.republish, true);
    d.note(
        "allow_direct",
        have.allow_direct != want.allow_direct,
        want.allow_direct,
    );
    d.note(
        "allow_atomic_publish",
        have.allow_atomic_publish != want.allow_atomic_publish,
        want.allow_atomic_publish,
    );
    // Neither can be taken back.
    d.note(
        "allow_message_ttl",
        have.allow_message_ttl != want.allow_message_ttl,
        want.allow_message_ttl,
    );
    d.note(
        "allow_rollup",
        have.allow_rollup != want.allow_rollup,
        want.allow_rollup,
    );
    d.note(
        "allow_message_schedules",
        have.allow_message_schedules != want.allow_message_schedules,
        want.allow_message_schedules,
    );
    d.note(
        "discard",
        have.discard != want.discard,
        want.discard == DiscardPolicy::New,
    );
    d.note("retention", have.retention != want.retention, false);
    d.note("storage", have.storage != want.storage, false);
    let transforms = |c: &Config| {
        c.sources
            .iter()
            .flatten()
            .flat_map(|s| s.subject_transforms.clone())
            .collect::<Vec<_>>()
    };
    d.note("sources", transforms(&have) != transforms(&want), false);
    let change = d.change();
    if matches!(change, Change::Updated(_)) {
        jetstream
            .update_stream(want)
            .await
            .map_err(|e| e.to_string())?;
    }
    Ok(change)
}

async fn reconcile_consumer(
    jetstream: &Context,
    of: &str,
    want: pull::Config,
) -> Result<Change, String> {
    let name = want.durable_name.clone().unwrap_or_default();
    let stream = jetstream
        .get_stream_no_info(of)
        .await
        .map_err(|e| e.to_string())?;
    let have: Option<PullConsumer> = match stream.consumer_info(&name).await {
        Ok(_) => Some(
            stream
                .get_consumer(&name)
                .await
                .map_err(|e| e.to_string())?,
        ),
        Err(e) if e.to_string().contains("not found") => None,
        Err(e) => return Err(e.to_string()),
    };
    let Some(have) = have else {
        stream
            .create_consumer(want)
            .await
            .map_err(|e| e.to_string())?;
        return Ok(Change::Created);
    };
    let have = &have.cached_info().config;
    let mut d = Difference::default();
    d.note("description", have.description != want.description, true);
    d.note("ack_wait", have.ack_wait != want.ack_wait, true);
    d.note(
        "max_ack_pending",
        have.max_ack_pending != want.max_ack_pending,
        true,
    );
    d.note(
        "max_deliver",
        have.max_deliver.max(-1) != want.max_deliver,
        widens(have.max_deliver, want.max_deliver),
    );
    d.note(
        "filter_subject",
        have.filter_subject != want.filter_subject,
        false,
    );
    let priority = have.priority_policy != want.priority_policy
        || have.priority_groups != want.priority_groups;
    d.note(
        "priority",
        priority || have.priority_timeout != want.priority_timeout,
        false,
    );
    d.note("ack_policy", have.ack_policy != want.ack_policy, false);
    d.note(
        "deliver_policy",
        have.deliver_policy != want.deliver_policy,
        false,
    );
    let change = d.change();
    if matches!(change, Change::Updated(_)) {
        stream
            .update_consumer(want)
            .await
            .map_err(|e| e.to_string())?;
    }
    Ok(change)
}

/// Deletes a consumer, if it is there.
async fn retire(jetstream: &Context, of: &str, name: &str) -> Result<bool, String> {
    let stream = jetstream
        .get_stream_no_info(of)
        .await
        .map_err(|e| e.to_string())?;
    match stream.delete_consumer(name).await {
        Ok(_) => Ok(true),
        Err(e) if e.to_string().contains("not found") => Ok(false),
        Err(e) => Err(e.to_string()),
    }
}

async fn reconcile_bucket(jetstream: &Context, want: kv::Config) -> Result<Change, String> {
    let mut have = match jetstream.get_stream(format!("KV_{}", want.bucket)).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(e) => match e.kind() {
            GetStreamErrorKind::JetStream(e) if e.code() == 404 => {
                jetstream
                    .create_key_value(want)
                    .await
                    .map_err(|e| e.to_string())?;
                return Ok(Change::Created);
            }
            _ => return Err(e.to_string()),
        },
    };
    let mut d = Difference::default();
    d.note(
        "max_bytes",
        have.max_bytes.max(0) != want.max_bytes.max(0),
        widens(have.max_bytes, want.max_bytes),
    );
    d.note(
        "max_age",
        have.max_age != want.max_age,
        widens(have.max_age.as_secs() as i64, want.max_age.as_secs() as i64),
    );
    d.note(
        "num_replicas",
        have.num_replicas != want.num_replicas,
        want.num_replicas > have.num_replicas,
    );
    d.note(
        "limit_markers",
        have.subject_delete_marker_ttl != want.limit_markers,
        have.subject_delete_marker_ttl.is_none(),
    );
    let change = d.change();
    if matches!(change, Change::Updated(_)) {
        let ttl = have.allow_message_ttl || want.limit_markers.is_some();
        (have.max_bytes, have.max_age, have.num_replicas) =
            (want.max_bytes, want.max_age, want.num_replicas);
        (have.subject_delete_marker_ttl, have.allow_message_ttl) = (want.limit_markers, ttl);
        jetstream
            .update_stream(have)
            .await
            .map_err(|e| e.to_string())?;
    }
    Ok(change)
}
