//! Makes streams, consumers and buckets what the contract says. Idempotent. Adding and widening
//! happens by itself; a change that could lose messages or state is only reported, for a person to
//! decide.

mod difference;
mod plan;
mod report;

use std::error::Error;
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::context::{
    ConsumerInfoErrorKind, CreateStreamError, CreateStreamErrorKind, GetStreamError,
    GetStreamErrorKind,
};
use async_nats::jetstream::stream::{Config, ConsumerError, ConsumerErrorKind, DiscardPolicy};
use async_nats::jetstream::{Context, ErrorCode, kv};

use contract::inventory;
use time::OffsetDateTime;

use self::difference::Difference;
use self::plan::{buckets, streams};

pub use self::plan::{Sizes, consumers};
pub use self::report::{Change, Report};

/// The server does not answer, or refuses.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}")]
pub struct SetupError {
    what: String,
    #[source]
    error: async_nats::Error,
}

impl SetupError {
    /// The server's own code, if the server has refused something.
    pub fn code(&self) -> Option<ErrorCode> {
        let error: &(dyn Error + 'static) = &*self.error;
        std::iter::successors(Some(error), |error| Error::source(*error)).find_map(code_of)
    }
}

/// The code in one error of the client, which keeps it in several places.
fn code_of(error: &(dyn Error + 'static)) -> Option<ErrorCode> {
    if let Some(error) = error.downcast_ref::<async_nats::jetstream::Error>() {
        return Some(error.error_code());
    }
    match error.downcast_ref::<CreateStreamError>()?.kind() {
        CreateStreamErrorKind::JetStream(error) => Some(error.error_code()),
        _ => None,
    }
}

/// Names the thing that an error is about.
fn about<E: Into<async_nats::Error>>(what: &str) -> impl FnOnce(E) -> SetupError {
    move |error| SetupError {
        what: what.to_owned(),
        error: error.into(),
    }
}

/// Brings the server to the contract. Needs a user that may use JetStream's whole API.
///
/// # Errors
/// The first thing that the server refuses. Calling it again goes on.
pub async fn reconcile(jetstream: &Context, sizes: Sizes) -> Result<Report, SetupError> {
    let mut report = Report::default();
    let what = format!("consumer {}/{}", inventory::EVENTS, inventory::RELAY);
    if let Some(change) = relieve_sourcing(jetstream).await.map_err(about(&what))? {
        report.0.push((what, change));
    }
    for config in streams(sizes) {
        let name = format!("stream {}", config.name);
        let change = reconcile_stream(jetstream, config)
            .await
            .map_err(about(&name))?;
        report.0.push((name, change));
    }
    // The filter of the retired consumer overlaps those of the partitions, which a work queue
    // refuses. The partitions' consumers deliver the messages that it had not settled.
    let (of, name) = (inventory::OUTBOUND, inventory::RETIRED_FORWARDER);
    let what = format!("consumer {of}/{name}");
    if retire(jetstream, of, name).await.map_err(about(&what))? {
        report.0.push((what, Change::Deleted));
    }
    for (of, config) in consumers() {
        let name = config.durable_name.clone().unwrap_or_default();
        let what = format!("consumer {of}/{name}");
        let change = reconcile_consumer(jetstream, of, &name, config)
            .await
            .map_err(about(&what))?;
        report.0.push((what, change));
    }
    for config in buckets(sizes) {
        let what = format!("bucket {}", config.bucket);
        let change = reconcile_bucket(jetstream, config)
            .await
            .map_err(about(&what))?;
        report.0.push((what, change));
    }
    Ok(report)
}

/// Before the relay there was a server that sourced `OUTBOUND` from `EVENTS`. While it still does,
/// this makes the relay's consumer, far enough back that no message falls between the two. Returns
/// `None` if there is nothing to do.
async fn relieve_sourcing(jetstream: &Context) -> Result<Option<Change>, async_nats::Error> {
    let outbound = stream_config(jetstream, inventory::OUTBOUND).await?;
    if outbound.is_none_or(|config| config.sources.is_none_or(|sources| sources.is_empty())) {
        return Ok(None);
    }
    let Some((_, config)) = consumers()
        .into_iter()
        .find(|(_, c)| c.durable_name.as_deref() == Some(inventory::RELAY))
    else {
        return Ok(None);
    };
    let start_time = OffsetDateTime::now_utc() - inventory::RELAY_LOOK_BACK;
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartTime { start_time },
        ..config
    };
    let stream = jetstream.get_stream_no_info(inventory::EVENTS).await?;
    match stream.consumer_info(inventory::RELAY).await {
        // An earlier setup was interrupted after this.
        Ok(_) => Ok(None),
        Err(e) if e.kind() == ConsumerInfoErrorKind::NotFound => {
            stream.create_consumer(config).await?;
            Ok(Some(Change::Created))
        }
        Err(e) => Err(e.into()),
    }
}

/// The configuration that the server has; `None` if it has no such stream.
async fn stream_config(jetstream: &Context, name: &str) -> Result<Option<Config>, GetStreamError> {
    match jetstream.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
        Err(e) => match e.kind() {
            GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(None)
            }
            _ => Err(e),
        },
    }
}

