//! Why somebody was not let in, told twice: precisely to the operator's log, and to the caller in
//! one wording for every cause of a kind, so that nobody learns by trying. A cause is a constant of
//! this program or a word from the access file; nothing of the credential is ever in it.

use std::fmt;

use crate::failure::{Failure, Reason};

/// A credential that does not let its bearer in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CredentialRefusal {
    /// There is none.
    Missing,
    /// It is not one, not genuine, or not meant for this daemon. The cause.
    Invalid(String),
    /// It would let its bearer in at another time. Which credential it is.
    Expired(String),
}

impl CredentialRefusal {
    /// Not accepted, for this cause.
    pub(super) fn invalid(cause: impl fmt::Display) -> Self {
        Self::Invalid(cause.to_string())
    }

    /// Genuine, and out of its time.
    pub(super) fn expired(credential: impl fmt::Display) -> Self {
        Self::Expired(credential.to_string())
    }

    /// Logs the cause and answers without it.
    pub(super) fn told(self) -> Failure {
        match self {
            Self::Missing => Failure::new(
                Reason::CredentialMissing,
                "this call needs a credential: a bearer token in the metadata `authorization`, or \
                 a client certificate",
            ),
            Self::Invalid(cause) => {
                tracing::debug!(event = "access.invalid", cause, "a credential was refused");
                Failure::new(
                    Reason::CredentialInvalid,
                    "the credential is not one that this daemon accepts; its log says why at level \
                     debug",
                )
            }
            Self::Expired(credential) => {
                tracing::debug!(
                    event = "access.expired",
                    credential,
                    "a credential was refused: it is out of its time"
                );
                Failure::new(
                    Reason::CredentialExpired,
                    "the credential has expired or is not valid yet; get a new one, or compare the \
                     clocks",
                )
            }
        }
    }
}
