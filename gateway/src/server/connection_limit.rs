//! How many connections each address has open. Has an entry only for addresses with an open
//! connection, so the map is never larger than the number of connections.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// The open connections of all addresses.
#[derive(Clone, Default)]
pub struct ConnectionLimit(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection of an address, which counts until the guard is dropped.
pub struct ConnectionGuard {
    limit: ConnectionLimit,
    address: IpAddr,
}

impl ConnectionLimit {
    /// Counts one more connection, unless the address has `max` already.
    pub fn enter(&self, address: IpAddr, max: usize) -> Option<ConnectionGuard> {
        self.change(address, |open| (open < max).then_some(open + 1))?;
        Some(ConnectionGuard {
            limit: self.clone(),
            address,
        })
    }

    fn change(&self, address: IpAddr, to: impl FnOnce(usize) -> Option<usize>) -> Option<()> {
        let mut open = self.0.lock();
        let now = to(open.get(&address).copied().unwrap_or_default())?;
        match (now, open.entry(address)) {
            (0, Entry::Occupied(entry)) => drop(entry.remove()),
            (0, Entry::Vacant(_)) => {}
            (now, entry) => drop(entry.insert_entry(now)),
        }
        Some(())
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let _ = self.limit.change(self.address, |open| open.checked_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_at_most_so_many_connections_and_leaves_no_entry_behind() {
        let limit = ConnectionLimit::default();
        let [a, b] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        let guards = [limit.enter(a, 2).unwrap(), limit.enter(a, 2).unwrap()];
        assert!(limit.enter(a, 2).is_none());
        assert!(limit.enter(b, 2).is_some());
        drop(guards);
        assert!(limit.0.lock().is_empty());
        assert!(limit.enter(a, 2).is_some());
    }
}
