//! What a database knows of a migration.

use std::time::SystemTime;

use super::{Checksum, Direction, ScriptMode, Version};

/// One version, as the Diesel table and the ledger know it.
#[derive(Clone, Debug)]
pub(crate) struct MigrationRow {
    /// The version.
    pub version: Version,
    /// Diesel's run_on when the Diesel table lists it: it is applied.
    pub run_on: Option<SystemTime>,
    /// The ledger's record of it.
    pub recorded: Option<MigrationRecord>,
    /// How far a script came that is not one transaction, while it is neither through nor given up.
    pub journal: Option<JournalRecord>,
}

impl MigrationRow {
    /// The Diesel table decides.
    pub(crate) fn is_applied(&self) -> bool {
        self.run_on.is_some()
    }

    /// schemad applied it and something else has taken it out of the Diesel table.
    pub(crate) fn is_reverted_elsewhere(&self) -> bool {
        self.run_on.is_none() && self.recorded.is_some()
    }
}

/// How far a script came that is not one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JournalRecord {
    /// The row of the step that began it, in the ledger.
    pub step: i64,
    /// Which script it was.
    pub direction: Direction,
    /// The folder's name.
    pub name: String,
    /// The checksums of its parts that are done, in order.
    pub done: Vec<String>,
    /// The part after them, when it was sent outside a transaction and its end is not recorded.
    pub running: Option<RunningPart>,
    /// The part after them, when an index build of it was tried and failed.
    pub tried: Option<TriedPart>,
    /// The text that ran, where it matters for the two above.
    pub script: Option<String>,
}

/// An index build that failed, and may have left an invalid index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TriedPart {
    /// Its checksum.
    pub checksum: String,
    /// The indexes before the first try.
    pub before: Vec<u32>,
    /// Its text, where the script that it stood in is no longer the journal's.
    pub sql: Option<String>,
}

/// A part of a script of which it is not recorded whether it took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunningPart {
    /// Its checksum.
    pub checksum: String,
    /// Only a person can tell whether it took effect.
    pub in_doubt: bool,
    /// The server has answered that it failed. What it committed before that stays.
    pub failed: bool,
}

/// The ledger's record of an applied migration.
#[derive(Clone, Debug)]
pub(crate) struct MigrationRecord {
    /// The folder's name.
    pub name: String,
    /// The order of application.
    pub position: i64,
    /// Checksum and mode of the up that ran; `None` when the migration was adopted by a binary that
    /// did not carry it.
    pub up: Option<(Checksum, ScriptMode)>,
    /// Checksum and mode of the down that belonged to it.
    pub down: Option<(Checksum, ScriptMode)>,
    /// The signature of that down; `None` where nobody signed it.
    pub mac: Option<Vec<u8>>,
    /// When.
    pub applied_at: SystemTime,
    /// Found in the Diesel table, applied by something else.
    pub adopted: bool,
    /// The operation that applied it, and who asked.
    pub operation: Option<(String, String)>,
    /// How long the step took, commit not included.
    pub duration: Option<std::time::Duration>,
}
