//! One message per key: before a group of events is written, the persister is asked in one query
//! which of the messages' keys other messages own. That covers messages older than the log's
//! duplicate window; within the window the log compares `Nats-Msg-Id`. Decides nothing while the
//! persister does not answer: messages are accepted then, and the unique index of the view has the
//! last word.

use std::collections::HashMap;
use std::time::Duration;

use contract::domain::ExternalId;
use contract::query::{DedupKey, FindKeyOwners, KeyOwner, UniqueKey};
use contract::trace::TraceContext;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use metrics::counter;
use runtime::log::pre_commit::PreCommit;
use runtime::log::publisher::{Outgoing, PublishError};
use runtime::net::connection::Connection;
use runtime::rpc::query;
use tokio::time::Instant;
use tracing::warn;

/// How long a group of events waits for the persister's answer. Beyond it the group is written
/// unchecked.
const TIMEOUT: Duration = Duration::from_millis(300);
/// After a failure the persister is not asked for this time. Otherwise a database that is away would
/// delay every group.
const PAUSE: Duration = Duration::from_secs(2);

/// The `Nats-Msg-Id` of a message that has a key.
pub fn msg_id(UniqueKey { company_id, key }: &UniqueKey) -> String {
    match key {
        DedupKey::External {
            contact_id,
            platform,
            id,
        } => format!("ext:{company_id}:{contact_id}:{platform}:{id}"),
        DedupKey::Request(key) => format!("key:{company_id}:{key}"),
    }
}

/// The key of an event with this `Nats-Msg-Id`; `None` for an event without one.
fn key_of(msg_id: &str) -> Option<UniqueKey> {
    let (kind, rest) = msg_id.split_once(':')?;
    let (company, rest) = rest.split_once(':')?;
    let key = match kind {
        "ext" => {
            let (contact, rest) = rest.split_once(':')?;
            let (platform, id) = rest.split_once(':')?;
            DedupKey::External {
                contact_id: contact.parse().ok()?,
                platform: platform.parse().ok()?,
                id: ExternalId::new(id).ok()?,
            }
        }
        "key" => DedupKey::Request(rest.to_owned()),
        _ => return None,
    };
    Some(UniqueKey {
        company_id: company.parse().ok()?,
        key,
    })
}

/// The gateway's check before the group commit.
pub struct Dedup {
    connection: Connection,
    paused_until: Instant,
}

impl Dedup {
    /// Asks from the first group on.
    pub fn new(connection: Connection) -> Dedup {
        Dedup {
            connection,
            paused_until: Instant::now(),
        }
    }

    /// The keys that other messages own, each with its owner.
    async fn owners(&mut self, keys: Vec<UniqueKey>) -> HashMap<UniqueKey, KeyOwner> {
        if keys.is_empty() {
            return HashMap::new();
        }
        let count = keys.len() as u64;
        if Instant::now() < self.paused_until {
            counter!("unique_checks_skipped_total", "reason" => "paused").increment(count);
            return HashMap::new();
        }
        let question = FindKeyOwners { keys };
        let asked = query::ask(&self.connection, &question, TraceContext::generate());
        let why = match tokio::time::timeout(TIMEOUT, asked).await {
            Ok(Ok(owners)) => return owners.into_iter().map(|o| (o.key.clone(), o)).collect(),
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!("no answer within {TIMEOUT:?}"),
        };
        warn!(
            why,
            "unique keys cannot be checked against the database for now"
        );
        counter!("unique_checks_skipped_total", "reason" => "failed").increment(count);
        self.paused_until = Instant::now() + PAUSE;
        HashMap::new()
    }
}

impl PreCommit for Dedup {
    fn check<'a>(
        &'a mut self,
        group: &'a [&'a Outgoing],
    ) -> BoxFuture<'a, Vec<(usize, PublishError)>> {
        async move {
            let keys: Vec<_> = group.iter().map(|event| key_of(&event.msg_id)).collect();
            let owners = self.owners(keys.iter().flatten().cloned().collect()).await;
            let taken = keys.iter().enumerate().filter_map(|(index, key)| {
                let owner = owners.get(key.as_ref()?)?;
                Some((index, PublishError::Taken(Box::new(owner.clone()))))
            });
            taken.collect()
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::Id;
    use contract::domain::Platform;
    use proptest::prelude::*;
    use proptest::sample::select;

    proptest! {
        #[test]
        fn a_key_is_read_from_the_msg_id_as_it_was_written(
            company in any::<[u8; 12]>(),
            contact in any::<[u8; 12]>(),
            platform in select(Platform::ALL),
            id in "[!-~]{0,3}:?[ -~é]{1,20}",
            request in "[!-~]{1,20}",
        ) {
            let company_id = Id::from_bytes(company);
            let contact_id = Id::from_bytes(contact);
            let external = ExternalId::new(&id)
                .ok()
                .map(|id| DedupKey::External { contact_id, platform, id });
            for key in external.into_iter().chain([DedupKey::Request(request)]) {
                let key = UniqueKey { company_id, key };
                prop_assert_eq!(key_of(&msg_id(&key)), Some(key));
            }
        }

        #[test]
        fn no_msg_id_makes_the_reader_panic(text in ".{0,60}") {
            let _ = (key_of(&text), key_of(&format!("ext:{text}")), key_of(&format!("key:{text}")));
        }
    }

    #[test]
    fn events_other_than_messages_have_no_key() {
        let company = "a".repeat(24);
        for msg_id in [
            company.clone(),
            format!("contact:{company}:k"),
            String::new(),
        ] {
            assert_eq!(key_of(&msg_id), None, "{msg_id}");
        }
    }
}
