//! The last events of a company, so that a socket that comes back soon is given what it missed
//! without a look at the log: when a node dies, all of its sockets come back at once. Bounded in
//! number and in bytes.

use std::collections::VecDeque;

use crate::room::frame::Frame;

/// Events that are remembered of a company.
const FRAMES: usize = 512;
/// The bytes of them, as [`Frame::bytes`] counts; of memory up to three times as much. Less than
/// the smallest queue of a socket, into which they go at once.
pub const RECENT_BYTES: usize = 512 * 1024;

/// The events after `floor`.
#[derive(Debug)]
pub struct Recent {
    limit: usize,
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
    /// Nothing yet, after `seq`.
    pub fn after(seq: u64) -> Recent {
        Recent::bounded(seq, FRAMES)
    }

    /// The same, for at most so many.
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

    /// What is remembered comes after this.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Whether this one is remembered.
    pub fn has(&self, seq: u64) -> bool {
        self.frames
            .binary_search_by_key(&seq, |(at, _)| *at)
            .is_ok()
    }

    /// Every event after `seq`; `None` where not all of them are remembered.
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
    fn knows_what_it_remembers_and_what_not() {
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
        assert_eq!(
            ([12, 13, 20].map(|seq| recent.has(seq)), recent.floor()),
            ([true, false, true], 10)
        );
    }

    #[test]
    fn forgets_the_oldest_past_either_bound() {
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
