//! Files that are open to everybody on the machine although they hold a secret, or decide over the
//! schema.

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::output;

/// What everybody on this machine may do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileExposure {
    /// Read it.
    Readable,
    /// Write it.
    Writable,
}

impl FileExposure {
    fn bit(self) -> u32 {
        match self {
            Self::Readable => 0o004,
            Self::Writable => 0o002,
        }
    }

    /// True for a file of which this is so.
    pub(crate) fn is(self, file: &Path) -> bool {
        std::fs::metadata(file).is_ok_and(|it| it.permissions().mode() & self.bit() != 0)
    }

    /// What to say about it.
    pub(crate) fn warning(self, file: &Path) -> String {
        let file = file.display();
        match self {
            Self::Readable => {
                format!(
                    "anybody on this machine may read {file}, which holds a secret: chmod o-r \
                     {file}"
                )
            }
            Self::Writable => {
                format!("anybody on this machine may write to {file}: chmod o-w {file}")
            }
        }
    }
}

/// Warns the person at the terminal, once, of a file with a secret that everybody may read.
pub(crate) fn warn_if_readable(file: &Path) {
    static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let is_new = || {
        WARNED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(file.to_owned())
    };
    if FileExposure::Readable.is(file) && is_new() {
        output::warn(&FileExposure::Readable.warning(file));
    }
}
