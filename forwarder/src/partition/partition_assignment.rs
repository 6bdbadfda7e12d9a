//! Which forwarders there are, and which partitions each of them takes. Each forwarder announces
//! itself and computes the same assignment. If two disagree for a moment, the server's pin decides.
//! Takes and leaves no partition itself; see `partition`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use contract::subject::{self, PARTITIONS};
use futures_util::StreamExt;
use runtime::CancellationToken;
use runtime::net::connection::{Connection, REQUEST_TIMEOUT};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// How often a forwarder announces itself.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How long a forwarder counts as a member after its last beat.
const GONE_AFTER: Duration = Duration::from_millis(3_500);
/// How long a new forwarder listens to the others before it takes a partition.
const LISTEN: Duration = Duration::from_millis(1_200);
/// Members that are remembered at most. Beats of further ones are ignored. More members than
/// partitions have nothing to do, so this only bounds the memory.
const MAX_MEMBERS: usize = 1_024;

/// The announcement of a forwarder.
#[derive(Serialize, Deserialize)]
struct Beat {
    instance: String,
    /// Whether the forwarder leaves, and takes no partition any more.
    #[serde(default)]
    leaving: bool,
}

/// The partitions of `me` among `members`. Each partition belongs to one member. No member has more
/// than its share, rounded up. Few partitions move when a member comes or goes.
pub fn assignment(members: &BTreeSet<String>, me: &str) -> BTreeSet<u32> {
    if members.is_empty() {
        return BTreeSet::new();
    }
    let share = (PARTITIONS as usize).div_ceil(members.len());
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    let mut mine = BTreeSet::new();
    for partition in 0..PARTITIONS {
        let free = members
            .iter()
            .filter(|m| taken.get(m.as_str()).is_none_or(|n| *n < share));
        // There is always one, because all shares together cover all partitions.
        let Some(owner) = free.max_by_key(|m| (weight(m, partition), m.as_str())) else {
            continue;
        };
        *taken.entry(owner).or_default() += 1;
        if owner == me {
            mine.insert(partition);
        }
    }
    mine
}

/// The weight for rendezvous hashing: FNV-1a and a finaliser. The standard library's hasher would not
/// do, because every build must compute the same weight.
fn weight(member: &str, partition: u32) -> u64 {
    let bytes = member.bytes().chain(partition.to_be_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

/// The members by their last beat.
struct Members(BTreeMap<String, Instant>);

impl Members {
    fn hear(&mut self, beat: Beat, now: Instant) {
        if beat.leaving {
            self.0.remove(&beat.instance);
        } else if self.0.len() < MAX_MEMBERS || self.0.contains_key(&beat.instance) {
            self.0.insert(beat.instance, now);
        }
    }

    fn present(&mut self, now: Instant) -> BTreeSet<String> {
        self.0
            .retain(|_, heard| now.duration_since(*heard) < GONE_AFTER);
        self.0.keys().cloned().collect()
    }
}

/// Keeps this forwarder's assignment up to date until the stop. Then announces that the forwarder
/// leaves.
pub async fn watch(
    connection: Connection,
    assigned: watch::Sender<BTreeSet<u32>>,
    stop: CancellationToken,
) {
    let me = connection.instance.to_string();
    let subject = subject::members(connection.service);
    let mut beats = loop {
        match connection.subscribe(subject.clone()).await {
            Ok(beats) => break beats,
            Err(error) => {
                warn!(%error, "the other forwarders cannot be heard yet");
                if stop
                    .run_until_cancelled(tokio::time::sleep(BEAT_EVERY))
                    .await
                    .is_none()
                {
                    return;
                }
            }
        }
    };
    let mut members = Members(BTreeMap::new());
    let mut tick = tokio::time::interval(BEAT_EVERY);
    let begin = Instant::now() + LISTEN;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => announce(&connection, &subject, &me, false).await,
            beat = beats.next() => {
                let Some(beat) = beat else { break };
                match serde_json::from_slice::<Beat>(&beat.payload) {
                    Ok(beat) => members.hear(beat, Instant::now()),
                    Err(error) => debug!(%error, "a beat cannot be read"),
                }
            }
        }
        let now = Instant::now();
        members.0.insert(me.clone(), now);
        if now < begin {
            continue;
        }
        let present = members.present(now);
        let partitions = assignment(&present, &me);
        assigned.send_if_modified(|assigned| {
            let changed = *assigned != partitions;
            if changed {
                info!(members = present.len(), ?partitions, "partitions");
                *assigned = partitions;
            }
            changed
        });
    }
    assigned.send_replace(BTreeSet::new());
    announce(&connection, &subject, &me, true).await;
}

async fn announce(connection: &Connection, subject: &str, me: &str, leaving: bool) {
    let beat = Beat {
        instance: me.to_owned(),
        leaving,
    };
    let Ok(beat) = serde_json::to_vec(&beat) else {
        return;
    };
    if let Err(error) = connection
        .publish_now(subject.to_owned(), beat.into(), REQUEST_TIMEOUT)
        .await
    {
        debug!(%error, "a beat is not sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(names: &[u16]) -> BTreeSet<String> {
        names
            .iter()
            .map(|n| format!("forwarder-{n:024x}"))
            .collect()
    }

    proptest! {
        #[test]
        fn each_partition_belongs_to_one_member_and_nobody_has_more_than_a_share(names in prop::collection::vec(any::<u16>(), 1..40)) {
            let members = members(&names);
            let mut all = Vec::new();
            for member in &members {
                let mine = assignment(&members, member);
                prop_assert!(mine.len() <= 16_usize.div_ceil(members.len()));
                all.extend(mine);
            }
            all.sort_unstable();
            prop_assert_eq!(all, (0..PARTITIONS).collect::<Vec<_>>());
        }

        #[test]
        fn few_partitions_move_when_a_member_leaves(names in prop::collection::btree_set(any::<u16>(), 3..6)) {
            let names: Vec<u16> = names.into_iter().collect();
            let (before, after) = (members(&names), members(&names[1..]));
            let stay = after.iter().map(|m| assignment(&before, m).intersection(&assignment(&after, m)).count()).sum::<usize>();
            prop_assert!(stay >= 5, "only {stay} of 16 stay where they are");
        }
    }

    #[test]
    fn a_member_that_falls_silent_or_leaves_is_gone() {
        let (start, mut heard) = (Instant::now(), Members(BTreeMap::new()));
        let beat = |instance: &str, leaving| Beat {
            instance: instance.into(),
            leaving,
        };
        heard.hear(beat("a", false), start);
        heard.hear(beat("b", false), start + BEAT_EVERY);
        assert_eq!(heard.present(start + BEAT_EVERY).len(), 2);
        assert_eq!(
            heard.present(start + GONE_AFTER),
            BTreeSet::from(["b".to_owned()])
        );
        heard.hear(beat("b", true), start + GONE_AFTER);
        assert!(heard.present(start + GONE_AFTER).is_empty());
    }

    #[test]
    fn an_instance_that_is_no_member_has_no_partition() {
        assert!(assignment(&BTreeSet::new(), "a").is_empty());
        assert!(assignment(&members(&[1, 2]), "a").is_empty());
    }
}
