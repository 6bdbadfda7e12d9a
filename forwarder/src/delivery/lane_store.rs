//! The bucket `lanes`: why a conversation waits, since when, how often its first message was tried
//! and when it is tried again. Operators read the bucket, and so does the forwarder that takes a
//! partition over. The messages themselves are in the stream, not in the bucket.

use std::collections::HashMap;

use contract::Id;
use contract::domain::LaneEntry;
use contract::{inventory, subject};
use runtime::kv::bucket::Bucket;
use runtime::log::direct_get::{self, ReadError};
use runtime::net::connection::Connection;
use tracing::warn;

use crate::delivery::work::LaneId;

/// Reads and writes the bucket `lanes`.
#[derive(Clone)]
pub struct LaneStore {
    connection: Connection,
    bucket: Bucket,
}

impl LaneStore {
    pub fn new(connection: Connection) -> LaneStore {
        LaneStore {
            bucket: Bucket::new(connection.clone(), inventory::LANES),
            connection,
        }
    }

    /// Loads the entries of a partition.
    ///
    /// # Errors
    /// The bucket does not answer.
    pub async fn load(&self, partition: u32) -> Result<HashMap<LaneId, LaneEntry>, ReadError> {
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
                // The marker of an entry that was removed or has expired.
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

    /// Writes a lane's entry. Returns false if that fails. Delivery goes on then: without the entry a
    /// new owner counts the calls from 0.
    pub async fn put(&self, partition: u32, lane: LaneId, entry: &LaneEntry) -> bool {
        self.bucket
            .put(&key(partition, lane), entry, inventory::LANE_TTL)
            .await
            .is_ok()
    }

    /// Removes a lane's entry. If that fails, the entry names a message that is gone. Such an entry is
    /// ignored, and expires.
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_lane_is_read_back_from_the_subject_of_its_entry(
            partition in 0..16_u32,
            company in any::<[u8; 12]>(),
            contact in any::<[u8; 12]>(),
        ) {
            let lane = (Id::from_bytes(company), Id::from_bytes(contact));
            let subject = subject::entry(inventory::LANES, &key(partition, lane));
            prop_assert_eq!(lane_of(&subject), Some(lane));
        }
    }
}
