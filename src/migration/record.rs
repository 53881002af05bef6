//! What a database knows of a migration.

use std::time::SystemTime;

use super::{Checksum, Mode, Version};

/// One version, as the Diesel table and the ledger know it.
#[derive(Clone, Debug)]
pub struct Row {
    /// The version.
    pub version: Version,
    /// Diesel's run_on when the Diesel table lists it: it is applied.
    pub run_on: Option<SystemTime>,
    /// The ledger's record of it.
    pub recorded: Option<Recorded>,
}

impl Row {
    /// The Diesel table decides.
    pub fn is_applied(&self) -> bool {
        self.run_on.is_some()
    }
}

/// The ledger's record of an applied migration.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The folder's name.
    pub name: String,
    /// The order of application.
    pub position: i64,
    /// Checksum and mode of the up that ran; `None` when the migration was adopted by a binary that did not carry it.
    pub up: Option<(Checksum, Mode)>,
    /// Checksum and mode of the down that belonged to it.
    pub down: Option<(Checksum, Mode)>,
    /// When.
    pub applied_at: SystemTime,
    /// Found in the Diesel table, applied by something else.
    pub adopted: bool,
    /// The operation that applied it, and who asked.
    pub operation: Option<(String, String)>,
    /// How long the step took, commit not included.
    pub duration: Option<std::time::Duration>,
}
