//! Decides, and touches nothing: from the embedded set, what the database says is applied, and a
//! request, to the steps to run or the reason not to. The same comparison gives the schema's state,
//! so status and plan cannot disagree.

mod apply;
mod journal;
mod refusal;
mod resolve;
mod rollback;
mod sign;
mod state;

pub(crate) use apply::{ApplyRequest, ApplyTarget, expect_set, plan_apply};
pub(crate) use journal::{AbandonedIndex, ResumePoint, earlier, is_contradicted, resume};
pub(crate) use refusal::PlanRefusal;
pub(crate) use resolve::{LedgerResolution, ResolveOutcome, ResolveRequest, plan_resolve};
pub(crate) use rollback::{
    DownSource, RollbackRequest, RollbackTarget, plan_rollback, stored_downs,
};
pub(crate) use sign::{SignRequest, SignTarget, SigningPlan, UnsignedDown, plan_sign};
pub(crate) use state::{Assessment, SchemaProblem, SchemaState, assess};

use crate::migration::{Checksum, Direction, MigrationRow, Script, ScriptMode, Version};

/// What will run, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepPlan {
    /// The steps; none: nothing to do.
    pub steps: Vec<PlannerStep>,
    /// What the caller should know although it is no reason to refuse.
    pub warnings: Vec<String>,
    /// What a person settles.
    pub resolution: Option<LedgerResolution>,
    /// What is to be signed.
    pub signing: Option<SigningPlan>,
}

/// One migration, run once, up or down.
#[derive(Clone, Debug)]
pub(crate) struct PlannerStep {
    /// The migration's version.
    pub version: Version,
    /// Its name.
    pub name: String,
    /// Up or down.
    pub direction: Direction,
    /// What runs.
    pub script: StepScript,
    /// For an up: the down that the ledger keeps for later.
    pub down: Option<Script>,
}

/// Where a step's script is.
#[derive(Clone, Debug)]
pub(crate) enum StepScript {
    /// In the binary.
    Binary(Script),
    /// In the ledger, under this checksum.
    Ledger(Checksum, ScriptMode),
}

impl StepScript {
    /// The script's checksum.
    pub(crate) fn checksum(&self) -> Checksum {
        match self {
            Self::Binary(script) => script.checksum,
            Self::Ledger(checksum, _) => *checksum,
        }
    }

    /// How it runs.
    pub(crate) fn mode(&self) -> ScriptMode {
        match self {
            Self::Binary(script) => script.mode,
            Self::Ledger(_, mode) => *mode,
        }
    }
}

/// The applied rows in the order of application: the ledger's where it has one; what is only in the
/// Diesel table came after the ledger last looked, in the order of its run_on.
fn in_order_of_application(rows: &[MigrationRow]) -> Vec<&MigrationRow> {
    let mut applied: Vec<&MigrationRow> = rows.iter().filter(|row| row.is_applied()).collect();
    applied.sort_by_key(|row| match &row.recorded {
        Some(recorded) => (false, recorded.position, None, &row.version),
        None => (true, 0, row.run_on, &row.version),
    });
    applied
}

#[cfg(test)]
mod tests;
