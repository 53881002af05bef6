//! What an access file says, ready to answer. A state never changes; a changed file makes another.

use std::{path::Path, sync::Arc};

use super::{
    certificate,
    error::AccessFileError,
    file::{self, FileRules},
    oidc::{self, Issuer, KeyStore},
    token::TokenRule,
};

/// A file's rules, with the keys of its issuers.
pub(super) struct AccessRules {
    /// The file's text, to tell whether it changed.
    pub text: String,
    pub tokens: Vec<TokenRule>,
    pub certificates: Vec<certificate::CertificateRule>,
    pub issuers: Vec<Issuer>,
}

impl AccessRules {
    /// Reads the file, and key files.
    pub(super) fn open(path: &Path) -> Result<Self, AccessFileError> {
        let text = std::fs::read_to_string(path).map_err(|source| AccessFileError::Unreadable {
            path: path.into(),
            source,
        })?;
        match Self::of(path, text, None)? {
            state if state.is_empty() => Err(AccessFileError::Empty { path: path.into() }),
            state => Ok(state),
        }
    }

    /// Nobody is let in.
    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.certificates.is_empty() && self.issuers.is_empty()
    }

    /// The same if the file is not as `before` has it. Keys that that has of the same source are
    /// taken over, so that no token is refused while they are fetched again.
    pub(super) fn open_again(path: &Path, before: &Self) -> Result<Option<Self>, AccessFileError> {
        let text = std::fs::read_to_string(path).map_err(|source| AccessFileError::Unreadable {
            path: path.into(),
            source,
        })?;
        if text == before.text {
            Ok(None)
        } else {
            Self::of(path, text, Some(before)).map(Some)
        }
    }

    fn of(path: &Path, text: String, before: Option<&Self>) -> Result<Self, AccessFileError> {
        let FileRules {
            tokens,
            certificates,
            issuers,
        } = file::parse(path, &text)?;
        oidc::install_provider();
        let issuers = issuers
            .into_iter()
            .map(|settings| issuer(path, settings, before))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            text,
            tokens,
            certificates,
            issuers,
        })
    }
}

fn issuer(
    path: &Path,
    settings: oidc::OidcSettings,
    before: Option<&AccessRules>,
) -> Result<Issuer, AccessFileError> {
    let (name, source) = (&settings.issuer, &settings.source);
    let known = before.and_then(|state| {
        state
            .issuers
            .iter()
            .find(|issuer| issuer.keys.is_of(name, source))
    });
    let keys = match known {
        Some(issuer) => issuer.keys.clone(),
        None => {
            let opened = KeyStore::open(name, source.clone());
            let keys = opened.map_err(|problem| AccessFileError::Keys {
                path: path.into(),
                issuer: name.clone(),
                problem,
            })?;
            Arc::new(keys)
        }
    };
    Ok(Issuer::new(settings, keys))
}
