//! How many connections each address has open. Holds an entry for those only that have some, so it
//! is no larger than the number of connections.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// All addresses.
#[derive(Clone, Default)]
pub struct Crowd(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection of an address. It counts until it is dropped.
pub struct Seat {
    crowd: Crowd,
    address: IpAddr,
}

impl Crowd {
    /// Counts one more, unless there are `max` already.
    pub fn enter(&self, address: IpAddr, max: usize) -> Option<Seat> {
        self.change(address, |open| (open < max).then_some(open + 1))?;
        Some(Seat {
            crowd: self.clone(),
            address,
        })
    }

    fn change(&self, address: IpAddr, to: impl FnOnce(usize) -> Option<usize>) -> Option<()> {
        // A poisoned lock still holds a whole map: every change is one write.
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = to(open.get(&address).copied().unwrap_or_default())?;
        match (now, open.entry(address)) {
            (0, Entry::Occupied(entry)) => drop(entry.remove()),
            (0, Entry::Vacant(_)) => {}
            (now, entry) => drop(entry.insert_entry(now)),
        }
        Some(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let _ = self.crowd.change(self.address, |open| open.checked_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_and_leaves_nothing_behind() {
        let crowd = Crowd::default();
        let [a, b] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        let seats = [crowd.enter(a, 2).unwrap(), crowd.enter(a, 2).unwrap()];
        assert!(crowd.enter(a, 2).is_none());
        assert!(crowd.enter(b, 2).is_some());
        drop(seats);
        assert!(crowd.0.lock().unwrap().is_empty());
        assert!(crowd.enter(a, 2).is_some());
    }
}
