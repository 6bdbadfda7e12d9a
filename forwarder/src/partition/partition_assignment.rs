//! Which forwarders there are, and which partitions each of them takes. Everybody says that it is
//! there and computes the same answer; where two disagree for a moment, the server's pin decides.
//! It moves no partition by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use contract::subject::{self, PARTITIONS};
use futures_util::StreamExt;
use runtime::CancellationToken;
use runtime::net::connection::Connection;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// A member says so often that it is there.
const BEAT: Duration = Duration::from_secs(1);
/// A member that was not heard for so long is gone.
const GONE_AFTER: Duration = Duration::from_millis(3_500);
/// A new member listens for so long before it takes anything.
const LISTEN: Duration = Duration::from_millis(1_200);
/// More members than partitions have nothing to do; a bound against nonsense on the subject.
const MOST_MEMBERS: usize = 1_024;

/// What a member says.
#[derive(Serialize, Deserialize)]
struct Beat {
    instance: String,
    /// It takes nothing any more.
    #[serde(default)]
    leaving: bool,
}

/// The partitions of `me` among `members`. Each partition is one member's; no member has more than
/// its share, rounded up; and few partitions move when a member comes or goes.
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
        // There is always one: the shares add up to the partitions at least.
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

/// Rendezvous hashing. FNV-1a and a finaliser, because every build must compute the same.
fn weight(member: &str, partition: u32) -> u64 {
    let bytes = member.bytes().chain(partition.to_be_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

/// Who was heard, and when.
struct Heard(BTreeMap<String, Instant>);

impl Heard {
    fn hear(&mut self, beat: Beat, now: Instant) {
        if beat.leaving {
            self.0.remove(&beat.instance);
        } else if self.0.len() < MOST_MEMBERS || self.0.contains_key(&beat.instance) {
            self.0.insert(beat.instance, now);
        }
    }

    fn members(&mut self, now: Instant) -> BTreeSet<String> {
        self.0
            .retain(|_, heard| now.duration_since(*heard) < GONE_AFTER);
        self.0.keys().cloned().collect()
    }
}

/// Keeps `mine` up until stopped; then says that it leaves.
pub async fn watch(
    connection: Connection,
    mine: watch::Sender<BTreeSet<u32>>,
    stop: CancellationToken,
) {
    let me = connection.instance.to_string();
    let subject = subject::members(connection.service);
    let mut beats = loop {
        match connection.client.subscribe(subject.clone()).await {
            Ok(beats) => break beats,
            Err(error) => {
                warn!(%error, "the other forwarders cannot be heard yet");
                if stop
                    .run_until_cancelled(tokio::time::sleep(BEAT))
                    .await
                    .is_none()
                {
                    return;
                }
            }
        }
    };
    let (mut heard, mut tick) = (Heard(BTreeMap::new()), tokio::time::interval(BEAT));
    let begin = Instant::now() + LISTEN;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => say(&connection, &subject, &me, false).await,
            beat = beats.next() => {
                let Some(beat) = beat else { break };
                match serde_json::from_slice::<Beat>(&beat.payload) {
                    Ok(beat) => heard.hear(beat, Instant::now()),
                    Err(error) => debug!(%error, "a beat that is none"),
                }
            }
        }
        let now = Instant::now();
        heard.0.insert(me.clone(), now);
        if now < begin {
            continue;
        }
        let members = heard.members(now);
        let partitions = assignment(&members, &me);
        mine.send_if_modified(|mine| {
            let changed = *mine != partitions;
            if changed {
                info!(members = members.len(), ?partitions, "partitions");
                *mine = partitions;
            }
            changed
        });
    }
    mine.send_replace(BTreeSet::new());
    say(&connection, &subject, &me, true).await;
}

async fn say(connection: &Connection, subject: &str, me: &str, leaving: bool) {
    // Not while disconnected: a heap of old beats would follow.
    if !connection.is_connected() {
        return;
    }
    let beat = Beat {
        instance: me.to_owned(),
        leaving,
    };
    let Ok(beat) = serde_json::to_vec(&beat) else {
        return;
    };
    if let Err(error) = connection
        .client
        .publish(subject.to_owned(), beat.into())
        .await
    {
        debug!(%error, "no beat");
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
        fn each_partition_is_one_members_and_nobody_has_more_than_a_share(names in prop::collection::vec(any::<u16>(), 1..40)) {
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
        fn a_member_that_leaves_does_not_shuffle_everything(names in prop::collection::btree_set(any::<u16>(), 3..6)) {
            let names: Vec<u16> = names.into_iter().collect();
            let (before, after) = (members(&names), members(&names[1..]));
            let stay = after.iter().map(|m| assignment(&before, m).intersection(&assignment(&after, m)).count()).sum::<usize>();
            prop_assert!(stay >= 5, "only {stay} of 16 stay where they are");
        }
    }

    #[test]
    fn who_falls_silent_or_leaves_is_gone() {
        let (start, mut heard) = (Instant::now(), Heard(BTreeMap::new()));
        let beat = |instance: &str, leaving| Beat {
            instance: instance.into(),
            leaving,
        };
        heard.hear(beat("a", false), start);
        heard.hear(beat("b", false), start + BEAT);
        assert_eq!(heard.members(start + BEAT).len(), 2);
        assert_eq!(
            heard.members(start + GONE_AFTER),
            BTreeSet::from(["b".to_owned()])
        );
        heard.hear(beat("b", true), start + GONE_AFTER);
        assert!(heard.members(start + GONE_AFTER).is_empty());
    }

    #[test]
    fn a_stranger_has_nothing() {
        assert!(assignment(&BTreeSet::new(), "a").is_empty());
        assert!(assignment(&members(&[1, 2]), "a").is_empty());
    }
}
