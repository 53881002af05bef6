//! Who depends on which version: the clients that watch `schemad.schema.applied.<version>`. A rollback below a version in use
//! is refused unless it is forced.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::migration::Version;

/// The watches of one daemon.
#[derive(Clone, Debug)]
pub struct Watchers {
    watched: Arc<Mutex<BTreeMap<Version, usize>>>,
    daemon: Arc<str>,
}

impl Watchers {
    /// No watches yet. Two daemons may have one host name and process id (containers do), so a random part tells them apart.
    pub fn new(daemon: &str) -> Self {
        Self { watched: Arc::default(), daemon: format!("{daemon} {}", uuid::Uuid::new_v4()).into() }
    }

    /// The daemon, unlike any other.
    pub fn daemon(&self) -> &str {
        &self.daemon
    }

    /// A client watches this version until the guard is dropped. `None`: `names` others are watched already.
    pub fn enter(&self, version: Version, names: usize) -> Option<Guard> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.len() >= names && !watched.contains_key(&version) {
            return None;
        }
        *watched.entry(version.clone()).or_default() += 1;
        Some(Guard { watchers: self.clone(), version })
    }

    /// How many clients watch which version.
    pub fn count(&self) -> BTreeMap<Version, usize> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One client's watch.
#[derive(Debug)]
pub struct Guard {
    watchers: Watchers,
    version: Version,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut watched = self.watchers.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(clients) = watched.get_mut(&self.version) {
            *clients -= 1;
            if *clients == 0 {
                watched.remove(&self.version);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_counted_while_they_last() {
        let watchers = Watchers::new("d");
        let version: Version = "1".parse().unwrap();
        let (one, two) = (watchers.enter(version.clone(), 1), watchers.enter(version.clone(), 1));
        assert_eq!(watchers.count().get(&version), Some(&2));
        assert!(watchers.enter("2".parse().unwrap(), 1).is_none());
        drop(one);
        assert_eq!(watchers.count().get(&version), Some(&1));
        drop(two);
        assert!(watchers.count().is_empty());
    }
}
