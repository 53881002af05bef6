//! What state the schema is in, seen from the embedded set.

use std::collections::{BTreeMap, BTreeSet};

use super::{PlanRefusal, ResolveOutcome, journal};
use crate::{
    failure::{Failure, Reason},
    migration::{Direction, Migration, MigrationRow, Version, run_mode, set::MigrationSet},
};

/// The schema's state. DIVERGED means that an Apply without flags would be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SchemaState {
    /// Nothing is applied, something is pending.
    Empty,
    /// Exactly the embedded set is applied.
    Current,
    /// Something is pending, and Apply would run it.
    Behind,
    /// All of the set is applied, and more.
    Ahead,
    /// Apply would be refused.
    Diverged,
    /// Nobody knows whether a statement took effect.
    InDoubt,
}

/// Something that somebody should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SchemaProblem {
    /// UPPER_SNAKE.
    pub reason: &'static str,
    /// The migration concerned.
    pub version: String,
    /// What it means and what to do.
    pub message: String,
    /// Apply as it is by default is refused because of it.
    pub blocking: bool,
    /// How Resolve can settle it.
    pub outcomes: Vec<ResolveOutcome>,
}

/// The comparison of an embedded set with a database.
#[derive(Clone, Debug)]
pub(crate) struct Assessment {
    /// In one word.
    pub state: SchemaState,
    /// The highest applied version.
    pub current: Option<Version>,
    /// How many are applied.
    pub applied: usize,
    /// Embedded and not applied, in version order.
    pub pending: Vec<Version>,
    /// Applied and not embedded.
    pub unknown: Vec<Version>,
    /// Blocking ones first.
    pub problems: Vec<SchemaProblem>,
}

impl Assessment {
    /// Takes in why Apply would be refused besides.
    pub(crate) fn refuse(&mut self, failures: impl IntoIterator<Item = Failure>) {
        let before = self.problems.len();
        self.problems
            .splice(0..0, failures.into_iter().map(blocking));
        if self.problems.len() > before && self.state != SchemaState::InDoubt {
            self.state = SchemaState::Diverged;
        }
    }
}

/// Compares.
pub(crate) fn assess(catalog: &MigrationSet, rows: &[MigrationRow]) -> Assessment {
    let applied: BTreeMap<&Version, &MigrationRow> = rows
        .iter()
        .filter(|row| row.is_applied())
        .map(|row| (&row.version, row))
        .collect();
    let pending: Vec<&Migration> = catalog
        .iter()
        .filter(|m| !applied.contains_key(&m.version))
        .collect();
    let unknown: Vec<Version> = applied
        .keys()
        .filter(|v| catalog.get(v).is_none())
        .map(|v| (*v).clone())
        .collect();

    let mut problems: Vec<SchemaProblem> = blocked(catalog, rows).map(blocking).collect();
    let newer = NewerVersions::new(catalog, &applied);
    problems.extend(
        pending
            .iter()
            .filter_map(|m| newer.out_of_order(m))
            .map(blocking),
    );
    // What is half applied goes on, although it may miss something of its session.
    let begun: BTreeSet<&Version> = rows
        .iter()
        .filter(|row| row.journal.is_some())
        .map(|row| &row.version)
        .collect();
    let stops = |m: &&Migration| {
        catalog
            .unfit(&m.version)
            .filter(|why| why.reason != Reason::LosesSession || !begun.contains(&m.version))
    };
    problems.extend(pending.iter().filter_map(stops).cloned().map(blocking));
    problems.extend(
        rows.iter()
            .filter_map(|row| changed(row, catalog))
            .map(blocking),
    );
    let elsewhere = || journal::half_applied_elsewhere(catalog, rows).map(blocking);
    if !pending.is_empty() {
        problems.extend(elsewhere());
    }
    let in_doubt = journal::in_doubt(rows).next().is_some();
    let state = match (
        problems.is_empty(),
        applied.is_empty(),
        pending.is_empty(),
        unknown.is_empty(),
    ) {
        _ if in_doubt => SchemaState::InDoubt,
        (false, ..) => SchemaState::Diverged,
        (_, true, false, _) => SchemaState::Empty,
        (_, _, false, _) => SchemaState::Behind,
        (_, _, true, false) => SchemaState::Ahead,
        (_, _, true, true) => SchemaState::Current,
    };
    if pending.is_empty() {
        problems.extend(elsewhere().map(|problem| SchemaProblem {
            blocking: false,
            ..problem
        }));
    }
    problems.extend(rows.iter().filter_map(|row| half_applied(row, catalog)));
    let is_lost = table_lost(rows).is_some();
    let reverted = |row: &&MigrationRow| {
        !is_lost && row.is_reverted_elsewhere() && !journal::is_contradicted(row)
    };
    problems.extend(rows.iter().filter(reverted).map(|row| SchemaProblem {
        reason: "REVERTED_ELSEWHERE",
        version: row.version.to_string(),
        message: format!(
            "schemad applied {} and something else has taken it out of the Diesel table; the next \
             operation will note that",
            row.version
        ),
        blocking: false,
        outcomes: Vec::new(),
    }));
    Assessment {
        state,
        current: applied.keys().next_back().map(|v| (*v).clone()),
        applied: applied.len(),
        pending: pending.iter().map(|m| m.version.clone()).collect(),
        unknown,
        problems,
    }
}

