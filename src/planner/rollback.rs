//! Which applied migrations a Rollback reverts, and from which down script.

use std::num::NonZeroUsize;

use super::{Plan, Refusal, Step, StepScript, in_order_of_application, journal, state::table_lost};
use crate::migration::{Checksum, Direction, Mode, Row, Version, set::Catalog};

/// What to roll back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// How far.
    pub target: Target,
    /// Which down where two differ.
    pub down_from: Option<Source>,
    /// Also what clients watch.
    pub force: bool,
}

/// How far to roll back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The last so many.
    Steps(NonZeroUsize),
    /// Everything applied after this version, which stays.
    To(Version),
    /// Everything.
    All,
}

/// Where a down script comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// What belonged to the migration when it was applied.
    Ledger,
    /// What the running binary carries.
    Binary,
}

/// Plans a Rollback, newest application first.
///
/// # Errors
/// A [`Refusal`]: unknown or unapplied target, fewer applied than asked, no down script, two that
/// differ.
pub(crate) fn plan_rollback(
    catalog: &Catalog,
    rows: &[Row],
    request: &Rollback,
) -> Result<Plan, Refusal> {
    if let Some(refusal) = table_lost(rows) {
        return Err(refusal);
    }
    let applied = in_order_of_application(rows);
    let keep = match &request.target {
        Target::All => 0,
        // Nothing applied is nothing to do, so that a repeated pipeline does not fail.
        Target::Steps(_) if applied.is_empty() => 0,
        Target::Steps(steps) => {
            applied
                .len()
                .checked_sub(steps.get())
                .ok_or(Refusal::TooFewApplied {
                    applied: applied.len(),
                    asked: steps.get(),
                })?
        }
        Target::To(version) => match applied.iter().position(|row| row.version == *version) {
            Some(index) => index + 1,
            None if catalog.get(version).is_some()
                || rows.iter().any(|row| row.version == *version) =>
            {
                return Err(Refusal::NotApplied(version.clone()));
            }
            None => return Err(Refusal::UnknownVersion(version.clone())),
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
        .find(|refusal| !matches!(refusal, Refusal::HalfReverted { version, .. } if Some(version) == first))
    {
        return Err(refusal);
    }
    let steps = applied[keep..]
        .iter()
        .rev()
        .map(|row| down(catalog, row, request.down_from))
        .collect::<Result<_, _>>()?;
    Ok(Plan {
        steps,
        ..Plan::default()
    })
}

/// The applied migrations whose down only the ledger has: a rollback runs it from there.
pub(crate) fn stored_downs<'a>(
    catalog: &'a Catalog,
    rows: &'a [Row],
) -> impl Iterator<Item = (&'a Row, (Checksum, Mode))> + 'a {
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

fn down(catalog: &Catalog, row: &Row, chosen: Option<Source>) -> Result<Step, Refusal> {
    let embedded = catalog.get(&row.version);
    let binary = embedded.and_then(|m| m.down.as_ref());
    let ledger = row.recorded.as_ref().and_then(|recorded| recorded.down);
    let script = match (ledger, binary, chosen) {
        (Some((checksum, mode)), Some(script), None)
            if checksum != script.checksum || mode != script.mode =>
        {
            return Err(Refusal::DownsDiffer {
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
        | (Some((checksum, mode)), Some(_), None | Some(Source::Ledger)) => {
            StepScript::Ledger(checksum, mode)
        }
        (Some(_), Some(script), Some(Source::Binary)) | (None, Some(script), _) => {
            StepScript::Binary(script.clone())
        }
        (None, None, _) => {
            return Err(Refusal::Irreversible {
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
    Ok(Step {
        version: row.version.clone(),
        name: name.unwrap_or_else(|| row.version.to_string()),
        direction: Direction::Down,
        script,
        down: None,
    })
}
