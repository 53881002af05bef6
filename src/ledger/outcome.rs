//! The states of an operation and how far it came.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{failure::Failure, migration::run_mode::RunMode};

/// The life of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationState {
    /// Waits for the lock.
    Pending,
    /// Holds the lock.
    Running,
    /// Did all its steps.
    Succeeded,
    /// Was refused or its SQL failed.
    Failed,
    /// Its daemon or its session went away.
    Interrupted,
    /// Somebody cancelled it.
    Cancelled,
}

impl OperationState {
    /// The ledger's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state that the ledger's word names.
    pub fn parse(word: &str) -> Option<Self> {
        [
            Self::Pending,
            Self::Running,
            Self::Succeeded,
            Self::Failed,
            Self::Interrupted,
            Self::Cancelled,
        ]
        .into_iter()
        .find(|state| state.as_str() == word)
    }
}

impl fmt::Display for OperationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a plan said beside its steps; kept so that a replay says it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PlanRecord {
    /// For each step: its script comes from the ledger. Empty: an older daemon did not say.
    pub from_ledger: Vec<bool>,
    /// How each step's script runs. Empty: an older daemon did not say.
    pub how: Vec<RunMode>,
    /// For the caller.
    pub warnings: Vec<String>,
}

/// How far an operation came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FinishedOperation {
    /// The plan was empty.
    pub nothing_to_do: bool,
    /// Steps committed.
    pub steps_done: usize,
    /// Steps planned.
    pub steps_total: usize,
    /// The highest applied version afterwards.
    pub current: Option<String>,
    /// For the caller.
    pub warnings: Vec<String>,
}

/// How an operation ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OperationEnding {
    /// How far it came.
    pub finished: FinishedOperation,
    /// Why not further.
    pub failure: Option<Failure>,
}
