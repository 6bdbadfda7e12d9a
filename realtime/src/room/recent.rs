//! The last events of a room, bounded in number and in bytes. A socket that comes back soon is
//! given from here what it missed. Otherwise all sockets of a node that dies, which come back at
//! once, would read the log. Asks the log nothing.

use std::collections::VecDeque;

use super::frame::Frame;

/// Events that are remembered of a room. Beyond it, the oldest are forgotten.
const FRAMES: usize = 512;
/// Bytes that are remembered of a room, as [`Frame::bytes`] counts. Beyond it, the oldest events
/// are forgotten. The memory for them may be three times as much. The limit is less than the
/// smallest queue of a socket, because all remembered events go into it at once.
pub const RECENT_BYTES: usize = 512 * 1024;

/// The remembered events.
#[derive(Debug)]
pub struct Recent {
    limit: usize,
    /// The events after this sequence are remembered.
    floor: u64,
    bytes: usize,
    frames: VecDeque<(u64, Frame)>,
}

impl Default for Recent {
    fn default() -> Recent {
        Recent::after(0)
    }
}

impl Recent {
    /// Remembers nothing yet. The next event comes after `seq`.
    pub fn after(seq: u64) -> Recent {
        Recent::bounded(seq, FRAMES)
    }

    /// The same, for at most `limit` events.
    pub fn bounded(seq: u64, limit: usize) -> Recent {
        Recent {
            limit,
            floor: seq,
            bytes: 0,
            frames: VecDeque::new(),
        }
    }

    /// Remembers the newest event.
    pub fn push(&mut self, seq: u64, frame: Frame) {
        self.bytes += frame.bytes();
        self.frames.push_back((seq, frame));
        while self.frames.len() > self.limit || self.bytes > RECENT_BYTES {
            let Some((seq, frame)) = self.frames.pop_front() else {
                return;
            };
            self.floor = seq;
            self.bytes -= frame.bytes();
        }
    }

    /// Every event after `seq`; `None` if not all of them are remembered.
    pub fn since(&self, seq: u64) -> Option<impl Iterator<Item = &Frame>> {
        let from = self.frames.partition_point(|(at, _)| *at <= seq);
        (seq >= self.floor).then(|| self.frames.range(from..).map(|(_, frame)| frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::queue::tests::{frame, text};

    fn since(recent: &Recent, seq: u64) -> Option<Vec<String>> {
        Some(
            recent
                .since(seq)?
                .map(|frame| text(Ok(frame.clone())).unwrap())
                .collect(),
        )
    }

    #[test]
    fn events_before_the_floor_are_not_remembered() {
        let mut recent = Recent::after(10);
        assert_eq!(
            (since(&recent, 10), since(&recent, 9)),
            (Some(vec![]), None)
        );
        for seq in [12, 15, 20] {
            recent.push(seq, frame(&seq.to_string()));
        }
        assert_eq!(since(&recent, 10).unwrap(), ["12", "15", "20"]);
        assert_eq!(since(&recent, 13).unwrap(), ["15", "20"]);
        assert_eq!(since(&recent, 20).unwrap(), [""; 0]);
    }

    #[test]
    fn the_oldest_events_are_forgotten_beyond_either_bound() {
        let mut recent = Recent::after(0);
        (1..=FRAMES as u64 + 3).for_each(|seq| recent.push(seq, frame("x")));
        assert_eq!(since(&recent, 2), None);
        assert_eq!(since(&recent, 3).unwrap().len(), FRAMES);
        let large = frame(&"x".repeat(RECENT_BYTES / 2));
        recent.push(1_000, large.clone());
        recent.push(1_001, large.clone());
        assert_eq!(
            (since(&recent, 999), since(&recent, 1_000).map(|s| s.len())),
            (None, Some(1))
        );
        assert!(recent.bytes <= RECENT_BYTES);
    }
}
