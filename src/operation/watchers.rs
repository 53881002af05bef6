//! Who depends on which version: the clients that watch `schemad.schema.applied.<version>`. A
//! rollback below a version in use is refused unless it is forced.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    migration::Version,
    transport::quota::{Quota, QuotaKey},
};

/// The watches of one daemon.
#[derive(Clone, Debug)]
pub(crate) struct VersionWatchers {
    watched: Arc<Mutex<WatchedVersions>>,
    daemon: Arc<str>,
}

#[derive(Debug, Default)]
struct WatchedVersions {
    versions: BTreeMap<Version, WatchCount>,
    /// How many of which version each client has.
    of: HashMap<QuotaKey, HashMap<Version, usize>>,
}

/// The watches of one version.
#[derive(Debug, Default)]
struct WatchCount {
    all: usize,
    strangers: usize,
}

impl VersionWatchers {
    /// No watches yet. Two daemons may have one host name and process id (containers do), so a
    /// random part tells them apart.
    pub(crate) fn new(daemon: &str) -> Self {
        Self {
            watched: Arc::default(),
            daemon: format!("{daemon} {}", uuid::Uuid::new_v4()).into(),
        }
    }

    /// The daemon, unlike any other.
    pub(crate) fn daemon(&self) -> &str {
        &self.daemon
    }

    /// A client watches this version until the guard is dropped. `None`: it is one more different
    /// version than there is `room` for.
    pub(crate) fn enter(
        &self,
        client: QuotaKey,
        version: Version,
        room: Quota,
    ) -> Option<WatchGuard> {
        let mut watched = self.watched();
        if !watched.has_room(&client, &version, room) {
            return None;
        }
        let watches = watched.versions.entry(version.clone()).or_default();
        watches.all += 1;
        watches.strangers += usize::from(client.is_stranger());
        *watched
            .of
            .entry(client.clone())
            .or_default()
            .entry(version.clone())
            .or_default() += 1;
        Some(WatchGuard {
            watchers: self.clone(),
            client,
            version,
        })
    }

    /// How many clients watch which version.
    pub(crate) fn count(&self) -> BTreeMap<Version, usize> {
        self.watched()
            .versions
            .iter()
            .map(|(version, watches)| (version.clone(), watches.all))
            .collect()
    }

    /// How many of those who watch this version are strangers.
    pub(crate) fn strangers(&self, version: &Version) -> usize {
        self.watched()
            .versions
            .get(version)
            .map_or(0, |watches| watches.strangers)
    }

    fn watched(&self) -> MutexGuard<'_, WatchedVersions> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WatchedVersions {
    fn has_room(&self, client: &QuotaKey, version: &Version, room: Quota) -> bool {
        let own = self.of.get(client);
        if own.is_some_and(|own| own.len() >= room.each && !own.contains_key(version)) {
            return false;
        }
        let watches = self.versions.get(version);
        if watches.is_none() && self.versions.len() >= room.all {
            return false;
        }
        let strangers = || {
            self.versions
                .values()
                .filter(|watches| watches.strangers > 0)
                .count()
        };
        let new_to_strangers =
            client.is_stranger() && watches.is_none_or(|watches| watches.strangers == 0);
        !new_to_strangers || strangers() < room.of_strangers()
    }

    fn leave(&mut self, client: &QuotaKey, version: &Version) {
        if let Some(watches) = self.versions.get_mut(version) {
            watches.all -= 1;
            watches.strangers -= usize::from(client.is_stranger());
            if watches.all == 0 {
                self.versions.remove(version);
            }
        }
        let Some(own) = self.of.get_mut(client) else {
            return;
        };
        if let Some(count) = own.get_mut(version) {
            *count -= 1;
            if *count == 0 {
                own.remove(version);
            }
        }
        if own.is_empty() {
            self.of.remove(client);
        }
    }
}

/// One client's watch.
#[derive(Debug)]
pub(crate) struct WatchGuard {
    watchers: VersionWatchers,
    client: QuotaKey,
    version: Version,
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.watchers.watched().leave(&self.client, &self.version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(n: usize) -> Version {
        n.to_string().parse().unwrap()
    }

    #[test]
    fn watches_are_counted_while_they_last() {
        let watchers = VersionWatchers::new("d");
        let enter = |n| {
            watchers.enter(
                QuotaKey::Address(None),
                version(n),
                Quota { each: 1, all: 1 },
            )
        };
        let (one, two) = (enter(1), enter(1));
        assert_eq!(watchers.count().get(&version(1)), Some(&2));
        assert!(enter(2).is_none());
        drop(one);
        assert_eq!(watchers.count().get(&version(1)), Some(&1));
        drop(two);
        assert!(watchers.count().is_empty());
    }

    #[test]
    fn names_are_for_each_for_strangers_and_for_all_and_come_back() {
        let watchers = VersionWatchers::new("d");
        let room = Quota { each: 3, all: 5 };
        let stranger = |host: u8| QuotaKey::Stranger(Some([127, 0, 0, host].into()));
        let known = || QuotaKey::Principal("a".into());
        let enter = |client, n| watchers.enter(client, version(n), room);
        let own: Vec<_> = (0..3).map(|n| enter(stranger(1), n).unwrap()).collect();
        assert!(enter(stranger(1), 3).is_none() && enter(stranger(1), 2).is_some());
        let fourth = enter(stranger(2), 3).unwrap();
        assert!(
            enter(stranger(2), 4).is_none(),
            "strangers have four of five"
        );
        let fifth = enter(known(), 4).unwrap();
        assert!(
            enter(stranger(2), 4).is_none(),
            "nor one that another watches"
        );
        assert!(enter(known(), 5).is_none() && enter(known(), 0).is_some());
        drop(fourth);
        assert!(enter(stranger(2), 4).is_some());
        drop((own, fifth));
        assert!(watchers.watched().of.is_empty() && watchers.count().is_empty());
    }
}
