//! What happens to an operation, as its followers are told it.

use std::time::{Duration, SystemTime};

use super::LockHolder;
use crate::{
    failure::Failure,
    ledger::{FinishedOperation, OperationState},
    migration::{Direction, run_mode::RunMode},
    postgres::activity::{IndexProgress, LockWaiting},
};

/// One thing that happened.
#[derive(Clone, Debug)]
pub(crate) enum OperationEvent {
    /// The operation is recorded and will run or has run.
    Accepted {
        /// `apply`, `rollback` or `resolve`.
        kind: String,
        /// The caller's id.
        request_id: String,
        /// It had been accepted before.
        repeated: bool,
    },
    /// Another operation holds the lock.
    Queued(Box<LockHolder>),
    /// The steps that will run.
    Planned {
        /// In order.
        steps: Vec<PlannedStep>,
        /// For the caller.
        warnings: Vec<String>,
    },
    /// A step begins.
    StepStarted(StepName),
    /// The server said something, or schemad where there is no version.
    Notice {
        /// While this version ran; empty when no step runs.
        version: String,
        /// NOTICE, WARNING and so on.
        severity: String,
        /// What.
        message: String,
        /// More of it; empty without.
        detail: String,
        /// What the server advises; empty without.
        hint: String,
    },
    /// The step could not get its locks and was undone.
    Retrying {
        /// Which.
        version: String,
        /// From 1.
        attempt: u32,
        /// 55P03 or 40P01.
        sqlstate: String,
        /// The server's words.
        message: String,
        /// Until the next try.
        delay: Duration,
    },
    /// The running step waits for a lock.
    Waiting {
        /// The migration's version.
        version: String,
        /// For what, and who has it.
        waiting: LockWaiting,
        /// How long the statement has waited so far.
        waited: Duration,
    },
    /// The running step builds an index.
    Progress {
        /// The migration's version.
        version: String,
        /// How far it is.
        building: IndexProgress,
    },
    /// This follower was too slow for so many live-only events.
    Dropped(u64),
    /// A statement or block of a step that is not one transaction begins.
    StatementStarted {
        /// Of this version.
        version: String,
        /// From 1.
        first: usize,
        /// The last one of a BEGIN … COMMIT block; else the same.
        last: usize,
        /// Of so many.
        statements: usize,
        /// How it begins.
        summary: String,
    },
    /// A statement or block of a step that is not one transaction is committed.
    StatementDone {
        /// Of this version.
        version: String,
        /// From 1.
        first: usize,
        /// The last one of a BEGIN … COMMIT block; else the same.
        last: usize,
        /// Of so many.
        statements: usize,
        /// How it begins.
        summary: String,
        /// How long it took.
        took: Duration,
    },
    /// A step is committed.
    StepDone(StepName, Duration),
    /// The end, and why it is not the one that was asked for.
    Finished(OperationState, FinishedOperation, Option<Failure>),
}

impl OperationEvent {
    /// A warning of schemad's own, while no step runs.
    pub(crate) fn warning(message: String) -> Self {
        let (version, detail, hint) = (String::new(), String::new(), String::new());
        Self::Notice {
            version,
            severity: "WARNING".into(),
            message,
            detail,
            hint,
        }
    }

    /// A state change, which the ledger holds too; anything else is told live only.
    pub(crate) fn is_durable(&self) -> bool {
        matches!(
            self,
            Self::Accepted { .. } | Self::Planned { .. } | Self::StepDone(..) | Self::Finished(..)
        )
    }
}

/// One step of a plan.
#[derive(Clone, Debug)]
pub(crate) struct PlannedStep {
    /// The migration's version.
    pub version: String,
    /// Its name.
    pub name: String,
    /// Up or down.
    pub direction: Direction,
    /// The script comes from the ledger; an older daemon did not say in its replays.
    pub from_ledger: Option<bool>,
    /// How it runs; an older daemon did not say.
    pub how: Option<RunMode>,
}

/// Which step of how many.
#[derive(Clone, Debug)]
pub(crate) struct StepName {
    /// From 1.
    pub ordinal: usize,
    /// Of so many.
    pub total: usize,
    /// The migration's version.
    pub version: String,
    /// Its name.
    pub name: String,
    /// Up or down.
    pub direction: Direction,
}

/// An event with its number and time.
#[derive(Clone, Debug)]
pub(crate) struct LogEntry {
    /// Of a state change, from 1; 0 for what is told live only.
    pub sequence: u64,
    /// When.
    pub time: SystemTime,
    /// What.
    pub event: OperationEvent,
}
