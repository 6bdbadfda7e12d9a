//! How waiting events are put into groups, and groups into parts. Pure: no I/O, no clock.

use std::collections::HashSet;

use tokio::sync::mpsc;

use crate::log::ordering_key::OrderingKey;
use crate::log::queue::Waiting;

/// Events in one group. The server takes no larger atomic batch.
const MAX_GROUP: usize = 1_000;
/// Bytes in one group, after which no further event joins. Otherwise one group's write would keep
/// the next ones waiting.
const MAX_GROUP_BYTES: usize = 4 * 1024 * 1024;

/// Moves waiting events into the group, as far as the group's limits allow.
pub fn fill(group: &mut Vec<Waiting>, waiting: &mut mpsc::Receiver<Waiting>) {
    let mut bytes: usize = group.iter().map(|w| w.event.bytes()).sum();
    while group.len() < MAX_GROUP && bytes < MAX_GROUP_BYTES {
        let Ok(next) = waiting.try_recv() else { return };
        bytes += next.event.bytes();
        group.push(next);
    }
}

/// Whether two events have one `Nats-Msg-Id`: the server refuses such a batch whole.
pub fn has_repeated_id(group: &[Waiting]) -> bool {
    let mut seen = HashSet::with_capacity(group.len());
    !group.iter().all(|w| seen.insert(w.event.msg_id.as_str()))
}

/// The second half, then the first.
pub fn halves(mut part: Vec<Waiting>) -> [Vec<Waiting>; 2] {
    let second = part.split_off(part.len() / 2);
    [second, part]
}

/// The events by ordering key, in their order. An event without a key is a chain by itself.
pub fn chains(group: Vec<Waiting>) -> Vec<Vec<Waiting>> {
    let mut chains: Vec<Vec<Waiting>> = Vec::with_capacity(group.len());
    let mut keys: Vec<(OrderingKey, usize)> = Vec::new();
    for w in group {
        let key = w.event.ordering_key.clone();
        let chain = key
            .as_ref()
            .and_then(|key| keys.iter().find(|(known, _)| known.is_same(key)));
        match (chain, key) {
            (Some((_, chain)), _) => chains[*chain].push(w),
            (None, key) => {
                keys.extend(key.map(|key| (key, chains.len())));
                chains.push(vec![w]);
            }
        }
    }
    chains
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::queue::tests::event;
    use crate::log::queue::{Outgoing, Queue, Queued};

    /// Events in a group, numbered by their ids, and their callers' ends.
    async fn group(keys: &[Option<&OrderingKey>]) -> (Vec<Waiting>, Vec<Queued>) {
        let (queue, mut waiting) = Queue::new();
        let (mut group, mut queued) = (Vec::new(), Vec::new());
        for (n, key) in keys.iter().enumerate() {
            let event = Outgoing {
                msg_id: n.to_string(),
                ..event(*key)
            };
            queued.push(queue.push(event).unwrap());
            group.push(waiting.recv().await.unwrap());
        }
        (group, queued)
    }

    #[tokio::test]
    async fn events_with_one_ordering_key_follow_each_other_and_others_do_not_wait() {
        let (a, b) = (OrderingKey::default(), OrderingKey::default());
        let (group, _queued) = group(&[Some(&a), None, Some(&b), Some(&a), None, Some(&b)]).await;
        let chains: Vec<String> = chains(group)
            .iter()
            .map(|c| c.iter().map(|w| w.event.msg_id.as_str()).collect())
            .collect();
        assert_eq!(chains, ["03", "1", "25", "4"]);
    }

    #[tokio::test]
    async fn halves_keep_the_order_when_the_last_is_taken_first() {
        let (group, _queued) = group(&[None; 5]).await;
        let (mut parts, mut order) = (vec![group], String::new());
        while let Some(part) = parts.pop() {
            match part.as_slice() {
                [one] => order.push_str(&one.event.msg_id),
                _ => parts.extend(halves(part)),
            }
        }
        assert_eq!(order, "01234");
    }
}
