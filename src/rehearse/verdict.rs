//! What came of one migration.

use std::{fmt, time::Duration};

use crate::{
    failure::Failure,
    migration::{Checksum, Migration, Script, ScriptMode, Version},
    schema::{Difference, Snapshot, diff},
};

macro_rules! verdicts {
    ($($(#[doc = $doc:literal])+ $name:ident $word:literal,)+) => {
        /// What came of one migration.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Verdict { $($(#[doc = $doc])+ $name,)+ }

        impl Verdict {
            /// Every verdict.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// UPPER_SNAKE, as on the wire and in the ledger.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }
        }
    };
}

verdicts! {
    /// The down restores what the up changed, and the up runs again to the same.
    Restores "RESTORES",
    /// The same, but the order of a table's columns is another.
    OrderOnly "ORDER_ONLY",
    /// The down runs and leaves another schema than there was.
    DoesNotRestore "DOES_NOT_RESTORE",
    /// The down fails.
    DownFails "DOWN_FAILS",
    /// After the down, the up fails.
    UpFailsAfterDown "UP_FAILS_AFTER_DOWN",
    /// After the down, which restores, the up makes another schema than the first time.
    UpDiffersAfterDown "UP_DIFFERS_AFTER_DOWN",
    /// There is no down.
    Irreversible "IRREVERSIBLE",
    /// The up fails.
    UpFails "UP_FAILS",
}

impl Verdict {
    /// Nothing is lost by going down and up again but, perhaps, the order of columns.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Restores | Self::OrderOnly)
    }

    /// The verdict of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|verdict| verdict.as_str() == word)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A migration and what came of it.
#[derive(Clone, Debug)]
pub struct RehearsedMigration {
    /// From 1, among those that are rehearsed.
    pub ordinal: usize,
    /// How many those are.
    pub total: usize,
    /// Its version.
    pub version: Version,
    /// Its name.
    pub name: String,
    /// Which scripts were rehearsed: their checksums and modes.
    pub up: (Checksum, ScriptMode),
    /// The down's.
    pub down: Option<(Checksum, ScriptMode)>,
    /// What came of it.
    pub verdict: Verdict,
    /// Between the schema before the up and that after the down.
    pub differences: Vec<Difference>,
    /// Between the schemas after the first and the second up.
    pub up_differences: Vec<Difference>,
    /// Why a script failed.
    pub failure: Option<Failure>,
    /// What nobody looked into.
    pub notes: Vec<String>,
    /// How long the first up took.
    pub up_took: Option<Duration>,
    /// And the down.
    pub down_took: Option<Duration>,
    /// Everything together.
    pub took: Duration,
}

impl RehearsedMigration {
    /// Before anything has run.
    pub(super) fn of(migration: &Migration) -> Self {
        let identity = |script: &Script| (script.checksum, script.mode);
        Self {
            ordinal: 0,
            total: 0,
            version: migration.version.clone(),
            name: migration.name.clone(),
            up: identity(&migration.up),
            down: migration.down.as_ref().map(identity),
            verdict: Verdict::Restores,
            differences: Vec::new(),
            up_differences: Vec::new(),
            failure: None,
            notes: Vec::new(),
            up_took: None,
            down_took: None,
            took: Duration::ZERO,
        }
    }

    /// The down is compared.
    pub(super) fn compared_down(&mut self, before: &Snapshot, back: &Snapshot) {
        self.differences = diff(before, back);
        self.verdict = match self.differences.iter().all(|one| one.is_order_only()) {
            true if self.differences.is_empty() => Verdict::Restores,
            true => Verdict::OrderOnly,
            false => Verdict::DoesNotRestore,
        };
    }

    /// The second up is compared with the first. What the down left behind explains what comes
    /// after it.
    pub(super) fn compared_up(&mut self, after: &Snapshot, again: &Snapshot) {
        self.up_differences = diff(after, again);
        let order_only = self.up_differences.iter().all(|one| one.is_order_only());
        self.verdict = match self.verdict {
            Verdict::Restores if self.up_differences.is_empty() => Verdict::Restores,
            Verdict::Restores | Verdict::OrderOnly if order_only => Verdict::OrderOnly,
            Verdict::Restores | Verdict::OrderOnly => Verdict::UpDiffersAfterDown,
            other => other,
        };
    }

    /// A script failed.
    pub(super) fn failed(self, verdict: Verdict, failure: Failure) -> Self {
        Self {
            verdict,
            failure: Some(failure),
            ..self
        }
    }
}