async fn reconcile_stream(jetstream: &Context, want: Config) -> Result<Change, async_nats::Error> {
    let Some(have) = stream_config(jetstream, &want.name).await? else {
        jetstream.create_stream(want).await?;
        return Ok(Change::Created);
    };
    let is_wider = have.subjects.iter().all(|s| want.subjects.contains(s));
    let (have_age, want_age) = (nanos(have.max_age), nanos(want.max_age));
    let (have_size, want_size) = (have.max_message_size, want.max_message_size);
    let (have_last, want_last) = (have.max_messages_per_subject, want.max_messages_per_subject);
    let mut d = Difference::default();
    d.safe("description", &have.description, &want.description);
    d.when(is_wider, "subjects", &have.subjects, &want.subjects);
    d.widening("max_bytes", have.max_bytes, want.max_bytes);
    d.widening("max_age", have_age, want_age);
    d.widening("max_message_size", have_size.into(), want_size.into());
    d.widening("max_messages_per_subject", have_last, want_last);
    if !want.duplicate_window.is_zero() {
        d.growing(
            "duplicate_window",
            &have.duplicate_window,
            &want.duplicate_window,
        );
    }
    d.growing("num_replicas", &have.num_replicas, &want.num_replicas);
    // No stored message changes by it.
    d.safe("republish", &have.republish, &want.republish);
    d.switch("allow_direct", have.allow_direct, want.allow_direct);
    d.switch(
        "allow_atomic_publish",
        have.allow_atomic_publish,
        want.allow_atomic_publish,
    );
    d.switch(
        "allow_message_ttl",
        have.allow_message_ttl,
        want.allow_message_ttl,
    );
    d.switch("allow_rollup", have.allow_rollup, want.allow_rollup);
    d.switch(
        "allow_message_schedules",
        have.allow_message_schedules,
        want.allow_message_schedules,
    );
    let refuses_new = want.discard == DiscardPolicy::New;
    d.when(refuses_new, "discard", &have.discard, &want.discard);
    d.manual("retention", &have.retention, &want.retention);
    d.manual("storage", &have.storage, &want.storage);
    let transforms = |config: &Config| -> Vec<_> {
        let sources = config.sources.iter().flatten();
        sources
            .flat_map(|source| source.subject_transforms.clone())
            .collect()
    };
    // The relay has taken over, see `relieve_sourcing`.
    let is_relieved = want.sources.is_none();
    d.when(
        is_relieved,
        "sources",
        &transforms(&have),
        &transforms(&want),
    );
    let change = d.change();
    if matches!(change, Change::Updated(_)) {
        jetstream.update_stream(want).await?;
    }
    Ok(change)
}

