//! An issuer's keys in memory, and how they are kept current: looked at from time to time, and once more when a token names a
//! key that nobody knows yet. Whatever goes wrong, the keys that are there stay.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use super::{key_set::KeySet, source::Source};

/// A key that the issuer withdrew is accepted for so long; issuers publish a new key hours before they use it.
const EVERY: Duration = Duration::from_secs(300);
/// After a failure: soon, and without pressing an issuer that is in trouble.
const AGAIN: Duration = Duration::from_secs(30);
/// Between looks for an unknown key: anybody can invent one, and the issuer must not notice.
const PATIENCE: Duration = Duration::from_secs(10);

/// The keys and their upkeep.
#[derive(Debug)]
pub(in crate::access) struct KeyStore {
    issuer: String,
    source: Source,
    current: RwLock<Arc<KeySet>>,
    upkeep: Mutex<Upkeep>,
}

/// Locked for as long as a look takes, so there is one at a time.
#[derive(Debug)]
struct Upkeep {
    /// When somebody last asked for an unknown key.
    asked: Option<Instant>,
    due: Instant,
    /// What was complained about and still holds.
    trouble: Option<String>,
}

impl KeyStore {
    /// The store of a source: a file is read at once, a URL by the first [`KeyStore::tend`] or token.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(in crate::access) fn open(issuer: &str, source: Source) -> Result<Self, String> {
        let keys = source.load_file()?;
        Ok(Self {
            issuer: issuer.into(),
            source,
            current: RwLock::new(Arc::new(keys)),
            upkeep: Mutex::new(Upkeep { asked: None, due: Instant::now(), trouble: None }),
        })
    }

    /// Whether it serves this issuer and source.
    pub(in crate::access) fn is_of(&self, issuer: &str, source: &Source) -> bool {
        self.issuer == issuer && self.source == *source
    }

    /// The keys as they are known.
    pub(super) fn current(&self) -> Arc<KeySet> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has a look in the background if it is time for one.
    pub(in crate::access) fn tend(self: &Arc<Self>) {
        // Locked: somebody is looking.
        if !self.upkeep.try_lock().is_ok_and(|upkeep| upkeep.due <= Instant::now()) {
            return;
        }
        let store = self.clone();
        tokio::spawn(async move {
            if let Ok(mut upkeep) = store.upkeep.try_lock() {
                store.look(&mut upkeep).await;
            }
        });
    }

    /// Has a look because `seen` lacks a key, unless there was one just now. Returns when it has ended.
    ///
    /// Dropping the future does not end the look: callers who hang up would use up those of the others.
    pub(super) async fn look_again(self: &Arc<Self>, seen: &Arc<KeySet>) {
        if self.upkeep.try_lock().is_ok_and(|upkeep| upkeep.asked_within(PATIENCE)) {
            return;
        }
        let (store, seen) = (self.clone(), seen.clone());
        let look = tokio::spawn(async move {
            let mut upkeep = store.upkeep.lock().await;
            let renewed_meanwhile = !Arc::ptr_eq(&store.current(), &seen);
            if !renewed_meanwhile && !upkeep.asked_within(PATIENCE) {
                upkeep.asked = Some(Instant::now());
                store.look(&mut upkeep).await;
            }
        });
        let _ = look.await; // ended, one way or the other
    }

    async fn look(&self, upkeep: &mut Upkeep) {
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
        let pause = if matches!(self.source, Source::File(_)) { Duration::ZERO } else { pause };
        upkeep.due = Instant::now() + pause;
    }

    fn replace(&self, found: Option<KeySet>, recovered: bool) {
        if found.is_some() || recovered {
            tracing::info!(event = "access.keys", issuer = self.issuer, "the issuer's keys are current");
        }
        if let Some(keys) = found {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        }
    }

    /// Once for each problem, not at every look.
    fn complain(&self, upkeep: &mut Upkeep, problem: String) {
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

impl Upkeep {
    fn asked_within(&self, time: Duration) -> bool {
        self.asked.is_some_and(|asked| asked.elapsed() < time)
    }
}
