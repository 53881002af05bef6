//! Which pending migrations an Apply runs.

use std::{collections::BTreeMap, num::NonZeroUsize};

use super::{
    PlanRefusal, PlannerStep, StepPlan, StepScript,
    journal::half_applied_elsewhere,
    state::{NewerVersions, blocked},
};
use crate::migration::{Checksum, Direction, Migration, MigrationRow, Version, set::MigrationSet};

/// What to apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyRequest {
    /// How far.
    pub target: ApplyTarget,
    /// Also what is older than something applied.
    pub allow_out_of_order: bool,
    /// Refuse unless exactly this set is embedded.
    pub expected_set: Option<Checksum>,
}

/// How far to apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ApplyTarget {
    /// Everything pending.
    #[default]
    All,
    /// Pending versions up to and including this one.
    To(Version),
    /// At most so many.
    Steps(NonZeroUsize),
}

/// Plans an Apply.
///
/// # Errors
/// A [`PlanRefusal`]: set mismatch, unknown target, an edited up, or a pending migration out of
/// order.
pub(crate) fn plan_apply(
    catalog: &MigrationSet,
    rows: &[MigrationRow],
    request: &ApplyRequest,
) -> Result<StepPlan, PlanRefusal> {
    expect_set(catalog, request)?;
    let applied: BTreeMap<&Version, &MigrationRow> = rows
        .iter()
        .filter(|row| row.is_applied())
        .map(|row| (&row.version, row))
        .collect();
    if let ApplyTarget::To(version) = &request.target
        && catalog.get(version).is_none()
        && !applied.contains_key(version)
    {
        return Err(PlanRefusal::UnknownVersion(version.clone()));
    }
    if let Some(refusal) = blocked(catalog, rows).next() {
        return Err(refusal);
    }

    let pending = catalog.iter().filter(|m| !applied.contains_key(&m.version));
    let chosen: Vec<&Migration> = match &request.target {
        ApplyTarget::All => pending.collect(),
        ApplyTarget::To(version) => pending.take_while(|m| m.version <= *version).collect(),
        ApplyTarget::Steps(steps) => pending.take(steps.get()).collect(),
    };
    let newer = NewerVersions::new(catalog, &applied);
    if !request.allow_out_of_order
        && let Some(refusal) = chosen.iter().find_map(|m| newer.out_of_order(m))
    {
        return Err(refusal);
    }
    if let Some(refusal) = half_applied_elsewhere(catalog, rows)
        .next()
        .filter(|_| !chosen.is_empty())
    {
        return Err(refusal);
    }
    let unknown = applied.keys().filter(|v| catalog.get(v).is_none()).count();
    let warnings = match (unknown, chosen.is_empty()) {
        (0, _) | (_, false) => Vec::new(),
        (n, true) => vec![format!(
            "the database is ahead: {n} applied migration(s) are unknown to this daemon, whose set \
             is an older one"
        )],
    };
    Ok(StepPlan {
        steps: chosen.into_iter().map(up).collect(),
        warnings,
        ..StepPlan::default()
    })
}

/// Refuses another set than the embedded one, which needs no database to know.
///
/// # Errors
/// [`PlanRefusal::SetMismatch`].
pub(crate) fn expect_set(
    catalog: &MigrationSet,
    request: &ApplyRequest,
) -> Result<(), PlanRefusal> {
    match request
        .expected_set
        .filter(|expected| *expected != catalog.digest())
    {
        None => Ok(()),
        Some(expected) => Err(PlanRefusal::SetMismatch {
            expected,
            actual: catalog.digest(),
        }),
    }
}

fn up(migration: &Migration) -> PlannerStep {
    PlannerStep {
        version: migration.version.clone(),
        name: migration.name.clone(),
        direction: Direction::Up,
        script: StepScript::Binary(migration.up.clone()),
        down: migration.down.clone(),
    }
}