/// Refuses to take a Diesel's table for the truth that has none of the migrations which the ledger
/// lists as applied: it was dropped, renamed, emptied or left out of a restore, and perhaps begun
/// anew, more probably than everything was reverted by another program.
pub(super) fn table_lost(rows: &[MigrationRow]) -> Option<PlanRefusal> {
    let listed: Vec<&MigrationRow> = rows
        .iter()
        .filter(|row| row.is_reverted_elsewhere() && !journal::is_contradicted(row))
        .collect();
    let is_lost = !listed.is_empty()
        && !rows
            .iter()
            .any(|row| row.is_applied() && row.recorded.is_some());
    is_lost.then_some(PlanRefusal::DieselTableLost {
        listed: listed.len(),
    })
}

/// Why nothing may be applied.
pub(super) fn blocked<'a>(
    catalog: &'a MigrationSet,
    rows: &'a [MigrationRow],
) -> impl Iterator<Item = PlanRefusal> + 'a {
    table_lost(rows)
        .into_iter()
        .chain(journal::in_doubt(rows))
        .chain(journal::contradicted(rows))
        .chain(journal::half_reverted(rows))
        .chain(edited(catalog, rows))
}

/// An up that is not one transaction and ended before its last statement.
fn half_applied(row: &MigrationRow, catalog: &MigrationSet) -> Option<SchemaProblem> {
    let journal = row
        .journal
        .as_ref()
        .filter(|journal| journal.direction == Direction::Up && !row.is_applied())?;
    let in_doubt = journal.running.as_ref().is_some_and(|part| part.in_doubt);
    if in_doubt || catalog.get(&row.version).is_none() || changed(row, catalog).is_some() {
        return None; // said already, and no Apply goes on
    }
    Some(SchemaProblem {
        reason: "HALF_APPLIED",
        version: row.version.to_string(),
        message: format!(
            "the up of {} failed or was interrupted after {} of its statements or blocks; the next \
             Apply goes on from there. What did not run yet may be changed",
            row.version,
            journal.done.len()
        ),
        blocking: false,
        outcomes: Vec::new(),
    })
}

/// An up that ended before its last statement and was changed in what had run.
fn changed(row: &MigrationRow, catalog: &MigrationSet) -> Option<PlanRefusal> {
    row.journal
        .as_ref()
        .filter(|journal| journal.direction == Direction::Up && !row.is_applied())?;
    let m = catalog.get(&row.version)?;
    let parts = run_mode::parts(&m.name, &m.version, Direction::Up, &m.up).ok()?;
    journal::resume(Some(row), Direction::Up, &parts).err()
}

/// The applied migrations whose embedded up is no longer the one that ran.
pub(super) fn edited<'a>(
    catalog: &'a MigrationSet,
    rows: &'a [MigrationRow],
) -> impl Iterator<Item = PlanRefusal> + 'a {
    rows.iter()
        .filter(|row| row.is_applied())
        .filter_map(|row| {
            let (recorded, _) = row.recorded.as_ref()?.up?;
            let embedded = catalog.get(&row.version)?.up.checksum;
            (recorded != embedded).then(|| PlanRefusal::Edited {
                version: row.version.clone(),
                recorded,
                embedded,
            })
        })
}

/// The applied versions that a pending migration may be older than.
pub(super) struct NewerVersions<'a> {
    newest: Option<&'a Version>,
    /// Those that are not embedded, in order.
    unknown: Vec<&'a Version>,
    /// There are applied ones, and none of them is embedded.
    is_foreign: bool,
}

impl<'a> NewerVersions<'a> {
    pub(super) fn new(
        catalog: &MigrationSet,
        applied: &BTreeMap<&'a Version, &MigrationRow>,
    ) -> Self {
        let unknown: Vec<&Version> = applied
            .keys()
            .copied()
            .filter(|version| catalog.get(version).is_none())
            .collect();
        let is_foreign = !applied.is_empty() && unknown.len() == applied.len();
        Self {
            newest: applied.keys().next_back().copied(),
            unknown,
            is_foreign,
        }
    }

    /// Why a pending migration may not simply be applied: something newer is, or nothing that is
    /// applied belongs to the same set.
    pub(super) fn out_of_order(&self, pending: &Migration) -> Option<PlanRefusal> {
        let pending = pending.version.clone();
        match self
            .unknown
            .get(self.unknown.partition_point(|version| **version < pending))
        {
            Some(applied) => Some(PlanRefusal::UnknownNewer {
                pending,
                applied: (*applied).clone(),
            }),
            None if self.is_foreign => Some(PlanRefusal::ForeignSet {
                pending,
                applied: self.unknown.len(),
            }),
            None => self
                .newest
                .filter(|newest| **newest >= pending)
                .map(|newest| PlanRefusal::OutOfOrder {
                    applied: newest.clone(),
                    pending,
                }),
        }
    }
}

/// A refusal, as a problem.
fn blocking(refusal: impl Into<Failure>) -> SchemaProblem {
    let mut failure = refusal.into();
    SchemaProblem {
        reason: failure.reason.as_str(),
        version: failure.metadata.remove("version").unwrap_or_default(),
        outcomes: ResolveOutcome::of_list(&failure.metadata.remove("resolve").unwrap_or_default()),
        message: failure.message,
        blocking: true,
    }
}
