//! An issuer's keys in memory, and how they are kept current: looked at from time to time, and when
//! a token names a key that nobody knows yet. Anybody can invent one, so such looks have a pace,
//! and whoever comes meanwhile waits for the next: a key that is new is found late, at worst, and
//! not missed. Whatever goes wrong, the keys that are there stay.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, Semaphore};

use super::{key_set::KeySet, source::KeySource};

/// A key that the issuer withdrew is accepted for so long; issuers publish a new key hours before
/// they use it.
const EVERY: Duration = Duration::from_secs(300);
/// After a failure: soon, and without pressing an issuer that is in trouble.
const AGAIN: Duration = Duration::from_secs(30);
/// Looks for unknown keys: so many at once, and one more with each pause. An issuer does not notice
/// them.
const AT_ONCE: u32 = 5;
const PAUSE: Duration = Duration::from_secs(2);
/// Callers that wait for a look; more of them are refused at once.
const WAITING: usize = 256;

/// The keys and their upkeep.
#[derive(Debug)]
pub(in crate::access) struct KeyStore {
    issuer: String,
    source: KeySource,
    current: RwLock<Arc<KeySet>>,
    upkeep: Mutex<KeyRefresh>,
    waiting: Arc<Semaphore>,
}

/// Locked for as long as a look takes, so there is one at a time.
#[derive(Debug)]
struct KeyRefresh {
    /// When the last look began.
    began: Option<Instant>,
    pace: TokenBucket,
    due: Instant,
    /// What was complained about and still holds.
    trouble: Option<String>,
}

impl KeyStore {
    /// The store of a source: a file is read at once, a URL by the first [`KeyStore::tend`] or
    /// token.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(in crate::access) fn open(issuer: &str, source: KeySource) -> Result<Self, String> {
        let keys = source.load_file()?;
        Ok(Self {
            issuer: issuer.into(),
            source,
            current: RwLock::new(Arc::new(keys)),
            upkeep: Mutex::new(KeyRefresh {
                began: None,
                pace: TokenBucket::default(),
                due: Instant::now(),
                trouble: None,
            }),
            waiting: Arc::new(Semaphore::new(WAITING)),
        })
    }

    /// Whether it serves this issuer and source.
    pub(in crate::access) fn is_of(&self, issuer: &str, source: &KeySource) -> bool {
        self.issuer == issuer && self.source == *source
    }

    /// The keys as they are known.
    pub(super) fn current(&self) -> Arc<KeySet> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Has a look in the background if it is time for one.
    pub(in crate::access) fn tend(self: &Arc<Self>) {
        // Locked: somebody is looking.
        if !self
            .upkeep
            .try_lock()
            .is_ok_and(|upkeep| upkeep.due <= Instant::now())
        {
            return;
        }
        let store = self.clone();
        tokio::spawn(async move {
            if let Ok(mut upkeep) = store.upkeep.try_lock() {
                store.look(&mut upkeep).await;
            }
        });
    }

    /// Has a look because `seen` lacks a key, when it is time for one, and one for all who wait.
    /// Returns when it has ended, or at once when too many wait.
    ///
    /// Dropping the future does not end the look: callers who hang up would use up those of the
    /// others.
    pub(super) async fn look_again(self: &Arc<Self>, seen: &Arc<KeySet>) {
        let Ok(waiting) = self.waiting.clone().try_acquire_owned() else {
            return;
        };
        let (store, seen, came) = (self.clone(), seen.clone(), Instant::now());
        let look = tokio::spawn(async move {
            let _waiting = waiting;
            let mut upkeep = store.upkeep.lock().await;
            let renewed = !Arc::ptr_eq(&store.current(), &seen);
            if renewed || upkeep.began.is_some_and(|began| began >= came) {
                return; // somebody else's look was this one's, too
            }
            let turn = upkeep.pace.turn(Instant::now());
            tokio::time::sleep_until(turn.into()).await;
            store.look(&mut upkeep).await;
        });
        let _ = look.await; // ended, one way or the other
    }

    async fn look(&self, upkeep: &mut KeyRefresh) {
        upkeep.began = Some(Instant::now());
        let pause = match self.source.load(&self.current()).await {
            Ok(found) => {
                let recovered = upkeep.trouble.take().is_some();
                self.replace(found, recovered);
                EVERY
            }
            Err(problem) => {
                self.complain(upkeep, problem);
                AGAIN
            }
        };
        // A file costs nobody anything: it is looked at whenever the access file is.
        let pause = if matches!(self.source, KeySource::File(_)) {
            Duration::ZERO
        } else {
            pause
        };
        upkeep.due = Instant::now() + pause;
    }

    fn replace(&self, found: Option<KeySet>, recovered: bool) {
        if found.is_some() || recovered {
            tracing::info!(
                event = "access.keys",
                issuer = self.issuer,
                "the issuer's keys are current"
            );
        }
        if let Some(keys) = found {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        }
    }

    /// Once for each problem, not at every look.
    fn complain(&self, upkeep: &mut KeyRefresh, problem: String) {
        if upkeep.trouble.as_ref() != Some(&problem) {
            tracing::warn!(
                event = "access.keys_unavailable",
                issuer = self.issuer,
                cause = problem,
                "the issuer's keys cannot be had; those known from before stay"
            );
            upkeep.trouble = Some(problem);
        }
    }
}

/// A bucket that is full at first, as the time at which it will be full again.
#[derive(Debug, Default)]
struct TokenBucket(Option<Instant>);

impl TokenBucket {
    /// Takes one turn; when it is.
    fn turn(&mut self, now: Instant) -> Instant {
        let full = self.0.map_or(now, |full| full.max(now)) + PAUSE;
        self.0 = Some(full);
        full.checked_sub(PAUSE * AT_ONCE)
            .map_or(now, |turn| turn.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_turns_are_at_once_and_each_more_costs_a_pause() {
        let (mut pace, now) = (TokenBucket::default(), Instant::now());
        let mut turn = |at| pace.turn(now + at).duration_since(now);
        let at_once = [
            turn(Duration::ZERO),
            turn(PAUSE / 2),
            turn(PAUSE / 2),
            turn(PAUSE),
            turn(PAUSE),
        ];
        assert_eq!(
            at_once,
            [Duration::ZERO, PAUSE / 2, PAUSE / 2, PAUSE, PAUSE]
        );
        assert_eq!(
            [turn(PAUSE), turn(PAUSE), turn(PAUSE)],
            [PAUSE, PAUSE * 2, PAUSE * 3]
        );
        assert_eq!(turn(PAUSE * 100), PAUSE * 100);
    }
}
