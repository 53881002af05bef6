//! Who may do what: the roles, and whom a credential makes of its bearer. Knows no transport; the cryptography is done by
//! well-kept crates.

use std::fmt;

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
pub struct Presented<'a> {
    /// The metadata `authorization`, as it came.
    pub authorization: Option<&'a str>,
    /// The client certificate that the TLS handshake verified against the client CA, in DER.
    pub certificate: Option<&'a [u8]>,
}

/// STUB
#[derive(Clone)]
pub struct Access;
impl Access {
    /// STUB
    pub async fn authenticate(&self, _: &Presented<'_>) -> Result<Principal, crate::failure::Failure> {
        unreachable!()
    }
    /// STUB
    pub fn open(_: &std::path::Path) -> Result<Self, Error> {
        Ok(Self)
    }
    /// STUB
    pub async fn keep_current(self) {}
}
/// STUB
#[derive(Debug, thiserror::Error)]
pub enum Error {}
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Access")
    }
}
