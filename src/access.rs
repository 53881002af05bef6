//! Who may do what: the roles, and whom a credential makes of its bearer. Knows no transport; the
//! cryptography is done by well-kept crates. Whoever comes is known from memory; files and issuers
//! are looked at in the background.

mod certificate;
mod error;
mod file;
mod oidc;
mod refusal;
mod state;
#[cfg(test)]
mod tests;
mod token;

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::SystemTime,
};

pub(crate) use self::error::AccessFileError;
pub use self::token::SecretToken;
use self::{refusal::CredentialRefusal, state::AccessRules};
use crate::{
    failure::Failure,
    transport::reload::{ApplyChange, ReloadableFiles},
};

/// Who calls where nobody has to say it.
pub(crate) const ANONYMOUS: &str = "anonymous";

/// What somebody may do. Each role may do what the one before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read.
    Viewer,
    /// Apply, and cancel one's own operations.
    Deployer,
    /// Roll back, resolve, and cancel any operation.
    Admin,
}

impl Role {
    /// As the access file says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Deployer => "deployer",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        [Self::Viewer, Self::Deployer, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == word)
            .ok_or(())
    }
}

/// Somebody who is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// As the ledger records it.
    pub name: String,
    /// What they may do.
    pub role: Role,
}

/// What a call brings to say who it is.
#[derive(Clone, Copy, Default)]
pub struct PresentedCredentials<'a> {
    /// The metadata `authorization`, as it came.
    pub authorization: Option<&'a str>,
    /// The client certificate that the TLS handshake verified against the client CA, in DER.
    pub certificate: Option<&'a [u8]>,
}

impl fmt::Debug for PresentedCredentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented")
            .field("authorization", &self.authorization.map(|_| "…"))
            .field("certificate", &self.certificate.map(|_| "…"))
            .finish()
    }
}

/// More than any issuer's token has; refused before anything is computed.
const LONGEST_CREDENTIAL: usize = 8 * 1024;

/// The rules of an access file, as they are at the moment. A clone is the same one.
#[derive(Clone)]
pub struct Access(Arc<AccessState>);

struct AccessState {
    path: PathBuf,
    /// Clients are asked for a certificate.
    certificates: AtomicBool,
    /// The file had no entry at the last look.
    was_empty: AtomicBool,
    state: RwLock<Arc<AccessRules>>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("path", &self.0.path)
            .finish_non_exhaustive()
    }
}

impl Access {
    /// Reads and checks an access file, and the key files that it names. Keys of URLs are fetched
    /// when it is followed, or when the first token comes.
    ///
    /// # Errors
    /// What is wrong, with file and line; never a secret.
    pub fn open(path: &Path) -> Result<Self, AccessFileError> {
        let state = AccessRules::open(path)?;
        let (certificates, was_empty) = (AtomicBool::new(true), AtomicBool::new(false));
        let state = RwLock::new(Arc::new(state));
        Ok(Self(Arc::new(AccessState {
            path: path.into(),
            certificates,
            was_empty,
            state,
        })))
    }

    /// Nobody will be asked for a certificate. Rules for one that come later are complained about.
    ///
    /// # Errors
    /// There are some already: whoever wrote them expects otherwise.
    pub fn without_certificates(&self) -> Result<(), AccessFileError> {
        self.0.certificates.store(false, Relaxed);
        match self.useless_certificates() {
            Some(useless) => Err(useless),
            None => Ok(()),
        }
    }

    fn take(&self, state: AccessRules) {
        tracing::info!(
            event = "access.reloaded",
            tokens = state.tokens.len(),
            certificates = state.certificates.len(),
            issuers = state.issuers.len(),
            "the access file was reloaded"
        );
        let is_empty = state.is_empty();
        *self.0.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
        if is_empty {
            tracing::error!(
                event = "access.empty",
                "the access file has no entry: nobody who needs a credential is let in any more"
            );
        }
        // Taken all the same: the same change may have taken somebody out.
        if let Some(useless) = self.useless_certificates() {
            tracing::error!(event = "access.useless_certificates", "{useless}");
        }
    }

    fn useless_certificates(&self) -> Option<AccessFileError> {
        let useless = !self.0.certificates.load(Relaxed) && !self.state().certificates.is_empty();
        useless.then(|| AccessFileError::UselessCertificates {
            path: self.0.path.clone(),
        })
    }

