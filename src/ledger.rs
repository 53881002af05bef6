//! What schemad remembers, in the schema `schemad` of the database it manages. The only module
//! whose SQL names the ledger's tables or Diesel's. The Diesel table decides *what* is applied; the
//! ledger tells *how* it came to be.

pub(crate) mod claims;
pub(crate) mod control;
pub(crate) mod history;
pub(crate) mod install;
pub(crate) mod journals;
pub(crate) mod last_operation;
pub(crate) mod locked;
pub(crate) mod one_database;
pub(crate) mod operations;
mod outcome;
pub(crate) mod public;
pub(crate) mod read;
pub(crate) mod rehearsal;
pub(crate) mod rehearsals;
pub(crate) mod search_path;
pub(crate) mod settle;
pub(crate) mod signatures;
pub(crate) mod step_activity;
mod text;
pub(crate) mod upkeep;

pub(crate) use outcome::{FinishedOperation, OperationEnding, OperationState, PlanRecord};

use std::time::SystemTime;

use crate::migration::MigrationRow;

/// What a read of the database found, all of it in one state.
#[derive(Clone, Debug)]
pub(crate) struct LedgerSnapshot {
    /// The server that answered.
    pub server: ServerInfo,
    /// The ledger, when there is one.
    pub ledger: Option<LedgerInfo>,
    /// The Diesel table, when there is one: schema-qualified and quoted where needed.
    pub diesel_table: Option<String>,
    /// Its oid.
    pub diesel_oid: Option<u32>,
    /// One row for each version in the Diesel table or the ledger, in version order.
    pub rows: Vec<MigrationRow>,
    /// The operation that holds the lock.
    pub running: Option<OperationRow>,
}

/// The server behind a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerInfo {
    /// The database's name.
    pub database: String,
    /// For example "15.18".
    pub version: String,
    /// The database's encoding, for example "UTF8".
    pub encoding: String,
    /// A standby, or a server or role that is read-only by default.
    pub read_only: bool,
}

/// The ledger's own row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LedgerInfo {
    /// A random UUID.
    pub id: String,
    /// Its version.
    pub version: i32,
    /// The oldest version a daemon must know.
    pub compatible_with: i32,
}

/// An operation as the ledger has it.
#[derive(Clone, Debug)]
pub(crate) struct OperationRow {
    /// UUID.
    pub id: uuid::Uuid,
    /// `apply`, `rollback`, `resolve` or `sign`.
    pub kind: String,
    /// [`OperationState`]'s word, or a newer daemon's.
    pub state: String,
    /// Who asked.
    pub principal: String,
    /// host:pid of the daemon.
    pub daemon: String,
    /// Its times.
    pub created_at: SystemTime,
    /// When it won the lock.
    pub started_at: Option<SystemTime>,
    /// When it ended.
    pub finished_at: Option<SystemTime>,
    /// Steps planned.
    pub steps_total: i32,
    /// Steps committed.
    pub steps_done: i32,
    /// The caller's id for the request.
    pub request_id: String,
    /// Why it did not succeed: a [`crate::failure::Reason`]'s word.
    pub reason: Option<String>,
    /// And in sentences; or what was said when it was asked for.
    pub message: Option<String>,
    /// Somebody asked to cancel it.
    pub cancel_requested: bool,
}
