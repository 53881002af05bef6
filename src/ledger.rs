//! The ledger: schemad's own records, in the schema `schemad` of the database that it manages. This
//! is the only module whose SQL names the ledger's tables or Diesel's. Diesel's table decides which
//! migrations are applied. The ledger records how each of them was applied.

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

/// The contents of the database, read in one snapshot.
#[derive(Clone, Debug)]
pub(crate) struct LedgerSnapshot {
    /// The server that was read.
    pub server: ServerInfo,
    /// The ledger's own row. `None` if the database has no ledger.
    pub ledger: Option<LedgerInfo>,
    /// Diesel's table, schema-qualified and quoted where needed. `None` if there is none.
    pub diesel_table: Option<String>,
    /// The oid of Diesel's table.
    pub diesel_oid: Option<u32>,
    /// One row for each version in Diesel's table or the ledger, in version order.
    pub rows: Vec<MigrationRow>,
    /// The operation that holds the operation lock.
    pub running: Option<OperationRow>,
}

/// The server and database that a snapshot was read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerInfo {
    /// The database's name.
    pub database: String,
    /// The server's version, for example "15.18".
    pub version: String,
    /// The database's encoding, for example "UTF8".
    pub encoding: String,
    /// Whether the server is a standby, or the server or the role is read-only by default.
    pub read_only: bool,
}

/// The row of the table `schemad.ledger`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LedgerInfo {
    /// A random UUID that identifies the ledger.
    pub id: String,
    /// The version of the ledger's schema.
    pub version: i32,
    /// The oldest ledger version that a daemon must support to use this ledger.
    pub compatible_with: i32,
}

/// A row of the table `schemad.operations`.
#[derive(Clone, Debug)]
pub(crate) struct OperationRow {
    /// The operation's UUID.
    pub id: uuid::Uuid,
    /// `apply`, `rollback`, `resolve` or `sign`.
    pub kind: String,
    /// The name of an [`OperationState`], or a state that only a newer daemon defines.
    pub state: String,
    /// The principal that requested the operation.
    pub principal: String,
    /// The daemon that runs it, as host:pid.
    pub daemon: String,
    /// When the operation was recorded.
    pub created_at: SystemTime,
    /// When it acquired the operation lock and began to run.
    pub started_at: Option<SystemTime>,
    /// When it ended.
    pub finished_at: Option<SystemTime>,
    /// The number of planned steps.
    pub steps_total: i32,
    /// The number of committed steps.
    pub steps_done: i32,
    /// The client's id for the request.
    pub request_id: String,
    /// The reason that it did not succeed: the name of a [`crate::failure::Reason`].
    pub reason: Option<String>,
    /// The error message if it failed, otherwise the text that the client gave with the request.
    pub message: Option<String>,
    /// Whether its cancellation was requested.
    pub cancel_requested: bool,
}
