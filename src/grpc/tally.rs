//! How many of something each client has under way, and all of them.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// How much each client has under way.
#[derive(Debug)]
pub(super) struct Counter<K: Eq + Hash>(Arc<Mutex<Tally<K>>>);

#[derive(Debug)]
struct Tally<K> {
    all: usize,
    of: HashMap<K, usize>,
}

impl<K: Eq + Hash> Default for Counter<K> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Tally { all: 0, of: HashMap::new() })))
    }
}

impl<K: Eq + Hash + Clone> Counter<K> {
    /// One more, until the guard is dropped. `None`: that would be one too many.
    pub fn enter(&self, key: K, each: usize, all: usize) -> Option<Counted<K>> {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = tally.of.get(&key).copied().unwrap_or_default();
        if own >= each || tally.all >= all {
            return None;
        }
        tally.all += 1;
        tally.of.insert(key.clone(), own + 1);
        Some(Counted { tally: self.0.clone(), key })
    }
}

/// One of a client's.
pub(super) struct Counted<K: Eq + Hash> {
    tally: Arc<Mutex<Tally<K>>>,
    key: K,
}

impl<K: Eq + Hash> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.all -= 1;
        if let Some(own) = tally.of.get_mut(&self.key) {
            *own -= 1;
            if *own == 0 {
                tally.of.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_and_all_have_limits_and_what_ends_makes_room() {
        let counter = Counter::default();
        let (one, two) = (counter.enter("a", 2, 3), counter.enter("a", 2, 3));
        assert!(two.is_some() && counter.enter("a", 2, 3).is_none());
        let three = counter.enter("b", 2, 3);
        assert!(three.is_some() && counter.enter("b", 2, 3).is_none());
        drop(one);
        assert!(counter.enter("b", 2, 3).is_some());
    }
}
