//! The sequences of events that a room was given and that were not compared with the log yet. Says
//! which events of the log were passed over. Reads no log.

use std::collections::VecDeque;

/// Sequences that are kept: of a company with 10,000 events a second, those of some seconds. Beyond
/// it the oldest ones count as compared.
const MAX_SEQS: usize = 65_536;

/// The sequences, ascending.
#[derive(Debug, Default)]
pub struct Unverified {
    /// Every event up to this sequence was compared.
    verified_to: u64,
    seqs: VecDeque<u64>,
}

impl Unverified {
    /// Nothing yet. Every event up to `seq` counts as compared.
    pub fn after(seq: u64) -> Unverified {
        Unverified {
            verified_to: seq,
            seqs: VecDeque::new(),
        }
    }

    /// Adds the newest event.
    pub fn push(&mut self, seq: u64) {
        if self.seqs.len() == MAX_SEQS {
            self.verified_to = self.seqs.pop_front().unwrap_or(self.verified_to);
        }
        self.seqs.push_back(seq);
    }

    /// The sequence up to which every event was compared.
    pub fn verified_to(&self) -> u64 {
        self.verified_to
    }

    /// Whether the room was not given the event, although it was given a newer one.
    pub fn has_missed(&self, seq: u64) -> bool {
        let is_passed = self.seqs.back().is_some_and(|newest| seq < *newest);
        self.verified_to < seq && is_passed && self.seqs.binary_search(&seq).is_err()
    }

    /// Says that every event up to `seq` was compared.
    pub fn verify_to(&mut self, seq: u64) {
        self.verified_to = self.verified_to.max(seq);
        let compared = self.seqs.partition_point(|at| *at <= self.verified_to);
        self.seqs.drain(..compared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_missed_once_a_newer_one_was_given() {
        let mut unverified = Unverified::after(10);
        assert!(!unverified.has_missed(11));
        [12, 15].iter().for_each(|seq| unverified.push(*seq));
        let missed = [9, 10, 11, 12, 13, 14, 15, 16].map(|seq| unverified.has_missed(seq));
        assert_eq!(
            missed,
            [false, false, true, false, true, true, false, false]
        );
        unverified.verify_to(13);
        assert_eq!((unverified.verified_to(), unverified.seqs.len()), (13, 1));
        assert!(!unverified.has_missed(11) && unverified.has_missed(14));
    }

    #[test]
    fn the_oldest_sequences_count_as_compared_beyond_the_bound() {
        let mut unverified = Unverified::after(0);
        (1..=MAX_SEQS as u64 + 2).for_each(|seq| unverified.push(2 * seq));
        assert_eq!(
            (unverified.verified_to(), unverified.seqs.len()),
            (4, MAX_SEQS)
        );
        assert!(!unverified.has_missed(3) && unverified.has_missed(5));
    }
}
