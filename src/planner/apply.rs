//! Which pending migrations an Apply runs.

use std::{collections::BTreeMap, num::NonZeroUsize};

use super::{
    Plan, Refusal, Step, StepScript,
    journal::half_applied_elsewhere,
    state::{Newer, blocked},
};
use crate::migration::{Checksum, Direction, Migration, Row, Version, set::Catalog};

/// What to apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Apply {
    /// How far.
    pub target: Target,
    /// Also what is older than something applied.
    pub allow_out_of_order: bool,
    /// Refuse unless exactly this set is embedded.
    pub expected_set: Option<Checksum>,
}

/// How far to apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
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
/// A [`Refusal`]: set mismatch, unknown target, an edited up, or a pending migration out of order.
pub(crate) fn plan_apply(
    catalog: &Catalog,
    rows: &[Row],
    request: &Apply,
) -> Result<Plan, Refusal> {
    expect_set(catalog, request)?;
    let applied: BTreeMap<&Version, &Row> = rows
        .iter()
        .filter(|row| row.is_applied())
        .map(|row| (&row.version, row))
        .collect();
    if let Target::To(version) = &request.target
        && catalog.get(version).is_none()
        && !applied.contains_key(version)
    {
        return Err(Refusal::UnknownVersion(version.clone()));
    }
    if let Some(refusal) = blocked(catalog, rows).next() {
        return Err(refusal);
    }

    let pending = catalog.iter().filter(|m| !applied.contains_key(&m.version));
    let chosen: Vec<&Migration> = match &request.target {
        Target::All => pending.collect(),
        Target::To(version) => pending.take_while(|m| m.version <= *version).collect(),
        Target::Steps(steps) => pending.take(steps.get()).collect(),
    };
    let newer = Newer::new(catalog, &applied);
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
    Ok(Plan {
        steps: chosen.into_iter().map(up).collect(),
        warnings,
        ..Plan::default()
    })
}

/// Refuses another set than the embedded one, which needs no database to know.
///
/// # Errors
/// [`Refusal::SetMismatch`].
pub(crate) fn expect_set(catalog: &Catalog, request: &Apply) -> Result<(), Refusal> {
    match request
        .expected_set
        .filter(|expected| *expected != catalog.digest())
    {
        None => Ok(()),
        Some(expected) => Err(Refusal::SetMismatch {
            expected,
            actual: catalog.digest(),
        }),
    }
}

fn up(migration: &Migration) -> Step {
    Step {
        version: migration.version.clone(),
        name: migration.name.clone(),
        direction: Direction::Up,
        script: StepScript::Binary(migration.up.clone()),
        down: migration.down.clone(),
    }
}
