//! The bucket `lanes`: why a conversation waits, since when, how often it was tried and when it is
//! tried again. For operators, and for the forwarder that takes a partition over. What awaits
//! delivery stands in the stream, not here.

use std::collections::HashMap;

use contract::Id;
use contract::domain::LaneEntry;
use contract::{inventory, subject};
use runtime::kv::bucket::Bucket;
use runtime::log::direct_get;
use runtime::net::connection::Connection;
use tracing::warn;

use crate::partition::lane::LaneId;

/// The bucket.
#[derive(Clone)]
pub struct Entries {
    connection: Connection,
    bucket: Bucket,
}

impl Entries {
    /// Asks nothing yet.
    pub fn new(connection: Connection) -> Entries {
        Entries {
            bucket: Bucket::new(connection.clone(), inventory::LANES),
            connection,
        }
    }

    /// The entries of a partition.
    ///
    /// # Errors
    /// The bucket does not answer.
    pub async fn load(&self, partition: u32) -> Result<HashMap<LaneId, LaneEntry>, String> {
        let (stream, filter) = (
            format!("KV_{}", inventory::LANES),
            subject::entry(inventory::LANES, &format!("{partition}.>")),
        );
        let (mut entries, mut from) = (HashMap::new(), 1);
        loop {
            let page = direct_get::page(
                &self.connection,
                &stream,
                &filter,
                from,
                direct_get::MAX_PAGE,
            )
            .await?;
            let Some(last) = page.last() else {
                return Ok(entries);
            };
            from = last.seq + 1;
            for stored in &page {
                // The marker of what was removed or has expired.
                if stored.payload.is_empty() {
                    continue;
                }
                match (
                    lane_of(&stored.subject),
                    serde_json::from_slice(&stored.payload),
                ) {
                    (Some(lane), Ok(entry)) => drop(entries.insert(lane, entry)),
                    _ => warn!(subject = stored.subject, "an entry that is none"),
                }
            }
        }
    }

    /// Writes a lane's entry. Without it a new owner would count from nothing, so a failure is no
    /// reason to stop.
    pub async fn put(&self, partition: u32, lane: LaneId, entry: &LaneEntry) -> bool {
        self.bucket
            .put(&key(partition, lane), entry, inventory::LANE_TTL)
            .await
            .is_ok()
    }

    /// Removes it. If that fails, it names a message that is gone, which nobody heeds, and expires.
    pub async fn remove(&self, partition: u32, lane: LaneId) {
        let _ = self.bucket.remove(&key(partition, lane), None).await;
    }
}

fn key(partition: u32, (company, contact): LaneId) -> String {
    format!("{partition}.{company}.{contact}")
}

fn lane_of(subject: &str) -> Option<LaneId> {
    let mut tokens = subject.rsplit('.');
    let (contact, company): (Id, Id) = (tokens.next()?.parse().ok()?, tokens.next()?.parse().ok()?);
    Some((company, contact))
}

/// The place in its conversation of a message of `OUTBOUND`: the sequence in `EVENTS` that it was
/// sourced from, or that its first delivery was, if it is replayed.
pub fn order_of(message: &async_nats::Message) -> Option<u64> {
    let header = |name: &str| {
        message
            .headers
            .as_ref()?
            .get(name)
            .map(|v| v.as_str().to_owned())
    };
    let sourced = || {
        header(contract::header::STREAM_SOURCE)?
            .split(' ')
            .nth(1)?
            .parse()
            .ok()
    };
    header(contract::header::EVENT_SEQ)
        .and_then(|seq| seq.parse().ok())
        .or_else(sourced)
}