async fn reconcile_consumer(
    jetstream: &Context,
    of: &str,
    name: &str,
    want: pull::Config,
) -> Result<Change, async_nats::Error> {
    let stream = jetstream.get_stream_no_info(of).await?;
    let have = match stream.consumer_info(name).await {
        Ok(_) => stream.get_consumer::<pull::Config>(name).await?,
        Err(e) if e.kind() == ConsumerInfoErrorKind::NotFound => {
            stream.create_consumer(want).await?;
            return Ok(Change::Created);
        }
        Err(e) => return Err(e.into()),
    };
    let have = &have.cached_info().config;
    let mut d = Difference::default();
    d.safe("description", &have.description, &want.description);
    d.safe("ack_wait", &have.ack_wait, &want.ack_wait);
    d.safe(
        "max_ack_pending",
        &have.max_ack_pending,
        &want.max_ack_pending,
    );
    d.widening("max_deliver", have.max_deliver, want.max_deliver);
    d.manual("filter_subject", &have.filter_subject, &want.filter_subject);
    d.manual(
        "filter_subjects",
        &have.filter_subjects,
        &want.filter_subjects,
    );
    d.manual(
        "priority",
        &(
            &have.priority_policy,
            &have.priority_groups,
            have.priority_timeout,
        ),
        &(
            &want.priority_policy,
            &want.priority_groups,
            want.priority_timeout,
        ),
    );
    d.manual("ack_policy", &have.ack_policy, &want.ack_policy);
    // Where a consumer began does not matter any more.
    if !matches!(have.deliver_policy, DeliverPolicy::ByStartTime { .. }) {
        d.manual("deliver_policy", &have.deliver_policy, &want.deliver_policy);
    }
    let change = d.change();
    if matches!(change, Change::Updated(_)) {
        stream.update_consumer(want).await?;
    }
    Ok(change)
}

/// Deletes a consumer. Returns whether the server had it.
async fn retire(jetstream: &Context, of: &str, name: &str) -> Result<bool, async_nats::Error> {
    let stream = jetstream.get_stream_no_info(of).await?;
    match stream.delete_consumer(name).await {
        Ok(_) => Ok(true),
        Err(e) if is_not_found(&e) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Whether the server has no such consumer.
pub(crate) fn is_not_found(error: &ConsumerError) -> bool {
    matches!(
        error.kind(),
        ConsumerErrorKind::JetStream(e) if e.error_code() == ErrorCode::CONSUMER_NOT_FOUND
    )
}

async fn reconcile_bucket(
    jetstream: &Context,
    want: kv::Config,
) -> Result<Change, async_nats::Error> {
    let Some(mut have) = stream_config(jetstream, &format!("KV_{}", want.bucket)).await? else {
        jetstream.create_key_value(want).await?;
        return Ok(Change::Created);
    };
    let markers = have.subject_delete_marker_ttl;
    let mut d = Difference::default();
    d.widening("max_bytes", have.max_bytes, want.max_bytes);
    d.widening("max_age", nanos(have.max_age), nanos(want.max_age));
    d.growing("num_replicas", &have.num_replicas, &want.num_replicas);
    d.when(
        markers.is_none(),
        "limit_markers",
        &markers,
        &want.limit_markers,
    );
    let change = d.change();
    if matches!(change, Change::Updated(_)) {
        let ttl = have.allow_message_ttl || want.limit_markers.is_some();
        (have.max_bytes, have.max_age, have.num_replicas) =
            (want.max_bytes, want.max_age, want.num_replicas);
        (have.subject_delete_marker_ttl, have.allow_message_ttl) = (want.limit_markers, ttl);
        jetstream.update_stream(have).await?;
    }
    Ok(change)
}

fn nanos(age: Duration) -> i64 {
    i64::try_from(age.as_nanos()).unwrap_or(i64::MAX)
}