    /// Checks the text of an access file, which need not exist, without using it.
    ///
    /// # Errors
    /// As [`Access::open`], but for the key files, which are not read.
    pub fn check(path: &Path, text: &str) -> Result<(), AccessFileError> {
        file::parse(path, text).map(drop)
    }

    /// Who calls. What is in `authorization` decides alone; without it, the certificate does. Waits
    /// only for a JWT whose key is not known yet, for its turn (2 s) and a fetch of the issuer's
    /// keys, 10 s at most and 20 s by discovery, behind one that is under way.
    ///
    /// # Errors
    /// [`Reason::CredentialMissing`], [`Reason::CredentialInvalid`] or
    /// [`Reason::CredentialExpired`], with one message each.
    ///
    /// Dropping the future has no effect on anybody else.
    ///
    /// [`Reason::CredentialMissing`]: crate::failure::Reason::CredentialMissing
    /// [`Reason::CredentialInvalid`]: crate::failure::Reason::CredentialInvalid
    /// [`Reason::CredentialExpired`]: crate::failure::Reason::CredentialExpired
    pub async fn authenticate(
        &self,
        presented: &PresentedCredentials<'_>,
    ) -> Result<Principal, Failure> {
        self.authenticate_at(presented, SystemTime::now())
            .await
            .map_err(CredentialRefusal::told)
    }

    async fn authenticate_at(
        &self,
        presented: &PresentedCredentials<'_>,
        now: SystemTime,
    ) -> Result<Principal, CredentialRefusal> {
        let state = self.state();
        let found = Self::by(&state, presented, now).await;
        // While it waited for an issuer's keys, the rules may have changed.
        match self.state() {
            newer if !Arc::ptr_eq(&state, &newer) => Self::by(&newer, presented, now).await,
            _ => found,
        }
    }

    async fn by(
        state: &AccessRules,
        presented: &PresentedCredentials<'_>,
        now: SystemTime,
    ) -> Result<Principal, CredentialRefusal> {
        match (presented.authorization, presented.certificate) {
            (Some(authorization), _) => bearer(state, authorization, now).await,
            (None, Some(der)) => certificate::authenticate(&state.certificates, der, now),
            (None, None) => Err(CredentialRefusal::Missing),
        }
    }

    fn state(&self) -> Arc<AccessRules> {
        self.0
            .state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ReloadableFiles for Access {
    const NOT_TAKEN: &'static str = "access.not_reloaded";

    fn read_again(&self) -> Result<Option<ApplyChange>, String> {
        let access = self.clone();
        let found = AccessRules::open_again(&self.0.path, &self.state());
        let is_empty = matches!(&found, Ok(Some(state)) if state.is_empty());
        let was_empty = self.0.was_empty.swap(is_empty, Relaxed);
        if is_empty && !was_empty {
            return Ok(None); // a file that is just being written is empty for a moment
        }
        let state = found.map_err(|error| error.to_string())?;
        Ok(state.map(|state| -> ApplyChange { Box::new(move || access.take(state)) }))
    }

    /// Issuers' keys, too.
    fn tend(&self) {
        self.state()
            .issuers
            .iter()
            .for_each(|issuer| issuer.keys.tend());
    }
}

/// Whoever bears this `authorization` (RFC 6750, section 2.1).
async fn bearer(
    state: &AccessRules,
    authorization: &str,
    now: SystemTime,
) -> Result<Principal, CredentialRefusal> {
    if authorization.len() > LONGEST_CREDENTIAL {
        return Err(CredentialRefusal::invalid(
            "an authorization longer than 8 KiB",
        ));
    }
    let (scheme, credential) = authorization.split_once(' ').unwrap_or((authorization, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(CredentialRefusal::invalid(
            "an authorization that does not begin with Bearer",
        ));
    }
    let credential = credential.trim_matches(' ');
    if token::looks_like_one(credential) {
        token::authenticate(&state.tokens, credential, now)
    } else if oidc::looks_like_one(credential) {
        oidc::authenticate(&state.issuers, credential, now).await
    } else {
        Err(CredentialRefusal::invalid(
            "a bearer credential that is neither a token nor a JWT",
        ))
    }
}
