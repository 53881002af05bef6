//! How many of something each client has under way, and all of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::transport::quota::{Quota, QuotaKey};

/// How much each client has under way.
#[derive(Debug, Default)]
pub(crate) struct QuotaCounter(Arc<Mutex<QuotaUse>>);

#[derive(Debug, Default)]
struct QuotaUse {
    all: usize,
    strangers: usize,
    of: HashMap<QuotaKey, usize>,
}

impl QuotaCounter {
    /// One more, until the guard is dropped. `None`: that would be one too many.
    pub(crate) fn enter(&self, client: QuotaKey, room: Quota) -> Option<QuotaGuard> {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = tally.of.get(&client).copied().unwrap_or_default();
        let stranger = usize::from(client.is_stranger());
        if own >= room.each
            || tally.all >= room.all
            || tally.strangers + stranger > room.of_strangers()
        {
            return None;
        }
        tally.all += 1;
        tally.strangers += stranger;
        tally.of.insert(client.clone(), own + 1);
        Some(QuotaGuard {
            tally: self.0.clone(),
            client,
        })
    }
}

/// One of a client's.
#[derive(Debug)]
pub(crate) struct QuotaGuard {
    tally: Arc<Mutex<QuotaUse>>,
    client: QuotaKey,
}

impl Drop for QuotaGuard {
    fn drop(&mut self) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.all -= 1;
        tally.strangers -= usize::from(self.client.is_stranger());
        if let Some(own) = tally.of.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                tally.of.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_and_all_have_limits_and_what_ends_makes_room() {
        let counter = QuotaCounter::default();
        let enter =
            |name: &str| counter.enter(QuotaKey::Principal(name.into()), Quota { each: 2, all: 3 });
        let (one, two) = (enter("a"), enter("a"));
        assert!(two.is_some() && enter("a").is_none());
        let three = enter("b");
        assert!(three.is_some() && enter("b").is_none());
        drop(one);
        assert!(enter("b").is_some());
    }

    #[test]
    fn strangers_leave_a_fifth() {
        let counter = QuotaCounter::default();
        let room = Quota { each: 10, all: 10 };
        let address = Some([127, 0, 0, 1].into());
        let mut strangers: Vec<_> = (0..8)
            .map(|_| counter.enter(QuotaKey::Stranger(address), room).unwrap())
            .collect();
        assert!(counter.enter(QuotaKey::Stranger(None), room).is_none());
        let _known = counter
            .enter(QuotaKey::Principal("a".into()), room)
            .unwrap();
        let _open = counter.enter(QuotaKey::Address(address), room).unwrap();
        strangers.pop();
        assert!(counter.enter(QuotaKey::Stranger(None), room).is_some());
        assert_eq!(
            [1, 2, 5, 10_000].map(|all| Quota { each: 1, all }.of_strangers()),
            [1, 1, 4, 8_000]
        );
    }
}
