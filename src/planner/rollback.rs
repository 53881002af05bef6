//! Which applied migrations a Rollback reverts, and from which down script.

use std::num::NonZeroUsize;

use super::{
    PlanRefusal, PlannerStep, StepPlan, StepScript, in_order_of_application, journal,
    state::table_lost,
};
use crate::migration::{Checksum, Direction, MigrationRow, ScriptMode, Version, set::MigrationSet};

/// What to roll back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackRequest {
    /// How far.
    pub target: RollbackTarget,
    /// Which down where two differ.
    pub down_from: Option<DownSource>,
    /// Also what clients watch.
    pub force: bool,
}

/// How far to roll back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RollbackTarget {
    /// The last so many.
    Steps(NonZeroUsize),
    /// Everything applied after this version, which stays.
    To(Version),
    /// Everything.
    All,
}

/// Where a down script comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownSource {
    /// What belonged to the migration when it was applied.
    Ledger,
    /// What the running binary carries.
    Binary,
}

/// Plans a Rollback, newest application first.
///
/// # Errors
/// A [`PlanRefusal`]: unknown or unapplied target, fewer applied than asked, no down script, two
/// that differ.
pub(crate) fn plan_rollback(
    catalog: &MigrationSet,
    rows: &[MigrationRow],
    request: &RollbackRequest,
) -> Result<StepPlan, PlanRefusal> {
    if let Some(refusal) = table_lost(rows) {
        return Err(refusal);
    }
    let applied = in_order_of_application(rows);
    let keep = match &request.target {
        RollbackTarget::All => 0,
        // Nothing applied is nothing to do, so that a repeated pipeline does not fail.
        RollbackTarget::Steps(_) if applied.is_empty() => 0,
        RollbackTarget::Steps(steps) => {
            applied
                .len()
                .checked_sub(steps.get())
                .ok_or(PlanRefusal::TooFewApplied {
                    applied: applied.len(),
                    asked: steps.get(),
                })?
        }
        RollbackTarget::To(version) => match applied.iter().position(|row| row.version == *version)
        {
            Some(index) => index + 1,
            None if catalog.get(version).is_some()
                || rows.iter().any(|row| row.version == *version) =>
            {
                return Err(PlanRefusal::NotApplied(version.clone()));
            }
            None => return Err(PlanRefusal::UnknownVersion(version.clone())),
        },
    };
    if let Some(refusal) = journal::in_doubt(rows)
        .chain(journal::contradicted(rows))
        .chain(journal::half_applied(rows))
        .next()
    {
        return Err(refusal);
    }
    // What is half rolled back has to be first, or whatever comes after it would run on half a
    // schema.
    let first = applied[keep..].last().map(|row| &row.version);
    if let Some(refusal) = journal::half_reverted(rows)
        .find(|refusal| !matches!(refusal, PlanRefusal::HalfReverted { version, .. } if Some(version) == first))
    {
        return Err(refusal);
    }
    let steps = applied[keep..]
        .iter()
        .rev()
        .map(|row| down(catalog, row, request.down_from))
        .collect::<Result<_, _>>()?;
    Ok(StepPlan {
        steps,
        ..StepPlan::default()
    })
}

/// The applied migrations whose down only the ledger has: a rollback runs it from there.
pub(crate) fn stored_downs<'a>(
    catalog: &'a MigrationSet,
    rows: &'a [MigrationRow],
) -> impl Iterator<Item = (&'a MigrationRow, (Checksum, ScriptMode))> + 'a {
    rows.iter()
        .filter(|row| row.is_applied())
        .filter_map(|row| {
            let stored = row.recorded.as_ref()?.down?;
            let embedded = catalog.get(&row.version).and_then(|m| m.down.as_ref());
            embedded
                .is_none_or(|down| (down.checksum, down.mode) != stored)
                .then_some((row, stored))
        })
}

fn down(
    catalog: &MigrationSet,
    row: &MigrationRow,
    chosen: Option<DownSource>,
) -> Result<PlannerStep, PlanRefusal> {
    let embedded = catalog.get(&row.version);
    let binary = embedded.and_then(|m| m.down.as_ref());
    let ledger = row.recorded.as_ref().and_then(|recorded| recorded.down);
    let script = match (ledger, binary, chosen) {
        (Some((checksum, mode)), Some(script), None)
            if checksum != script.checksum || mode != script.mode =>
        {
            return Err(PlanRefusal::DownsDiffer {
                version: row.version.clone(),
                ledger: checksum,
                binary: script.checksum,
            });
        }
        // The same in both: the embedded text runs, which nobody can have changed in the database.
        (Some(ledger), Some(script), _) if ledger == (script.checksum, script.mode) => {
            StepScript::Binary(script.clone())
        }
        (Some((checksum, mode)), None, _)
        | (Some((checksum, mode)), Some(_), None | Some(DownSource::Ledger)) => {
            StepScript::Ledger(checksum, mode)
        }
        (Some(_), Some(script), Some(DownSource::Binary)) | (None, Some(script), _) => {
            StepScript::Binary(script.clone())
        }
        (None, None, _) => {
            return Err(PlanRefusal::Irreversible {
                version: row.version.clone(),
                adopted: row
                    .recorded
                    .as_ref()
                    .is_none_or(|recorded| recorded.up.is_none()),
            });
        }
    };
    let name = row
        .recorded
        .as_ref()
        .map(|r| r.name.clone())
        .or_else(|| embedded.map(|m| m.name.clone()));
    Ok(PlannerStep {
        version: row.version.clone(),
        name: name.unwrap_or_else(|| row.version.to_string()),
        direction: Direction::Down,
        script,
        down: None,
    })
}
