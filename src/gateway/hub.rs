//! Which connection holds which key on this gateway. The newest wins.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The connections by key. `P` is the handle of a connection; handles are told apart by identity.
///
/// A std Mutex is right: every visit is a map operation and, with it, the push of a status that must keep the same order.
pub struct Hub<P> {
    peers: Mutex<HashMap<Box<str>, Arc<P>>>,
}

impl<P> Default for Hub<P> {
    fn default() -> Self {
        Hub { peers: Mutex::new(HashMap::new()) }
    }
}

impl<P> Hub<P> {
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<P>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the key to `peer` and returns the connection that held it. `entered` runs before anybody else can see or
    /// change the hub, so that what it announces comes in the order of the changes.
    pub fn enter(&self, key: &str, peer: Arc<P>, entered: impl FnOnce()) -> Option<Arc<P>> {
        let mut peers = self.lock();
        let before = match peers.get_mut(key) {
            Some(slot) => Some(std::mem::replace(slot, peer)),
            None => peers.insert(key.into(), peer),
        };
        entered();
        before
    }

    /// Takes `peer` out if it still holds the key; only then `left` runs, under the same promise as in [`Hub::enter`].
    pub fn leave(&self, key: &str, peer: &Arc<P>, left: impl FnOnce()) {
        let mut peers = self.lock();
        if peers.get(key).is_some_and(|holder| Arc::ptr_eq(holder, peer)) {
            peers.remove(key);
            left();
        }
    }

    /// Runs `each` for the connection of every key that is here; returns how many were.
    pub fn with<'k>(&self, keys: impl Iterator<Item = &'k str>, mut each: impl FnMut(&Arc<P>)) -> usize {
        let peers = self.lock();
        keys.filter_map(|key| peers.get(key)).map(&mut each).count()
    }

    /// Runs `each` for every connection.
    pub fn each(&self, each: impl FnMut(&Arc<P>)) {
        self.lock().values().for_each(each);
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_holder_wins_and_the_old_one_leaves_without_a_word() {
        let hub = Hub::default();
        let (old, new) = (Arc::new("old"), Arc::new("new"));
        assert!(hub.enter("k", old.clone(), || ()).is_none());
        assert!(Arc::ptr_eq(&hub.enter("k", new.clone(), || ()).unwrap(), &old));
        let mut told = Vec::new();
        hub.leave("k", &old, || told.push("old"));
        assert_eq!(hub.len(), 1);
        hub.leave("k", &new, || told.push("new"));
        assert!(hub.is_empty());
        assert_eq!(told, ["new"]);
    }

    #[test]
    fn several_keys_reach_those_that_are_here() {
        let hub = Hub::default();
        hub.enter("a", Arc::new(1), || ());
        hub.enter("b", Arc::new(2), || ());
        let mut seen = Vec::new();
        assert_eq!(hub.with(["a", "x", "b"].into_iter(), |peer| seen.push(**peer)), 2);
        assert_eq!(seen, [1, 2]);
    }
}
