//! Which other realtime nodes are alive, judged by when each was last heard of. Pure bookkeeping:
//! no NATS, and the clock is the caller's.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

/// How often a node sends its heartbeat. [`Membership::silent`] is called as often.
pub const BEAT: Duration = Duration::from_secs(1);
/// A node that was not heard of for this long is gone: three heartbeats are missing, and a little
/// more time.
const GONE_AFTER: Duration = Duration::from_millis(3_500);
/// Nodes that are tracked. Beyond it, further nodes are ignored.
const MAX_NODES: usize = 1_000;

/// The other nodes that were heard of.
#[derive(Default)]
pub struct Membership {
    heard: HashMap<String, Instant>,
    /// The nodes that fell silent. A node of these that is heard of again was alive all the time,
    /// but its users were removed.
    lost: HashSet<String>,
    /// When [`Membership::silent`] was last called.
    checked_at: Option<Instant>,
}

/// What a sign of life of a node means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The node is alive, as was believed, or is new.
    Alive,
    /// The node had been taken for gone.
    Again,
    /// The node is not tracked, because [`MAX_NODES`] are.
    TooMany,
}

impl Membership {
    /// Notes a sign of life of a node.
    pub fn hear(&mut self, node: &str, now: Instant) -> Heard {
        if let Some(at) = self.heard.get_mut(node) {
            *at = now;
            return Heard::Alive;
        }
        if self.heard.len() >= MAX_NODES {
            return Heard::TooMany;
        }
        self.heard.insert(node.to_owned(), now);
        if self.lost.remove(node) {
            Heard::Again
        } else {
            Heard::Alive
        }
    }

    /// Whether a node is tracked.
    #[cfg(test)]
    pub fn tracks(&self, node: &str) -> bool {
        self.heard.contains_key(node)
    }

    /// Forgets a node that has said that it stops.
    pub fn leave(&mut self, node: &str) {
        self.heard.remove(node);
        self.lost.remove(node);
    }

    /// Removes and returns the nodes that were not heard of for [`GONE_AFTER`]. Time in which this
    /// node itself stood still does not count. While this node cannot hear anybody (`can_hear`),
    /// every node's time starts again.
    pub fn silent(&mut self, can_hear: bool, now: Instant) -> Vec<String> {
        let since = now.saturating_duration_since(self.checked_at.replace(now).unwrap_or(now));
        let stood_still = since.saturating_sub(BEAT);
        self.heard.values_mut().for_each(|at| {
            *at = if can_hear {
                now.min(*at + stood_still)
            } else {
                now
            }
        });
        let silent = self
            .heard
            .extract_if(|_, at| now.saturating_duration_since(*at) > GONE_AFTER);
        let silent: Vec<String> = silent.map(|(node, _)| node).collect();
        if self.lost.len() + silent.len() > MAX_NODES {
            self.lost.clear();
        }
        self.lost.extend(silent.iter().cloned());
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// The nodes that are found silent, and when, if they are looked for once a second.
    fn silent_nodes(
        membership: &mut Membership,
        can_hear: bool,
        start: Instant,
        seconds: std::ops::RangeInclusive<u64>,
    ) -> Vec<(u64, Vec<String>)> {
        let found = seconds.map(|n| (n, membership.silent(can_hear, after(start, 1_000 * n))));
        found.filter(|(_, silent)| !silent.is_empty()).collect()
    }

    #[test]
    fn a_silent_node_is_gone_but_only_while_others_can_be_heard() {
        let (start, mut membership) = (Instant::now(), Membership::default());
        for (node, at) in [("a", 0), ("b", 0), ("b", 2_000)] {
            assert_eq!(membership.hear(node, after(start, at)), Heard::Alive);
        }
        assert_eq!(
            silent_nodes(&mut membership, true, start, 2..=5),
            [(4, vec!["a".to_owned()])]
        );
        assert_eq!(silent_nodes(&mut membership, false, start, 6..=20), []);
        assert_eq!(
            silent_nodes(&mut membership, true, start, 21..=30),
            [(24, vec!["b".to_owned()])]
        );
    }

    #[test]
    fn time_in_which_this_node_stood_still_does_not_count() {
        let (start, mut membership) = (Instant::now(), Membership::default());
        membership.hear("a", start);
        assert_eq!(silent_nodes(&mut membership, true, start, 0..=0), []);
        assert_eq!(silent_nodes(&mut membership, true, start, 60..=62), []);
        assert_eq!(
            silent_nodes(&mut membership, true, start, 63..=63),
            [(63, vec!["a".to_owned()])]
        );
    }

    #[test]
    fn a_lost_node_is_heard_again_but_not_one_that_had_left() {
        let (now, mut membership) = (Instant::now(), Membership::default());
        for node in ["a", "b"] {
            membership.hear(node, now);
        }
        membership.leave("b");
        assert_eq!(
            silent_nodes(&mut membership, true, now, 1..=4),
            [(4, vec!["a".to_owned()])]
        );
        assert_eq!(
            ["a", "a", "b"].map(|node| membership.hear(node, now)),
            [Heard::Again, Heard::Alive, Heard::Alive]
        );
    }

    #[test]
    fn the_tracked_nodes_are_bounded() {
        let (start, mut membership) = (Instant::now(), Membership::default());
        assert!((0..MAX_NODES).all(|n| membership.hear(&n.to_string(), start) == Heard::Alive));
        assert_eq!(
            [membership.hear("more", start), membership.hear("0", start)],
            [Heard::TooMany, Heard::Alive]
        );
        membership.leave("0");
        assert_eq!(membership.hear("more", start), Heard::Alive);
        silent_nodes(&mut membership, true, start, 1..=4);
        assert_eq!(
            (membership.heard.len(), membership.lost.len()),
            (0, MAX_NODES)
        );
        membership.hear("one more", after(start, 4_000));
        silent_nodes(&mut membership, true, start, 5..=8);
        assert_eq!(membership.lost.len(), 1);
    }
}
