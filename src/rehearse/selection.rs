//! Which migrations are rehearsed.

use std::{collections::BTreeSet, num::NonZeroUsize};

use crate::migration::{Version, set::MigrationSet};

/// Which migrations are rehearsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RehearsalSelection {
    /// Those that are not applied.
    Pending,
    /// The last so many of the set.
    Last(NonZeroUsize),
    /// All of the set.
    All,
}

impl RehearsalSelection {
    /// Those that are meant, of a set of which these are pending.
    pub fn of(self, catalog: &MigrationSet, pending: &BTreeSet<Version>) -> BTreeSet<Version> {
        let versions = || catalog.iter().map(|migration| migration.version.clone());
        match self {
            Self::Pending => versions()
                .filter(|version| pending.contains(version))
                .collect(),
            Self::Last(n) => versions().rev().take(n.get()).collect(),
            Self::All => versions().collect(),
        }
    }
}
