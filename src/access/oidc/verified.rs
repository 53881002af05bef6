//! JWTs that were verified a moment ago: a signature costs more than the request that it comes
//! with. What is kept holds only under the rules and the keys it was found under; new rules come
//! with a new cache, new keys empty it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest as _, Sha256};

use super::{NumericDate, key_set::KeySet};
use crate::access::Principal;

/// Ten times the jobs that deploy at once anywhere; a few hundred KiB.
const MOST: usize = 1024;

/// The SHA-256 of a JWT: the cache holds no credential.
pub(super) type TokenFingerprint = [u8; 32];

/// The fingerprint of a JWT.
pub(super) fn fingerprint(jwt: &str) -> TokenFingerprint {
    Sha256::digest(jwt).into()
}

/// The cache of one issuer.
#[derive(Debug, Default)]
pub(super) struct VerifiedTokens(Mutex<VerifiedEntries>);

#[derive(Debug, Default)]
struct VerifiedEntries {
    keys: Arc<KeySet>,
    known: HashMap<TokenFingerprint, (Principal, NumericDate)>,
}

impl VerifiedTokens {
    /// Whose JWT it is, if that was found out with these keys and it has not expired.
    pub(super) fn get(
        &self,
        jwt: &TokenFingerprint,
        keys: &Arc<KeySet>,
        now: NumericDate,
    ) -> Option<Principal> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (principal, until) = entries
            .known
            .get(jwt)
            .filter(|_| Arc::ptr_eq(&entries.keys, keys))?;
        (now < *until).then(|| principal.clone())
    }

    /// Remembers one that was verified with these keys.
    pub(super) fn put(
        &self,
        jwt: TokenFingerprint,
        keys: &Arc<KeySet>,
        principal: Principal,
        until: NumericDate,
        now: NumericDate,
    ) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&entries.keys, keys) {
            *entries = VerifiedEntries {
                keys: keys.clone(),
                known: HashMap::new(),
            };
        }
        if entries.known.len() >= MOST {
            entries.known.retain(|_, (_, until)| now < *until);
        }
        if entries.known.len() >= MOST {
            entries.known.clear(); // rarer than a clever choice is worth
        }
        entries.known.insert(jwt, (principal, until));
    }
}
