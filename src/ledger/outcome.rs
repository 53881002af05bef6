//! The states of an operation, and its result.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{failure::Failure, migration::run_mode::RunMode};

/// The state of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationState {
    /// Waiting for the operation lock.
    Pending,
    /// Holding the operation lock.
    Running,
    /// Completed all its steps.
    Succeeded,
    /// Was refused, or its SQL failed.
    Failed,
    /// Lost its daemon or its session.
    Interrupted,
    /// Was cancelled on request.
    Cancelled,
}

impl OperationState {
    /// Returns the name of the state in the ledger.
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

    /// Returns the state with this name in the ledger.
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

/// The part of a plan that the rows of its steps do not hold. It is stored so that a replay reports
/// it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PlanRecord {
    /// For each step, whether its script comes from the ledger. Empty if an older daemon wrote the
    /// plan.
    pub from_ledger: Vec<bool>,
    /// For each step, how its script runs. Empty if an older daemon wrote the plan.
    pub how: Vec<RunMode>,
    /// Warnings for the client.
    pub warnings: Vec<String>,
}

/// The progress that an operation made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FinishedOperation {
    /// Whether the plan was empty.
    pub nothing_to_do: bool,
    /// The number of committed steps.
    pub steps_done: usize,
    /// The number of planned steps.
    pub steps_total: usize,
    /// The highest applied version at the end.
    pub current: Option<String>,
    /// Warnings for the client.
    pub warnings: Vec<String>,
}

/// The result of an operation that has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OperationEnding {
    /// The progress that it made.
    pub finished: FinishedOperation,
    /// The failure, if it did not succeed.
    pub failure: Option<Failure>,
}
